"""Compare gradients of a batch shared by processes with those of one."""

import copy
from unittest.mock import patch

import pytest
import torch
from parts import make_batch, make_engine
from ranks import in_ranks
from test_exact import COMPARING, MASKED, assert_same_step, make_objective, relative_error
from test_exact_memory import FullMemory
from torch import distributed, nn

from vcrast.features.draws import Draws
from vcrast.training import exact
from vcrast.training.dist import gather_rows, rank, rank_slice, world_size
from vcrast.training.exact import Split, exact_backward
from vcrast.training.reduce import BUCKET_BYTES, GradientAverage, in_buckets

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("exact ranks")]  # what its processes found is shared
BATCH = 12
EIGHT_VIEWS = [kind for kind in COMPARING if "eight" in kind]
LABELS = torch.eye(3)[torch.arange(BATCH) % 3]


def step_of(objective, size=None, *, kept=0, labels=None, alter=None, bucket_bytes=BUCKET_BYTES, step=3):
    """Gradients, outcome and buffers of one step of this process's part of the batch."""
    objective = copy.deepcopy(objective).train()
    if alter is not None:
        alter(objective)
    engine = make_engine(objective)
    engine.gradients = GradientAverage(engine.parameters, bucket_bytes=bucket_bytes)
    mine = rank_slice(BATCH)
    clips = slice(mine.start, mine.stop)
    wavs = (torch.randn(BATCH, 3000, generator=torch.Generator().manual_seed(1)) * 0.1)[clips]
    draws = Draws(5, step, BATCH, start=mine.start, stop=mine.stop)
    batch = make_batch(wavs, None if labels is None else labels[clips])
    outcome = exact_backward(engine, objective, batch, draws, Split(size, kept))
    gradients = {name: weight.grad for name, weight in objective.named_parameters() if weight.requires_grad}
    return gradients, outcome, dict(objective.named_buffers())


def renamed(step):
    """Names of a step whose encoder sat inside a `FullMemory`, without its own counter."""
    gradients, outcome, buffers = step
    names = [
        {key.replace("encoder.encoder", "encoder"): value for key, value in x.items()} for x in (gradients, buffers)
    ]
    return names[0], outcome, {key: value for key, value in names[1].items() if not key.endswith("encoder.calls")}


def short_of_memory(place, fails_in_backward, fits=2 * 2):
    def alter(objective):
        full = fits if rank() == place else 1000
        objective.objective.encoder = FullMemory(objective.objective.encoder, full, fails_in_backward)

    return alter


CUTS = [(None, 0), (1, 0), (2, 0), (3, 0), (4, 1), (2, 2)]


def steps():
    """Steps in many ways, all of the same batch."""
    vcr, supervised, toy = make_objective(), make_objective("supervised"), make_objective("toy")
    found = {("vcr", *cut): step_of(vcr, cut[0], kept=cut[1]) for cut in CUTS}
    found |= {("supervised", size): step_of(supervised, size, labels=LABELS) for size in (None, 1, 3)}
    found |= {("toy", *cut): step_of(toy, cut[0], kept=cut[1]) for cut in CUTS}
    found |= {(kind,): step_of(make_objective(kind), 3) for kind in (*MASKED, *EIGHT_VIEWS)}
    # Buckets of a single tensor, and of a few.
    found |= {("vcr", "bucket", size): step_of(vcr, 2, bucket_bytes=size) for size in (1, 20_000)}
    for fails_in_backward in (False, True):
        alter = short_of_memory(world_size() - 1, fails_in_backward)
        found["memory", fails_in_backward] = renamed(step_of(vcr, 4, alter=alter))
        alter = short_of_memory(0, fails_in_backward, fits=2)
        found["toy memory", fails_in_backward] = renamed(step_of(toy, 4, alter=alter))
    return found


def everything():
    """All that is asked of the processes below: starting them takes longest."""
    return {"steps": steps(), "wrong ways": wrong_ways(), "bad steps": bad_steps()}


