import copy

import pytest
import torch
from parts import (
    JOINT,
    make_ast,
    make_batch,
    make_engine,
    make_joint,
    make_masked,
    make_supervised,
    make_task,
    make_vcr,
)
from shipped import shipped
from torch import nn
from toy import ToyMAE

from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import build_views
from vcrast.models.ast import AST
from vcrast.objectives.base import Objective
from vcrast.training.exact import (
    Split,
    clips_of,
    exact_backward,
    micro_batches,
    next_smaller_split,
    num_recomputed,
)

BATCH = 11
SCALE = 2.0**8  # of the loss in fp16: at the usual first 2 ** 16 these large weights overflow


MASKED = {
    "ssast": {"masks": {"count": 5}},
    "ssast, two forwards": {"masks": {"sampler": "even", "count": 0.5}, "forwards": "two"},
    "mae_ast": {"masks": {"sampler": "paper", "by": "batch"}},
    "mae, windows": {"decoder": {**shipped("objective/mae")["decoder"], "depth": 2, "window": [2, 2]}},
}  # fmt: skip
"""Objectives that hide patches, with options of theirs; a name begins with the objective's."""


COLUMNS_AND_ROWS = {"drop": "time_frequency", "patch_drop": [0.6, 0.4]}
EIGHT = {"patch_drop": 0.25, "local": {"num": 6, "crop": 0.5, "crop_frequency": 0.5, "patch_drop": 0}}
COMPARING = {f"{name}, columns and rows": (COLUMNS_AND_ROWS, {}) for name in JOINT}
COMPARING |= {f"{name}, eight views, teacher": (EIGHT, {"teacher": "ema"}) for name in JOINT}
"""Objectives that compare views: (options of the views, of the objective)."""


def make_views(**options):
    settings = shipped(
        "views/none", time_stretch=[0.8, 1.2], roll=True, gain_db=6.0, background_probability=0.5, freq_mask_bins=4,
        time_mask_frames=4, num_masks=1, noise_std=0.1, patch_drop=0.5,
    )  # fmt: skip
    # Normalised by about a quiet noise's statistics, so that the encoder sees numbers of order 1.
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0))
    return build_views({**settings, **options}, fbank=fbank)


def make_objective(kind="vcr", *, drop_path=0.3, views=None, dtype=torch.float64):
    torch.manual_seed(0)
    encoder = make_ast(positions="learned", drop_path=drop_path)
    views = make_views(**(views or {}))
    if kind == "vcr":
        objective = make_vcr(encoder, views)
    elif kind == "supervised":
        objective = make_supervised(encoder, views)
    elif kind in COMPARING:
        own, options = COMPARING[kind]
        objective = make_joint(kind.partition(",")[0], encoder, make_views(**own), **options)
    elif kind in MASKED:
        objective = make_masked(kind.partition(",")[0], encoder, make_views(patch_drop=0), **MASKED[kind])
    else:
        objective = ToyMAE(
            encoder=encoder, views=make_views(patch_drop=0), task=make_task()
        )  # fmt: skip
    for name, weight in objective.named_parameters():
        if weight.ndim > 1 and "patch_embed" not in name:
            nn.init.normal_(weight, std=0.3)  # larger than the usual start: attention and MLP must matter
    return InFloat64(objective).to(dtype) if dtype == torch.float64 else objective


class InFloat64(Objective):
    """Hands the encoder its views in float64; the filterbank itself always computes in fp32."""

    def __init__(self, objective):
        nn.Module.__init__(self)
        self.objective = objective
        self.gathered = objective.gathered

    @property
    def encoder(self):
        return self.objective.encoder

    @encoder.setter
    def encoder(self, value):
        self.objective.encoder = value

    def prepare(self, batch, draws):
        inputs = self.objective.prepare(batch, draws)
        return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}

    def represent(self, inputs):
        return self.objective.represent(inputs)

    def clip_losses(self, outputs):
        return self.objective.clip_losses(outputs)

    def batch_losses(self, outputs):
        return self.objective.batch_losses(outputs)

    def after_step(self, progress, skipped):
        self.objective.after_step(progress, skipped)


def make_wavs():
    return torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1


def run(objective, micro_batch_size, *, kept=0, labels=None, step=3, **engine_options):
    """Gradients, outcome and buffers of one step from the objective's present weights."""
    objective = copy.deepcopy(objective).train()
    engine = make_engine(objective, **engine_options)
    if engine.loss_scale is not None:
        engine.loss_scale.scale.fill_(SCALE)
    batch, draws = make_batch(make_wavs(), labels), Draws(5, step, BATCH)
    outcome = exact_backward(engine, objective, batch, draws, Split(micro_batch_size, kept))
    gradients = {name: weight.grad for name, weight in objective.named_parameters() if weight.requires_grad}
    return gradients, outcome, dict(objective.named_buffers())


def relative_error(found, expected):
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return (difference / sum(value.square().sum() for value in expected.values())).sqrt().item()


def assert_same_step(one, other):
    """Gradients, loss, parts and buffers of a step, given and expected."""
    (found, outcome, found_buffers), (whole, reference, buffers) = one, other
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


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("views", [{}, {"patch_drop": 0}, {"patch_drop_mode": "mask"}])
def test_every_micro_batch_size_gives_the_whole_batchs_gradient(size, views):
    objective = make_objective(views=views)
    step = run(objective, size)
    assert step[1].split.micro_batch_size == size
    assert_same_step(step, run(objective, None))


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("kind", MASKED)
def test_masks_do_not_depend_on_the_micro_batch(kind, size):
    objective = make_objective(kind)
    assert_same_step(run(objective, size), run(objective, None))


@pytest.mark.parametrize(("size", "kept"), [(4, 1), (4, 2), (4, 3), (4, 9), (3, 1), (3, 2), (3, 3), (1, 7), (10, 1)])
def test_every_number_of_kept_graphs_gives_the_whole_batchs_gradient(size, kept):
    objective = make_objective()
    assert_same_step(run(objective, size, kept=kept), run(objective, None))


@pytest.mark.parametrize("size", [None, 4])
def test_checkpointed_blocks_give_the_same_gradient(size):
    objective = make_objective()
    expected = run(objective, None)
    calls = []
    objective.objective.encoder.blocks[0].attn.out.register_forward_hook(lambda *_: calls.append(1))
    assert_same_step(run(objective, size, kept=1, checkpoint_blocks=True), expected)
    # Each micro-batch but the last: once for the vectors, once for its graph, once for the block.
    assert len(calls) == (2 if size is None else 3 + 3 + 2)


def test_checkpointing_needs_an_encoder_that_can():
    module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"engine\.checkpoint_blocks=true: no encoder"):
        make_engine(module, checkpoint_blocks=True)


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [0, 1])
def test_dropout_on_the_gpu_is_replayed(kept):
    objective = make_objective(dtype=torch.float32).cuda()
    objective.encoder = WithDropout(objective.encoder)
    gradients = []
    for recompute in (True, False):
        engine = make_engine(objective, device="cuda")
        batch, draws = make_batch(make_wavs().cuda()), Draws(5, 3, BATCH, device="cuda")
        exact_backward(engine, objective, batch, draws, Split(4, kept if recompute else 3))
        gradients.append({name: weight.grad.clone() for name, weight in objective.named_parameters()})
        engine.optimizer.zero_grad()
    assert relative_error(*gradients) < 1e-4  # masks that are not replayed give 0.4


def test_kept_graphs_are_used_up_before_others_are_made_again():
    objective = make_objective()
    events = []

    def note(_, inputs, tokens):
        num_views = len(inputs[0])
        events.append(f"begin {num_views}")
        tokens.register_hook(lambda gradient: events.append(f"done {num_views}"))

    objective.objective.encoder.patch_embed.register_forward_hook(note)  # first in the forward, last in the backward
    run(objective, 4, kept=1)  # 4, 4 and 3 clips, of which each has two views
    assert events == ["begin 8", "begin 8", "begin 6", "done 6", *["begin 8", "done 8"] * 2]


