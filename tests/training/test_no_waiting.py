"""Check that a training step reads nothing back from the device.

On a GPU PyTorch itself reports such waits. On a CPU, where nothing has to be waited for, every call that would wait is
an error: reading a value, and operations whose result's size depends on values.
"""

import contextlib

import pytest
import torch
from parts import (
    JOINT,
    make_adamw,
    make_asit,
    make_ast,
    make_batch,
    make_doppelgangers,
    make_engine,
    make_joint,
    make_lars,
    make_masked,
    make_supervised,
    make_task,
)
from shipped import shipped
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from toy import ToyMAE

import extensions.audiopg.program  # noqa: F401  (registers the program)
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.train import train
from vcrast.training.engine import Report
from vcrast.training.exact import Split
from vcrast.training.schedule import Cosine, Plateau

BATCH = 9
MODULES = {
    "softmax": {"module": "vcrast.models.attention"},
    "memory_efficient": {"module": "vcrast.models.attention_memory_efficient", "kernel": "auto"},
}
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__format__", "__repr__"}
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "bincount", "is_nonzero",
}  # fmt: skip


class Waits(AssertionError):
    pass


class NoReads(TorchFunctionMode):
    """Refuses Python's ways to read a tensor."""

    allowed = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in READS and not self.allowed:
            raise Waits(f"Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


class NoWaiting(TorchDispatchMode):
    """Refuses operations that must know values before they can go on; sees the backward, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        chosen = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masks = [part for part in chosen if isinstance(part, torch.Tensor) and part.dtype == torch.bool]
        # A mask that is filled with one number becomes masked_fill; a mask that selects has a result of unknown size.
        if name in WAITING or (masks and name == "index"):
            raise Waits(f"aten::{name}")
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise Waits(f"aten::{name}")
        return func(*args, **(kwargs or {}))


class strictly:
    """Both modes; what the CPU reads at once and a GPU one step later (`Report`) is let through."""

    def __init__(self, monkeypatch):
        self.reads, self.waiting = NoReads(), NoWaiting()
        receive = Report.receive

        def later(report):
            self.reads.allowed = True
            try:
                return receive(report)
            finally:
                self.reads.allowed = False

        monkeypatch.setattr(Report, "receive", later)

    def __enter__(self):
        self.reads.__enter__()
        self.waiting.__enter__()

    def __exit__(self, *error):
        self.waiting.__exit__(*error)
        self.reads.__exit__(*error)


def make_step(
    *, device, precision, micro, kept=0, attention="softmax", kind="vcr", optimizer=make_adamw, schedule=Cosine
):
    """A function that runs iteration number `step` of `vcrast.train`'s loop, without what happens between steps."""
    encoder = make_ast(
        embed_dim=32, positions="learned", drop_path=0.3, attention={"name": attention, **MODULES[attention]}
    )
    augment = {
        key: 0.5 if key.endswith("probability") else value for key, value in shipped("views/none")["augment"].items()
    }
    views = Views(
        Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0)),
        **shipped(
            "views/none", time_stretch=[0.8, 1.2], roll=True, gain_db=6.0, background_probability=0.5, freq_mask_bins=4,
            time_mask_frames=4, num_masks=1, noise_std=0.1, noise_uniform=0.1, shift_frames=2, patch_drop_mode="mask",
            patch_drop=0.0 if kind in (*MASKED, "asit") else 0.5, drop="random" if kind == "vcr" else "time_frequency",
            crop=0.7 if kind == "asit" else 1.0,
            background_folder="hums" if kind == "supervised" else None, augment=augment,
        ),
        recordings=[torch.randn(5000), torch.randn(700)],
    )  # fmt: skip
    if kind in JOINT:
        objective = make_joint(kind, encoder, views, teacher="none" if kind == "vcr" else "ema")
    elif kind in MASKED:
        objective = make_masked(kind, encoder, views, masks={"count": 5})
    elif kind == "asit":
        objective = make_asit(encoder, views)
    elif kind == "toy":
        objective = ToyMAE(encoder=encoder, views=views,
                           task=make_task())  # fmt: skip
    else:
        objective = make_supervised(
            encoder, views, make_task(num_frames=17), label_smoothing=0.1, mixup_probability=0.5, cutmix_probability=0.5
        )
    objective = objective.to(device).train()
    engine = make_engine(objective, optimizer(objective), precision=precision, device=device, clip_grad_norm=1.0)
    options = shipped(f"schedule/{schedule.__name__.lower()}", warmup_epochs=0.1)
    rate = schedule(lr=1e-3, total_steps=10, steps_per_epoch=10, **options)
    wavs = torch.randn(BATCH, 3000, device=device) * 0.1
    batch = make_batch(wavs, torch.eye(3, device=device)[torch.arange(BATCH, device=device) % 3])
    stage = OneStep(objective, engine, rate, Split(micro, kept), device)

    def iteration(step):
        stage.first, stage.num_steps = step, step + 1
        train(stage, iter([batch]))

    return iteration, engine


