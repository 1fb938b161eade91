import copy

import pytest
import torch
from torch import nn

from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.encoder import Encoder
from vcrast.objectives.supervised import Supervised
from vcrast.objectives.vcr import VCR
from vcrast.training.engine import TorchEngine
from vcrast.training.exact import exact_backward, micro_batches
from vcrast.training.optim import adamw

BATCH = 11
SCALE = 2.0**8  # of the loss in fp16: at the usual first 2 ** 16 these large weights overflow


def make_views(**options):
    settings = {
        "time_stretch": [0.8, 1.2], "roll": True, "gain_db": 6.0, "background_probability": 0.5,
        "background_snr_db": [5.0, 20.0], "freq_mask_bins": 4, "time_mask_frames": 4, "num_masks": 1, "noise_std": 0.1,
        "patch_drop": 0.5, "patch_drop_mode": "drop",
    }  # fmt: skip
    # Normalised by about a quiet noise's statistics, so that the encoder sees numbers of order 1.
    return Views(Fbank(sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0), **{**settings, **options})


def make_objective(kind="vcr", *, drop_path=0.3, views=None, dtype=torch.float64):
    torch.manual_seed(0)
    encoder = Encoder(
        embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0, patch_size=[4, 8], num_mel_bins=16, num_frames=18,
        positions="learned", drop_path=drop_path, attention={"name": "softmax"}, linear={"name": "real"},
    )  # fmt: skip
    if kind == "vcr":
        objective = VCR(encoder=encoder, views=make_views(**(views or {})), projector_dims=[12, 12, 20])
    else:
        objective = Supervised(encoder=encoder, views=make_views(**(views or {})), num_classes=3, multilabel=False)
    for name, weight in objective.named_parameters():
        if weight.ndim > 1 and "patch_embed" not in name:
            nn.init.normal_(weight, std=0.3)  # larger than the usual start: attention and MLP must matter
    return InFloat64(objective).to(dtype) if dtype == torch.float64 else objective


class InFloat64(nn.Module):
    """Hands the encoder its views in float64; the filterbank itself always computes in fp32."""

    def __init__(self, objective):
        super().__init__()
        self.objective = objective
        self.couples_clips = objective.couples_clips

    def prepare(self, wavs, draws):
        inputs = self.objective.prepare(wavs, draws)
        return inputs._replace(fbank=inputs.fbank.double())

    def represent(self, inputs, clips):
        return self.objective.represent(inputs, clips)

    def loss(self, vectors, labels=None):
        return self.objective.loss(vectors, labels)


def run(objective, micro_batch_size, *, precision="fp32", labels=None, step=3):
    """Gradients, outcome and buffers of one step from the objective's present weights."""
    objective = copy.deepcopy(objective).train()
    engine = TorchEngine(objective, adamw(objective, lr=1e-3), precision=precision, device="cpu", clip_grad_norm=None)
    if engine.loss_scale is not None:
        engine.loss_scale.scale.fill_(SCALE)
    wavs = torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1
    draws = Draws(5, step, BATCH)
    outcome = exact_backward(engine, objective, wavs, labels, draws, micro_batch_size=micro_batch_size)
    gradients = {name: weight.grad for name, weight in objective.named_parameters()}
    return gradients, outcome, dict(objective.named_buffers())


def relative_error(found, expected):
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return (difference / sum(value.square().sum() for value in expected.values())).sqrt().item()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("views", [{}, {"patch_drop": 0}, {"patch_drop_mode": "mask"}])
def test_every_micro_batch_size_gives_the_whole_batchs_gradient(size, views):
    objective = make_objective(views=views)
    whole, reference, buffers = run(objective, None)
    found, outcome, found_buffers = run(objective, size)
    assert outcome.micro_batch_size == size
    torch.testing.assert_close(outcome.loss, reference.loss, rtol=1e-12, atol=0)
    assert relative_error(found, whole) < 1e-10
    # Some gradients are zero in exact arithmetic, such as the keys' biases: judged by the size of the others.
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13 * largest)
    for name, part in reference.parts.items():
        torch.testing.assert_close(outcome.parts[name], part, rtol=1e-11, atol=1e-12)
    for name, buffer in buffers.items():
        torch.testing.assert_close(found_buffers[name], buffer, rtol=1e-12, atol=1e-14)


def test_running_statistics_are_updated_once_per_view():
    _, _, buffers = run(make_objective(), 4)
    assert buffers["objective.projector.layers.1.num_batches_tracked"] == 2


def naive_gradient(objective, size):
    """What adding up micro-batch losses gives: each micro-batch has statistics of its own."""
    objective = copy.deepcopy(objective).train()
    objective.couples_clips = False
    return run(objective, size)[0]


def test_naive_accumulation_is_wrong():
    objective = make_objective()
    whole, _, _ = run(objective, None)
    assert relative_error(run(objective, 4)[0], whole) < 1e-10
    naive = naive_gradient(objective, 4)
    assert relative_error(naive, whole) > 1  # 2.1 when this was written: further off than no gradient at all
    dot = sum((naive[name] * whole[name]).sum() for name in whole)
    lengths = [sum(value.square().sum() for value in each.values()).sqrt() for each in (naive, whole)]
    assert dot / (lengths[0] * lengths[1]) < 0.3  # 0.11: almost at a right angle


