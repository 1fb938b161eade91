"""Take the same steps under both engines in each process of a DeepSpeed test.

Imported by `test_engine_deepspeed.py` and by the processes that it starts.
"""

import copy
import io
import os
import socket
import traceback
from typing import NamedTuple

import torch
from parts import make_adamw, make_ast, make_batch, make_engine, make_joint, make_supervised, make_task, make_vcr
from shipped import shipped
from torch import multiprocessing
from toy import ToyMAE

from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.objectives.base import Objective
from vcrast.training.dist import process_group, rank, rank_slice
from vcrast.training.exact import Split, exact_backward


class Failed(NamedTuple):
    """An exception on its way to the test, as text: not every exception can be pickled."""

    kind: str
    message: str
    trace: str


BATCH = 12
LR = 3e-3
CPU = torch.device("cpu")


def in_processes(number, work, *arguments):
    """What `work(*arguments)` returns on each of several processes, joined as the launcher would join them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_process, args=(each, number, port, results, work, arguments)) for each in range(number)
    ]
    for process in processes:
        process.start()
    try:
        # Read before joining: a process does not end while its result waits in the pipe.
        found = dict(results.get(timeout=240) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=30)
            process.kill()
    return [torch.load(io.BytesIO(found[each]), weights_only=False) for each in range(number)]


def _process(number, world_size, port, results, work, arguments):
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with process_group(CPU, timeout_s=120, even_alone=True):
        try:
            result = work(*arguments)
        except Exception as error:
            result = Failed(type(error).__name__, str(error), traceback.format_exc())
        # As bytes: tensors in shared memory would be gone with this process.
        buffer = io.BytesIO()
        torch.save(result, buffer)
        results.put((number, buffer.getvalue()))


def make_objective(kind="vcr", mode="drop"):
    """A small objective, the same on every process: 2 blocks, learned positions, odd sizes."""
    torch.manual_seed(0)
    views = Views(
        Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0)),
        **shipped(
            "views/none", time_stretch=[0.8, 1.2], roll=True, gain_db=6.0, freq_mask_bins=4, time_mask_frames=4,
            num_masks=1, noise_std=0.1, patch_drop=0.5, patch_drop_mode=mode,
        ),
    )  # fmt: skip
    encoder = make_ast(embed_dim=18, positions="learned", drop_path=0.3)
    if kind == "vcr":
        return make_vcr(encoder, views, (13, 13, 21))
    if kind == "visreg":
        return make_joint(kind, encoder, views, (13, 21), teacher="ema", teacher_momentum=0.9)
    if kind == "toy":
        return ToyMAE(encoder=encoder, views=views, task=make_task())
    objective = make_supervised(encoder, views)
    if kind == "frozen":
        objective.freeze_encoder()
    return objective


def engine_of(name, objective, *, precision="fp32", clip=1.0, **options):
    # Gradients that are 0 but for rounding, as of a bias before BatchNorm, would decide on steps of full length if eps
    # were as small as usual.
    optimizer = make_adamw(objective, lr=LR, weight_decay=0.1, eps=1e-4, layer_decay=0.7, final_weight_decay=0.4)
    engine = make_engine(objective, optimizer, kind=name, precision=precision, clip_grad_norm=clip, **options)
    if engine.loss_scale is not None:
        engine.loss_scale.scale.fill_(2.0**6)  # at the usual 2 ** 16 these weights overflow in every step
    return engine


def train(engine, objective, steps, *, micro_batch_size=None, poison=None):
    """(loss, norm of the gradients, skipped) of each step; `poison`: the step whose input is not finite on rank 1."""
    log = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        wavs = torch.randn(BATCH, 3000, generator=generator) * 0.1
        labels = torch.eye(3)[torch.randint(3, (BATCH,), generator=generator)]
        mine = rank_slice(BATCH)
        wavs, labels = wavs[mine.start : mine.stop], labels[mine.start : mine.stop]
        if step == poison and rank() == 1:
            wavs = wavs * torch.inf
        draws = Draws(5, step, BATCH, start=mine.start, stop=mine.stop)
        outcome = exact_backward(engine, objective, make_batch(wavs, labels), draws, Split(micro_batch_size))
        stepped = engine.step(LR * (1 + step), step / 5)
        if objective.moves_weights:
            with engine.gathered_weights(write=True):
                objective.after_step((1 + step) / 5, stepped.skipped)
        log.append((float(outcome.loss), float(stepped.grad_norm), bool(stepped.skipped)))
    return log


def compare(cases):
    """For each (name, kind, precision, options): log, state, and sum of the weights that `gathered_weights` shows.

    Of the four steps the second has an input that is not finite on rank 1.
    """
    found = []
    for name, kind, precision, options in cases:
        objective = make_objective(kind)
        engine = engine_of(name, objective, precision=precision, **options)
        log = train(engine, objective, range(4), micro_batch_size=4, poison=1)
        with engine.gathered_weights():
            total = sum(weight.double().sum().item() for weight in objective.parameters())
            # As many forwards as this process likes: nobody waits for another.
            for _ in range(1 + rank()):
                objective.encoder(torch.zeros(1, 18, 16))
        found.append((log, engine.state_dict(), total))
    return found


def hopeless(stage):
    """Steps whose input on rank 1 is never finite; returns what ends them, and the weights before and after."""
    objective = make_objective()
    engine = engine_of("deepspeed", objective, zero_stage=stage)
    before = engine.state_dict()
    try:
        for step in range(10):
            train(engine, objective, [step], poison=step)
    except FloatingPointError as error:
        return str(error), engine.num_skipped, before, engine.state_dict()
    return "it never stopped", engine.num_skipped, before, engine.state_dict()


def go_on(name, options, state, steps, kind="vcr"):
    """State before and after some steps that start from another engine's state, or from the beginning."""
    objective = make_objective(kind)
    engine = engine_of(name, objective, **options)
    if state is not None:
        engine.load_state_dict(copy.deepcopy(state))
    before = copy.deepcopy(engine.state_dict())  # which hands out the living tensors where it can
    log = train(engine, objective, steps)
    return before, copy.deepcopy(engine.state_dict()), log


def several(arguments):
    """`go_on` with each of some arguments; the state `previous` is what the one before ended with."""
    found = []
    for name, options, state, steps, *kind in arguments:
        found.append(go_on(name, options, found[-1][1] if state == "previous" else state, steps, *kind))
    return found


class OutOfMemory(torch.autograd.Function):
    """Nothing; its backward is short of memory."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


class Tight(Objective):
    """An objective for which rank 1 lacks memory `where`: in the forward of more than 2 clips, or in the backward."""

    def __init__(self, inner, where):
        torch.nn.Module.__init__(self)
        self.inner, self.encoder, self.where = inner, inner.encoder, where
        self.gathered = inner.gathered

    def prepare(self, batch, draws):
        return self.inner.prepare(batch, draws)

    def represent(self, inputs):
        if self.where == "forward" and rank() == 1 and len(inputs["a"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        found = self.inner.represent(inputs)
        if self.where == "backward" and rank() == 1:
            found["a"] = OutOfMemory.apply(found["a"])
        return found

    def batch_losses(self, outputs):
        if self.where == "loss" and rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return self.inner.batch_losses(outputs)


def short_of_memory(where, stage):
    """Log of a step that is short of memory before anything was exchanged; then one that fails at a worse moment."""
    log = []
    for place in ("forward", where):
        objective = Tight(make_objective(), place)
        log += train(engine_of("deepspeed", objective, zero_stage=stage), objective, range(1))
        assert not log[0][2], "the repeated step was skipped"
    return log