class OneStep:
    """What the loop asks of a stage, without a run folder."""

    def __init__(self, objective, engine, schedule, split, device):
        self.objective, self.engine, self.schedule, self.split, self.device = objective, engine, schedule, split, device
        self.progress = contextlib.nullcontext()

    over = False

    def begin_step(self):
        pass

    def next_batch(self, batches, step):
        return next(batches)

    def data_ready(self):
        pass

    def draws(self, step):
        return Draws(0, step, BATCH, device=self.device)

    def end_of_step(self, step, outcome, stepped):
        self.split = outcome.split


MASKED = ("ssast", "mae_ast", "mae")
CASES = [
    {"precision": precision, "micro": micro, "kept": kept, "attention": attention}
    for precision in ("fp32", "bf16", "fp16")
    for micro, kept in ((None, 0), (4, 0), (4, 1))
    for attention in ("softmax", "memory_efficient")
]
MORE = [
    {"precision": "fp16", "micro": 4, "optimizer": make_lars},
    {"precision": "fp16", "micro": 4, "kind": "supervised"},
    {"precision": "fp32", "micro": None, "schedule": Plateau},
    {"precision": "fp16", "micro": 4, "kind": "toy"},
    *({"precision": "bf16", "micro": 4, "kind": kind} for kind in (*MASKED, "asit", *JOINT[1:5])),  # mmcr does wait
]


def label(case):
    """The same in every process: a function's default text holds its address."""
    return ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in case.items())


@pytest.mark.parametrize("program", ["layers", "audiopg"])
def test_generated_pairs_read_nothing(program, monkeypatch):
    sounds = make_doppelgangers(program=program)
    plain = sounds.batch(1, BATCH)
    with strictly(monkeypatch):  # raises where a value is read
        found = sounds.batch(1, BATCH)
    assert torch.equal(found.wavs, plain.wavs)


@pytest.mark.parametrize("case", [*CASES[::5], *MORE], ids=label)
def test_a_step_reads_nothing(case, monkeypatch):
    iteration, engine = make_step(device="cpu", **case)
    iteration(0)  # tables of positions are made once
    with strictly(monkeypatch):
        iteration(1)
        iteration(2)
    assert engine.num_steps == 3


FORBIDDEN = {
    "item": lambda x: x[0].item(),
    "if": lambda x: 1 if x[0] > 0 else 0,
    "float": lambda x: float(x[0]),
    "list": lambda x: x.tolist(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: torch.unique(x),
    "print": lambda x: f"{x[0]}",
    "to the CPU": lambda x: x.cpu(),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_modes_notice(what, monkeypatch):
    values = torch.arange(3.0)
    with strictly(monkeypatch), pytest.raises(Waits):
        FORBIDDEN[what](values)


@pytest.mark.parametrize("place", ["forward", "backward", "optimiser"])
def test_a_read_anywhere_in_the_step_is_noticed(place, monkeypatch):
    iteration, engine = make_step(device="cpu", precision="fp32", micro=4)
    iteration(0)
    weight = engine.module.encoder.norm.weight
    if place == "forward":
        engine.module.encoder.norm.register_forward_hook(lambda *found: print(found[2].sum().item()))
    elif place == "backward":
        weight.register_hook(lambda gradient: gradient * (0 if gradient.sum() > 1e9 else 1))
    else:
        engine.optimizer.register_step_pre_hook(lambda *_: weight.grad.nonzero())
    with strictly(monkeypatch), pytest.raises(Waits):
        iteration(1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case", [case for case in CASES if case["precision"] != "fp32" or case["attention"] == "softmax"] + MORE, ids=label
)
def test_a_step_on_the_gpu_waits_for_nothing(case):
    iteration, engine = make_step(device="cuda", **case)
    for step in range(2):  # tables, workspaces, pinned memory
        iteration(step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 5):
            iteration(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert engine.num_steps == 5