@pytest.mark.parametrize("size", [2, 4])
def test_a_loss_per_clip_is_accumulated_exactly(size):
    objective = make_objective("supervised")
    labels = torch.eye(3)[torch.arange(BATCH) % 3]
    whole, reference, _ = run(objective, None, labels=labels)
    found, outcome, _ = run(objective, size, labels=labels)
    assert relative_error(found, whole) < 1e-10
    torch.testing.assert_close(outcome.loss, reference.loss)
    torch.testing.assert_close(outcome.parts["cross_entropy"], reference.parts["cross_entropy"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_path_agrees_with_the_whole_batch(precision):
    objective = make_objective(dtype=torch.float32)
    whole, reference, _ = run(objective, None, precision=precision)
    found, outcome, _ = run(objective, 4, precision=precision)
    scale = SCALE if precision == "fp16" else 1
    exact, _, _ = run(objective, None)
    torch.testing.assert_close(outcome.loss, reference.loss, rtol=1e-3, atol=0)
    # Only rounding inside the encoder may differ, and it is of the size of the precision's own error.
    own_error = relative_error({name: value / scale for name, value in whole.items()}, exact)
    assert 0 < own_error < 0.1
    assert relative_error(found, whole) < 2 * own_error


def reach_through(self, name):
    try:
        return nn.Module.__getattr__(self, name)
    except AttributeError:
        return getattr(nn.Module.__getattr__(self, "encoder"), name)


def test_a_step_is_a_function_of_seed_and_step():
    objective = make_objective()
    torch.manual_seed(123)
    one = run(objective, 4)[0]
    torch.rand(10)
    assert relative_error(run(objective, 4)[0], one) == 0
    assert relative_error(run(objective, 4, step=4)[0], one) > 0.1


class WithDropout(nn.Module):
    """An encoder whose tokens are dropped at random by torch's own generator."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    __getattr__ = reach_through

    def forward(self, *inputs):
        return nn.functional.dropout(self.encoder(*inputs), 0.4)


def test_torchs_own_randomness_is_replayed_and_a_function_of_the_step():
    objective = make_objective()
    objective.objective.encoder = WithDropout(objective.objective.encoder)
    found, outcome, _ = run(objective, 4)
    torch.manual_seed(99)
    assert relative_error(run(objective, 4)[0], found) == 0
    assert relative_error(run(objective, 4, step=4)[0], found) > 0.1
    # Without recomputation: the same micro-batches one after the other, their graphs kept.
    draws = Draws(5, 3, BATCH)
    inputs = objective.prepare(torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1, draws)
    torch.manual_seed(draws.torch_seed())
    vectors = torch.cat([objective.represent(inputs, clips) for clips in micro_batches(BATCH, 4)], dim=1)
    loss, _ = objective.loss(vectors)
    loss.backward()
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-12, atol=0)
    assert relative_error(found, {name: weight.grad for name, weight in objective.named_parameters()}) < 1e-12


class FullMemory(nn.Module):
    """An encoder that runs out of memory for more than `fits` views at once, in the forward or when recomputed."""

    def __init__(self, encoder, fits, fail_in_backward=False):
        super().__init__()
        self.encoder, self.fits, self.fail_in_backward = encoder, fits, fail_in_backward
        self.register_buffer("calls", torch.zeros(()))

    __getattr__ = reach_through

    def forward(self, fbank, *rest):
        self.calls += 1
        tokens = self.encoder(fbank, *rest)
        if len(fbank) <= self.fits:
            return tokens
        if self.fail_in_backward:
            tokens.register_hook(out_of_memory)
            return tokens
        return out_of_memory(None)


def out_of_memory(_):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("fail_in_backward", [False, True])
def test_out_of_memory_halves_and_repeats_the_same_step(fail_in_backward, caplog):
    objective = make_objective()
    expected, reference, _ = run(objective, 3)
    objective.objective.encoder = FullMemory(objective.objective.encoder, 2 * 4, fail_in_backward)
    found, outcome, buffers = run(objective, None)
    assert outcome.micro_batch_size == 3  # 11, 6, 3
    assert "micro_batch_size=6" in caplog.text
    assert "micro_batch_size=3" in caplog.text
    found = {name.replace("encoder.encoder", "encoder"): gradient for name, gradient in found.items()}
    assert relative_error(found, expected) < 1e-12
    torch.testing.assert_close(outcome.loss, reference.loss)
    # Both failed tries were undone: only the counts of the last one are left, BatchNorm's among them.
    assert buffers["objective.projector.layers.1.num_batches_tracked"] == 2
    assert buffers["objective.encoder.calls"] == 2 * len(micro_batches(BATCH, 3))


def test_out_of_memory_with_one_clip_says_what_to_do():
    objective = make_objective()
    objective.objective.encoder = FullMemory(objective.objective.encoder, 0)
    with pytest.raises(torch.OutOfMemoryError, match="smaller model"):
        run(objective, None)


def test_other_errors_are_not_taken_for_memory():
    objective = make_objective()
    objective.objective.encoder.forward = lambda *_: torch.zeros(1, 2) @ torch.zeros(3, 4)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(objective, None)


def test_micro_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="micro_batch_size=0"):
        run(make_objective(), 0)


def test_uneven_parts():
    assert micro_batches(11, 4) == [slice(0, 4), slice(4, 8), slice(8, 11)]
