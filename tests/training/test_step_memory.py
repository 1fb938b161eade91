"""Check what a step never makes: a P x P matrix, or the views twice."""

import pytest
import torch
from parts import make_adamw, make_ast, make_batch, make_engine, make_lars, make_task, make_vcr
from shipped import shipped
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.variants import ThesisVCR
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.training import exact

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


def make(build=make_vcr, optimizer=make_adamw, precision="fp32"):
    views = Views(
        Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16)),
        **shipped(
            "views/none", time_stretch=[0.8, 1.2], roll=True, gain_db=6.0, freq_mask_bins=4, time_mask_frames=4,
            num_masks=1,
        ),
    )  # fmt: skip
    module = build(make_ast(depth=1), views, [24, 28, WIDTH]).train()
    engine = make_engine(module, optimizer(module), precision=precision, clip_grad_norm=1.0)
    return engine, module, make_batch(torch.randn(BATCH, 3000)), Draws(0, 0, BATCH)


def make_thesis_vcr(encoder, views, dims):
    options = shipped("objective/vcr", projector_dims=dims)
    return ThesisVCR(encoder=encoder, views=views, task=make_task(), **options)


def shapes_of_a_step(*made, micro):
    with Sizes() as sizes:
        exact.exact_backward(*made, exact.Split(micro))
        made[0].step(1e-3)
    return sizes.shapes


@pytest.mark.parametrize("micro", [None, 3])
@pytest.mark.parametrize("optimizer", [make_adamw, make_lars])
def test_no_square_of_the_projections_width(micro, optimizer):
    shapes = shapes_of_a_step(*make(optimizer=optimizer), micro=micro)
    assert (BATCH, BATCH) in shapes  # the clips' products instead
    assert not [shape for shape in shapes if shape.count(WIDTH) > 1]
    largest = max(28 * WIDTH, BATCH * WIDTH)
    assert not [shape for shape in shapes if WIDTH in shape and torch.Size(shape).numel() > largest]


def test_the_square_would_be_seen():
    assert (WIDTH, WIDTH) in shapes_of_a_step(*make(make_thesis_vcr), micro=None)


def test_a_micro_batch_copies_its_own_clips_and_no_more():
    _, module, batch, draws = make()
    inputs = module.prepare(batch, draws)
    assert {name: value.shape for name, value in inputs.items()} == dict.fromkeys("ab", (BATCH, 17, 16))
    assert exact.clips_of(inputs, slice(2, 4))["a"].data_ptr() == inputs["a"][2].data_ptr()


def test_under_autocast_no_graph_keeps_the_views_in_fp32():
    engine, module, batch, draws = make(precision="bf16")
    inputs = exact.clips_of(module.prepare(batch, draws), slice(0, 3))
    kept = []

    def pack(value):
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), engine.autocast():
        module.represent(inputs)
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
    exact.exact_backward(*make(), exact.Split(3))
    assert len(shown) == 3
    assert all(shown)