@pytest.fixture(scope="module", params=[2, 3])
def shared(request, tmp_path_factory):
    return in_ranks(request.param, everything, folder=tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    return {
        "vcr": step_of(make_objective()),
        "memory": step_of(make_objective()),
        "toy": step_of(make_objective("toy")),
        "toy memory": step_of(make_objective("toy")),
        "supervised": step_of(make_objective("supervised"), labels=LABELS),
        **{kind: step_of(make_objective(kind)) for kind in (*MASKED, *EIGHT_VIEWS)},
    }


def test_every_cut_gives_the_whole_batchs_gradient(shared, alone):
    for found in shared:
        for (what, *_), step in found["steps"].items():
            assert_same_step(step, alone[what])


def test_all_processes_cut_alike_after_one_ran_out_of_memory(shared):
    for found in shared:
        for fails_in_backward in (False, True):
            assert found["steps"]["memory", fails_in_backward][1].split.micro_batch_size == 2
            assert found["steps"]["toy memory", fails_in_backward][1].split.micro_batch_size == 2


def wrong_ways():
    """Four ways to share a batch that run without complaint."""
    objective = make_objective()
    errors = {}
    with patch.object(exact, "gather_clips", lambda vectors: vectors):
        errors["each process scores its own clips"] = step_of(objective)[0]

    def gather_detached(vectors):
        parts = gather_all(vectors.detach())
        parts[rank()] = vectors
        return torch.cat(parts)

    with patch.object(exact, "gather_clips", gather_detached):
        errors["others' vectors without gradient, averaged"] = step_of(objective)[0]

    with patch.object(exact, "gather_clips", summed):
        errors["gradients added up, then averaged after"] = step_of(objective)[0]

    # BatchNorm of the local clips: the projector before the gather, as in the authors' code without SyncBatchNorm.
    local = copy.deepcopy(objective)
    original = type(local.objective).batch_losses

    def batch_losses(self, outputs):
        share = rank_slice(BATCH)
        projected = {name: exact.gather_clips(self.projector(value[share.start : share.stop])) for name, value in
                     outputs.items()}  # fmt: skip
        with patch.object(self, "projector", nn.Identity()):
            return original(self, projected)

    with patch.object(type(local.objective), "batch_losses", batch_losses):
        errors["BatchNorm of each process's clips"] = step_of(local)[0]
    return errors


def gather_all(vectors):
    parts = [torch.empty_like(vectors) for _ in range(world_size())]
    distributed.all_gather(parts, vectors.contiguous())
    return parts


class Summed(torch.autograd.Function):
    """A gather that sums the processes' gradients on top of the factor that their average needs."""

    @staticmethod
    def forward(ctx, own):
        ctx.size = len(own)
        return torch.cat(gather_all(own))

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        first = rank() * ctx.size
        return gradient[first : first + ctx.size] * world_size()


def summed(vectors):
    return Summed.apply(vectors)


def test_the_ways_to_get_it_silently_wrong_are_wrong(shared, alone):
    expected = alone["vcr"][0]
    encoder = {name: value for name, value in expected.items() if "encoder" in name}
    processes = len(shared)
    for found in (results["wrong ways"] for results in shared):
        for way, gradients in found.items():
            assert relative_error({name: gradients[name] for name in encoder}, encoder) > 0.2, way
        # What a wrong factor does exactly: on two processes half the encoder's gradient, or twice it.
        factors = {"others' vectors without gradient, averaged": 1 / processes}
        factors["gradients added up, then averaged after"] = processes
        for way, factor in factors.items():
            scaled = {name: value * factor for name, value in encoder.items()}
            assert relative_error({name: found[way][name] for name in encoder}, scaled) < 1e-10, way


def bad_steps():
    """A loss that is not finite on one process only; weights before and after, and what an exchange costs."""
    objective = make_objective("supervised")
    engine = make_engine(objective, clip_grad_norm=1.0)
    before = [weight.detach().clone() for weight in engine.parameters]
    mine = rank_slice(BATCH)
    wavs = torch.randn(len(mine), 3000, generator=torch.Generator().manual_seed(rank())) * 0.1
    draws = Draws(5, 0, BATCH, start=mine.start, stop=mine.stop)
    labels = LABELS[mine.start : mine.stop] * (torch.nan if rank() == 1 else 1.0)
    calls = []
    original = distributed.all_reduce

    def counted(tensor, *arguments, **options):
        calls.append(tensor.numel())
        return original(tensor, *arguments, **options)

    with patch.object(distributed, "all_reduce", counted):
        exact_backward(engine, objective, make_batch(wavs, labels), draws, Split(1))
    skipped = bool(engine.step(lr=1.0).skipped)
    same = all(torch.equal(old, new) for old, new in zip(before, engine.parameters, strict=True))
    return (
        skipped,
        same,
        [number for number in calls if number > 100],
        sum(weight.numel() for weight in engine.parameters),
    )


def test_a_bad_loss_on_one_process_is_skipped_by_all_and_gradients_travel_once(shared):
    for skipped, same, sent, num_weights in (results["bad steps"] for results in shared):
        assert skipped
        assert same
        # Six micro-batches, one bucket, sent once.
        assert sent == [num_weights]


def test_buckets_hold_every_trainable_parameter_once_last_first():
    weights = [
        torch.zeros(n, requires_grad=n != 3, dtype=torch.float64 if n == 5 else torch.float32) for n in (4, 3, 5, 1, 2)
    ]
    assert [[w.numel() for w in bucket] for bucket in in_buckets(weights, 8)] == [[2], [1], [5], [4]]
    assert [[w.numel() for w in bucket] for bucket in in_buckets(weights, 12)] == [[2, 1], [5], [4]]
    assert GradientAverage(weights).buckets == []  # a single process sends nothing


def test_gathered_rows_of_one_process_are_its_own():
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows
