"""What a step may not make: a P x P matrix besides the weights, or the views a second time."""

import pytest
import torch
from shipped import shipped
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.variants import ThesisVCR
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.ast import Encoder
from vcrast.objectives.vcr import VCR
from vcrast.training import exact
from vcrast.training.engine import TorchEngine
from vcrast.training.optim import adamw, lars

BATCH, WIDTH = 7, 36  # fewer clips than dimensions; the widths before the last differ, so no weight is square


class Sizes(TorchDispatchMode):
    """Notes the shape of every tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(value.shape) for value in tree_leaves(found) if isinstance(value, torch.Tensor)}
        return found


def make(objective=VCR, optimizer=adamw, precision="fp32"):
    encoder = Encoder(
        embed_dim=16, depth=1, num_heads=2, mlp_ratio=2.0, patch_size=[4, 8], num_mel_bins=16, num_frames=18,
        attention={"name": "softmax"}, linear={"name": "real"},
    )  # fmt: skip
    views = Views(
        Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16)),
        time_stretch=[0.8, 1.2], roll=True, gain_db=6.0,
        background_probability=0.0, background_snr_db=[5.0, 20.0], freq_mask_bins=4, time_mask_frames=4, num_masks=1,
        noise_std=0.0, patch_drop=0.0, patch_drop_mode="drop",
    )  # fmt: skip
    module = objective(encoder=encoder, views=views, projector_dims=[24, 28, WIDTH]).train()
    engine = TorchEngine(
        module,
        optimizer(module, **shipped(f"optim/{optimizer.__name__}", lr=1e-3)),
        precision=precision,
        device="cpu",
        clip_grad_norm=1.0,
    )
    return engine, module, torch.randn(BATCH, 3000), None, Draws(0, 0, BATCH)


def shapes_of_a_step(*made, micro):
    with Sizes() as sizes:
        exact.exact_backward(*made, micro_batch_size=micro)
        made[0].step(1e-3)
    return sizes.shapes


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("optimizer", [adamw, lars])
def test_no_square_of_the_projections_width(micro, optimizer):
    shapes = shapes_of_a_step(*make(optimizer=optimizer), micro=micro)
    assert (BATCH, BATCH) in shapes  # the clips' products instead
    assert not [shape for shape in shapes if shape.count(WIDTH) > 1]
    largest = max(28 * WIDTH, BATCH * WIDTH)
    assert not [shape for shape in shapes if WIDTH in shape and torch.Size(shape).numel() > largest]


def test_the_square_would_be_seen():
    assert (WIDTH, WIDTH) in shapes_of_a_step(*make(ThesisVCR), micro=None)


def test_the_views_exist_once():
    _, module, wavs, _, draws = make()
    inputs = module.prepare(wavs, draws)
    assert inputs.fbank.shape == (2, BATCH, 17, 16)
    assert inputs.fbank.untyped_storage().nbytes() == 2 * BATCH * 17 * 16 * 4
    # The whole batch reads them in place; a micro-batch copies its own clips and no more.
    whole, _, _ = inputs.part(slice(0, BATCH))
    assert whole.data_ptr() == inputs.fbank.data_ptr()
    few, _, _ = inputs.part(slice(2, 4))
    assert few.untyped_storage().nbytes() == 2 * 2 * 17 * 16 * 4


def test_under_autocast_no_graph_keeps_the_views_in_fp32():
    engine, module, wavs, _, draws = make(precision="bf16")
    inputs = module.prepare(wavs, draws)
    kept = []

    def pack(value):
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), engine.autocast():
        module.represent(inputs, slice(0, 3))
    pictures = [value for value in kept if value.shape[-2:] == (17, 16)]
    assert [value.dtype for value in pictures] == [torch.bfloat16]


def test_micro_batches_show_checkpoint_a_tensor_of_their_device(monkeypatch):
    # It replays the random generators of those devices only: with none, dropout on a GPU would differ when recomputed.
    shown = []

    def watched(function, *arguments, **options):
        shown.append([leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)])
        return checkpoint(function, *arguments, **options)

    checkpoint = exact.checkpoint
    monkeypatch.setattr(exact, "checkpoint", watched)
    exact.exact_backward(*make(), micro_batch_size=3)
    assert len(shown) == 3
    assert all(shown)