def test_number_of_clips_that_run_twice():
    assert [num_recomputed(11, 4, kept) for kept in (0, 1, 2, 3, 4)] == [11, 8, 4, 0, 0]
    assert num_recomputed(11, 11, 0) == 0
    with pytest.raises(ValueError, match="num_kept_graphs=-1"):
        run(make_objective(), 4, kept=-1)


def test_the_next_smaller_split_gives_up_graphs_first():
    cut, seen = Split(12, 5), []
    while cut != (1, 0):
        cut = next_smaller_split(cut, 24, can_keep=True)
        seen.append(tuple(cut))
    assert seen == [(12, 2), (12, 1), (12, 0), (6, 1), (6, 0), (3, 1), (3, 0), (2, 1), (2, 0), (1, 1), (1, 0)]
    assert next_smaller_split(Split(12, 5), 24, can_keep=False) == (6, 0)
    assert next_smaller_split(Split(24, 5), 24, can_keep=True) == (12, 1)
    with pytest.raises(torch.OutOfMemoryError, match="checkpoint_blocks=true"):
        next_smaller_split(Split(1, 0), 24, can_keep=True)


def test_running_statistics_are_updated_once_per_view():
    _, _, buffers = run(make_objective(), 4)
    assert buffers["objective.projector.layers.1.num_batches_tracked"] == 2


class Naive(InFloat64):
    """Adds up the losses of micro-batches: each has statistics of its own."""

    def __init__(self, objective):
        super().__init__(objective)
        self.gathered = ()

    def clip_losses(self, outputs):
        losses = self.objective.batch_losses(outputs)
        return {name: value.expand(len(outputs["a"])) for name, value in losses.items()}


def test_naive_accumulation_is_wrong():
    objective = make_objective()
    whole, _, _ = run(objective, None)
    assert relative_error(run(objective, 4)[0], whole) < 1e-10
    naive = run(Naive(objective.objective), 4)[0]
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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_kept_graph_changes_no_bit(precision):
    objective = make_objective(dtype=torch.float32)
    again, kept = (run(objective, 4, kept=kept, precision=precision) for kept in (0, 2))
    assert torch.equal(again[1].loss, kept[1].loss)
    assert all(torch.equal(again[0][name], kept[0][name]) for name in again[0])


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [False, True])
def test_compiled_micro_batches_give_the_whole_batchs_gradient(blocks, monkeypatch):
    # Dynamo and the compiled backward, without the C++ compiler that the usual backend needs.
    monkeypatch.setattr(AST, "compile", lambda self: nn.Module.compile(self, backend="aot_eager"))
    objective = make_objective(dtype=torch.float32)
    whole, _, _ = run(objective, None)
    found, _, _ = run(objective, 4, kept=1, compile=True, checkpoint_blocks=blocks)
    assert relative_error(found, whole) < 1e-5


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

    def forward(self, *inputs, **options):
        tokens = self.encoder(*inputs, **options)
        return tokens._replace(values=nn.functional.dropout(tokens.values, 0.4))


def test_torchs_own_randomness_is_replayed_and_a_function_of_the_step():
    objective = make_objective()
    objective.objective.encoder = WithDropout(objective.objective.encoder)
    found, outcome, _ = run(objective, 4)
    torch.manual_seed(99)
    assert relative_error(run(objective, 4)[0], found) == 0
    assert relative_error(run(objective, 4, step=4)[0], found) > 0.1
    # Without recomputation: the same micro-batches one after the other, their graphs kept.
    draws = Draws(5, 3, BATCH)
    inputs = objective.prepare(make_batch(make_wavs()), draws)
    torch.manual_seed(draws.torch_seed())
    pieces = [objective.represent(clips_of(inputs, clips)) for clips in micro_batches(BATCH, 4)]
    loss = objective.batch_losses({name: torch.cat([piece[name] for piece in pieces]) for name in "ab"})["loss"]
    loss.backward()
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-12, atol=0)
    assert relative_error(found, {name: weight.grad for name, weight in objective.named_parameters()}) < 1e-12


def test_micro_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="micro_batch_size=0"):
        run(make_objective(), 0)


def test_uneven_parts():
    assert micro_batches(11, 4) == [slice(0, 4), slice(4, 8), slice(8, 11)]
