"""`vcrast replay`: repeat the step whose loss was not finite, and name the layer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.hearing import described

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.data.dataset import ClipDataset
    from vcrast.objectives.base import Batch, Objective
    from vcrast.runs.job import Job
    from vcrast.training.overflow import Trace


SHOWN = 8


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "replay",
        help="repeat the step of a run whose loss was not finite, and say where it began",
        **described(
            "Repeats the first step of a run whose loss was not finite, in one process, from the weights that the run "
            "kept then: in the run's precision and in fp32. Names clips, weights and the first layer that are not "
            "finite. Changes nothing. Exit code 1 if the step is finite here.",
            "vcrast replay runs/esc50/<time>",
            "vcrast replay runs/esc50/<time> --device cpu",
        ),
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the run's own setting if left out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Repeat the step and print what is found.

    Raises:
        FileNotFoundError: no such run.
        ValueError: the kept step or the settings are damaged, or the data is not as it was.
    """
    from vcrast.runs.bad_step import find_bad_step

    if not (arguments.folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{arguments.folder}/config.yaml: no such file; give the folder of a run")
    path = find_bad_step(arguments.folder)
    if path is None:
        print("nothing to replay: no step of this run had a loss that was not finite")
        return 0
    return replay(arguments.folder, path, device=arguments.device)


def replay(folder: Path, path: Path, *, device: str | None) -> int:
    """Repeat the step kept at `path`; returns the exit code."""
    from vcrast.runs import checkpoint
    from vcrast.training.overflow import bad_tensors

    kept = checkpoint.load(path)
    print(f"fold {kept['fold']} {kept['stage']}, step {kept['step'] + 1}, {kept['precision']} on {kept['device']}")
    with fold_of(folder, kept, device=device) as job:
        objective, clips, batch = prepared(job, kept)
        draws = job.draws(kept["stage"], kept["step"], len(batch.wav))
        for text in (
            *other_clips(kept, batch), *bad_clips(batch.wav, batch, clips),
            *(f"weights that are not finite: {text}" for text in some(bad_tensors(kept["module"]))),
            *bad_inputs(objective, batch, draws, clips),
        ):  # fmt: skip
            print(text)
        outcomes = []
        for precision in dict.fromkeys([kept["precision"], "fp32"]):
            loss, trace = repeated(job, objective, batch, draws, kept, precision)
            outcomes.append(told(precision, loss, trace))
        for lines, _ in outcomes:
            print("\n".join(lines))
    finite = [is_finite for _, is_finite in outcomes]
    print(verdict(finite, kept["precision"]))
    return int(finite[0])


def fold_of(folder: Path, kept: dict[str, Any], *, device: str | None) -> Any:
    """A context manager of the fold, as the run had it, whose log and summary are thrown away."""
    import contextlib
    import tempfile

    from vcrast.config.saved import load_config
    from vcrast.data.open import open_corpus
    from vcrast.run import jobs, open_folds
    from vcrast.runs.interrupt import Interrupt
    from vcrast.runs.log import MetricLog
    from vcrast.runs.summary import Summary

    config = load_config(folder / "config.yaml")
    config.precision, config.run.device = kept["precision"], device or config.run.device
    config.data.mean, config.data.std, config.data.num_workers = kept["mean"], kept["std"], 0
    config.model = {**config.model, "checkpoint": None}  # the kept weights replace what it would load

    @contextlib.contextmanager
    def opened() -> Iterator[Job]:
        corpus = open_corpus(config.data)
        data = open_folds(config, corpus, [kept["fold"]])
        with tempfile.TemporaryDirectory(prefix="vcrast-replay-") as name, Interrupt() as interrupt:
            log = MetricLog(Path(name), ["jsonl"], config={})
            summary = Summary(Path(name) / "summary.json", recipe=config.recipe, classes=corpus.classes)
            try:
                yield next(jobs(config, data, Path(name), log, summary, interrupt))
            finally:
                log.close()

    return opened()


def prepared(job: Job, kept: dict[str, Any]) -> tuple[Objective, ClipDataset, Batch]:
    """The objective with the kept weights, the clips that its stage learns from, and the step's whole batch."""
    from vcrast import finetune, pretrain
    from vcrast.data.streams import open_stream

    step = kept["step"]
    objective: Objective
    if kept["stage"] == "pretrain":
        stream = open_stream(job.config.source, job.supply())
        objective, clips = pretrain.build_objective(job, stream), job.train
        batch: Batch = next(stream.batches(step, step + 1))
    else:
        objective, clips = finetune.build_classifier(job)[0], finetune.learnt_from(job)
        batch = next(finetune.batches_of(job, step, step + 1))
    objective.load_state_dict(kept["module"])
    return objective, clips, batch


def other_clips(kept: dict[str, Any], batch: Any) -> Iterator[str]:
    """Say that the batch is made of other clips than then."""
    if kept["clips"] is not None and batch.index.tolist() != kept["clips"]:
        yield "the clips of this step are not those of then: the data has changed, and the step may not be the same"


def bad_clips(values: Tensor, batch: Any, clips: ClipDataset) -> Iterator[str]:
    """Name the clips some of whose values (B, ...) are not finite."""
    rows = (~values.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    places = batch.index.tolist()
    for row in rows[:SHOWN]:
        name = clips.clips[places[row]].where if batch.wav.ndim == 2 else f"sound {row} of the batch"
        yield f"{name}: samples that are not finite"
    if len(rows) > SHOWN:
        yield f"and {len(rows) - SHOWN} more"


def bad_inputs(objective: Objective, batch: Any, draws: Any, clips: ClipDataset) -> Iterator[str]:
    """Name what the objective makes of the clips, before any layer, that is not finite."""
    import torch

    torch.manual_seed(draws.torch_seed())
    with torch.no_grad():
        inputs = objective.prepare(batch, draws)
    for name, value in inputs.items():
        if value.is_floating_point() and not value.isfinite().all():
            yield f"input {name!r} of the encoder is not finite"
            if len(value) == len(batch.wav):
                yield from (text.replace("samples", f"values of {name!r}") for text in bad_clips(value, batch, clips))


def repeated(
    job: Job, objective: Objective, batch: Any, draws: Any, kept: dict[str, Any], precision: str
) -> tuple[float, Trace]:
    """The loss of the step, and what every layer did."""
    import torch

    from vcrast.training.engine import TorchEngine
    from vcrast.training.exact import Split, exact_backward
    from vcrast.training.overflow import traced

    objective.load_state_dict(kept["module"])
    engine = TorchEngine(
        objective, torch.optim.SGD(objective.parameters(), lr=0.0), precision=precision, device=job.device,
        clip_grad_norm=None, compile=False, checkpoint_blocks=False,
    )  # fmt: skip
    if engine.loss_scale is not None and kept["loss_scale"] is not None:
        engine.loss_scale.load_state_dict(kept["loss_scale"])
    with traced(objective) as trace:
        outcome = exact_backward(engine, objective, batch, draws, Split())
    engine.undo_backward()
    return float(outcome.loss), trace


def told(precision: str, loss: float, trace: Trace) -> tuple[list[str], bool]:
    """Lines about a repetition, and whether its loss is finite."""
    import math

    lines, finite = [f"in {precision}: the loss is {loss:.4g}"], math.isfinite(loss)
    first, gradient, largest = trace.first_bad(), trace.first_bad_gradient(), trace.largest()
    if first is not None:
        lines.append(f"  first layer whose output is not finite: {first}")
    elif not finite:
        lines.append("  the outputs of all layers are finite: the loss itself overflows, or divides by 0")
    elif gradient is not None:
        lines.append(f"  first layer, from the loss back, whose gradient is not finite: {gradient}")
    if largest is not None and first is None:
        lines.append(f"  largest output: {largest}")
    return lines, finite


def verdict(finite: Sequence[bool], precision: str) -> str:
    """What follows from the repetitions, the run's precision first."""
    if finite[0]:
        return (
            "the step is finite here: another device rounds otherwise, or the data has changed; repeat it on the one "
            "of the run (--device)"
        )
    if len(finite) > 1 and finite[1]:
        return (
            f"fp32 is finite: it is the precision, {precision}; set precision=bf16 or fp32, or lower the learning rate"
        )
    return (
        "it is not the precision: look at the clips and weights named above; lower the learning rate or set "
        "clip_grad_norm, and start from a checkpoint before"
    )


def some(names: Sequence[str]) -> list[str]:
    """The names in a line, if there are any."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [", ".join(names[:SHOWN]) + more] if names else []
