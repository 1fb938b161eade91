"""Check the plan against a simulated device that keeps tensors as PyTorch does."""

import copy
import weakref

import numpy as np
import pytest
import torch
from parts import make_adamw, make_ast, make_batch, make_engine, make_lars, make_vcr
from torch import nn

from vcrast.config.compose import compose
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.objectives.base import Objective
from vcrast.training.exact import Split, exact_backward, num_recomputed
from vcrast.training.plan import GIB, CudaMemory, Footprint, Plan, choose, line, measure, pending_state, plan_step

BATCH = 48
FIXED, PER_CLIP, SCRATCH, LOSS, FRONT_END = 100, 10, 3, 40, 200  # simulated bytes of a graph, and beside it


class SimulatedMemory:
    """Counts bytes from the creation of a block to the end of its tensor's storage."""

    def __init__(self, capacity=10**9):
        self.size, self.now, self.highest = capacity, 0, 0

    def block(self, num_bytes):
        if self.now + num_bytes > self.size:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        array = np.zeros(num_bytes, dtype=np.uint8)
        self.now += num_bytes
        self.highest = max(self.highest, self.now)
        weakref.finalize(array, self.free, num_bytes)
        return torch.from_numpy(array)  # its storage keeps the array alive

    def free(self, num_bytes):
        self.now -= num_bytes

    def capacity(self):
        return self.size

    def allocated(self):
        return self.now

    def reset_peak(self):
        self.highest = self.now

    def peak(self):
        return self.highest

    def release(self):
        pass


class Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, ballast, memory):
        ctx.save_for_backward(ballast)
        ctx.memory = memory
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        (ballast,) = ctx.saved_tensors
        scratch = ctx.memory.block((len(ballast) - FIXED) // PER_CLIP * SCRATCH)
        return gradient + 0 * scratch.sum(), None, None


class Simulated(Objective):
    """An objective whose encoder's graph, backward, loss and front end take the bytes named above."""

    gathered = ("vector",)

    def __init__(self, memory):
        nn.Module.__init__(self)
        self.memory = memory
        self.encoder = nn.Linear(3, 4)
        self.head = nn.BatchNorm1d(4)

    def prepare(self, batch, draws):
        self.memory.block(FRONT_END)
        return {"a": batch.wav[:, :3]}

    def represent(self, inputs):
        vectors = self.encoder(inputs["a"])
        return {"vector": Hold.apply(vectors, self.memory.block(FIXED + PER_CLIP * len(vectors)), self.memory)}

    def batch_losses(self, outputs):
        self.memory.block(LOSS)
        return {"loss": self.head(outputs["vector"]).square().mean()}


def parts(capacity=10**9, objective=Simulated):
    memory = SimulatedMemory(capacity)
    module = objective(memory)
    engine = make_engine(module, make_lars(module))
    return engine, module, make_batch(torch.randn(BATCH, 5)), Draws(0, 0, BATCH), memory


def test_measures_what_the_pieces_take():
    *step, memory = parts()
    found = measure(*step, memory)
    state = sum(4 * weight.numel() for weight in step[1].parameters())  # one momentum, not yet made
    assert found == Footprint(
        base=LOSS + state, run_fixed=FIXED, run_per_clip=PER_CLIP + SCRATCH, graph_fixed=FIXED, graph_per_clip=PER_CLIP,
        front_end=FRONT_END,
    )  # fmt: skip


def test_the_trial_leaves_no_trace():
    engine, module, *rest, memory = parts()
    before = copy.deepcopy(module.state_dict())
    plan_step(engine, module, *rest, micro_batch_size=None, memory=memory)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(weight.grad is None for weight in module.parameters())
    assert memory.now == 0
    assert not engine.bad_loss
    assert engine.num_steps == 0


@pytest.mark.parametrize(("size", "kept"), [(1, 0), (6, 0), (6, 1), (6, 2), (6, 5), (6, 8), (7, 3), (48, 0)])
def test_prediction_holds_for_cuts_that_were_not_tried(size, kept):
    *step, memory = parts()
    footprint = measure(*step, memory)
    step[0].undo_backward()
    memory.reset_peak()
    exact_backward(*step, Split(size, kept))
    predicted = footprint.peak(Split(size, kept)) - footprint.base + LOSS  # the optimiser's state is not simulated
    # Above the truth by the loss at most, which is not scored while a graph is made, and by what is missing in a last
    # micro-batch that is smaller than the others.
    missing = (size - BATCH % size) * (PER_CLIP + SCRATCH) if kept and BATCH % size else 0
    assert max(predicted - LOSS - missing, FRONT_END) <= memory.peak() <= max(predicted, FRONT_END)


def test_every_capacity_is_used_and_never_exceeded(caplog):
    recomputed = []
    for capacity in range(400, 1000, 30):
        *step, memory = parts(capacity)
        plan = plan_step(*step, micro_batch_size=None, memory=memory)
        assert exact_backward(*step, plan.split).split == plan.split
        assert plan.predicted_bytes <= 0.9 * capacity
        recomputed.append(num_recomputed(BATCH, *plan.split))
    assert recomputed == sorted(recomputed, reverse=True)
    assert recomputed[0] >= 36
    assert recomputed[-1] == 0
    assert len(set(recomputed)) >= 4
    assert "out of memory" not in caplog.text


@pytest.mark.parametrize(("share", "expected"), [(1.0, 9), (0.5, 8), (0.25, 4)])
def test_capacity_is_what_is_free_or_the_processs_share(monkeypatch, share, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (6 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)  # ours: counts as available
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
    assert CudaMemory(torch.device("cuda")).capacity() == expected * GIB


@pytest.mark.gpu
@pytest.mark.parametrize("share", [0.3, 0.6, 2.0])
def test_prediction_on_the_gpu(share, caplog):
    engine, objective, batch, draws = real_step()
    memory = CudaMemory(torch.device("cuda"))
    whole = plan_step(engine, objective, batch, draws, micro_batch_size=len(batch.wav), memory=memory)
    memory.capacity = lambda: int(share * whole.predicted_bytes / 0.9)
    plan = plan_step(engine, objective, batch, draws, micro_batch_size=None, memory=memory)
    assert (plan.extra_compute == 0) == (share > 1)
    exact_backward(engine, objective, batch, draws, plan.split)
    engine.step(1e-4)
    memory.reset_peak()
    exact_backward(engine, objective, batch, draws, plan.split)
    assert 0.7 * plan.predicted_bytes < memory.peak() < 1.05 * plan.predicted_bytes
    assert "out of memory" not in caplog.text


def real_step():
    """A model of some 100 MB of activations a clip, on the GPU in fp16."""
    encoder = make_ast(
        embed_dim=384, depth=6, num_heads=6, mlp_ratio=4.0, patch_size=[16, 16], num_frames=512, num_mel_bins=128,
        attention={"name": "memory_efficient", "module": "vcrast.models.attention_memory_efficient", "kernel": "auto"},
    )  # fmt: skip
    views = Views(Fbank(sample_rate=16000), **vars(compose(["views=none"]).views))
    objective = make_vcr(encoder, views, [1024] * 3).cuda().train()
    engine = make_engine(objective, precision="fp16", device="cuda", clip_grad_norm=1.0)
    wavs = torch.randn(64, 400 + 511 * 160, device="cuda") * 0.1
    return engine, objective, make_batch(wavs), Draws(0, 0, 64, device="cuda")


def test_least_recomputation_wins_then_the_largest_micro_batch():
    free = Footprint(base=0, run_fixed=0, run_per_clip=10, graph_fixed=0, graph_per_clip=10)
    assert choose(free, 96, 960) == (96, 0)  # whole
    assert choose(free, 96, 959) == (8, 11)  # only 8 clips run twice
    assert choose(free, 96, 480) == (48, 1)  # half kept, whether as 1 of 2 or as 6 of 12: the largest
    assert choose(free, 96, 50) == (5, 1)  # below the usual smallest size, because nothing else fits
    assert choose(free, 96, 5) == (1, 0)  # nothing fits: the step will say so
    with_casts = Footprint(base=0, run_fixed=50, run_per_clip=10, graph_fixed=50, graph_per_clip=10)
    assert choose(with_casts, 96, 600) == (48, 1)  # each kept graph holds a copy of the weights: fewer, larger ones
    assert choose(free, 96, 480, asked=10) == (10, 4)
    assert choose(free, 96, 480, can_keep=False) == (48, 0)


def test_losses_of_single_clips_are_only_cut():
    class OfClips(Simulated):
        gathered = ()

        def clip_losses(self, outputs):
            return {"loss": outputs["vector"].square().mean(dim=1)}

    *step, memory = parts(500, OfClips)
    plan = plan_step(*step, micro_batch_size=None, memory=memory)
    assert plan.split.num_kept_graphs == 0
    assert plan.extra_compute == 0
    assert 1 < plan.split.micro_batch_size < BATCH


def test_a_trial_that_does_not_fit_is_repeated_with_fewer_clips(caplog):
    *step, memory = parts(FIXED + (PER_CLIP + SCRATCH) * 3)  # the first trials are of 2 and 4 clips
    assert plan_step(*step, micro_batch_size=None, memory=memory).split.micro_batch_size == 1
    *step, memory = parts(FIXED)
    plan = plan_step(*step, micro_batch_size=None, memory=memory)
    assert plan.split == (1, 0)
    assert "could not be measured" in caplog.text


def test_other_errors_of_the_trial_are_shown():
    engine, module, *rest, memory = parts()
    module.encoder = nn.Linear(2, 4)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        plan_step(engine, module, *rest, micro_batch_size=None, memory=memory)


def test_without_a_reading_the_whole_batch_runs_at_once():
    *step, _ = parts()
    plan = plan_step(*step, micro_batch_size=None, memory=None)
    assert plan.split == (BATCH, 0)
    assert plan.text() == "48 clips at once; memory not measured; 0% extra compute"
    assert plan_step(*step, micro_batch_size=100, memory=None).split.micro_batch_size == BATCH
    assert "4 micro-batches of 12, 0 of which" in plan_step(*step, micro_batch_size=12, memory=None).text()


def test_extra_compute_by_hand():
    assert Plan(96, Split(96)).extra_compute == 0
    assert Plan(96, Split(24, 0)).extra_compute == pytest.approx(1 / 3)
    assert Plan(96, Split(24, 1)).extra_compute == pytest.approx((1 - 1 / 4) / 3)
    assert Plan(11, Split(4, 1)).extra_compute == pytest.approx(8 / 11 / 3)  # the last one has 3 clips only
    text = Plan(96, Split(24, 2), True, round(12.34 * GIB), 15 * GIB).text()
    assert text == (
        "96 clips in 4 micro-batches of 24, 2 of which keep their graph; 12.3 of 15.0 GiB predicted; 17% extra compute"
    )


def test_pending_state_of_the_optimiser():
    module = nn.Linear(10, 7)
    for build, tensors in ((make_adamw, 2), (make_lars, 1)):
        optimizer = build(module)
        assert pending_state(optimizer) == tensors * 4 * 77
        module(torch.ones(1, 10)).sum().backward()
        optimizer.step()
        assert pending_state(optimizer) == 0


def test_line_through_two_points():
    assert line(2, 120, 4, 140) == (100, 10)
    assert line(2, 120, 4, 110) == (120, 0)  # noise must not promise that more clips need less
    assert line(1, 30, 1, 30) == (0, 30)
