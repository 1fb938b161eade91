"""Make a model of a pretraining that has not ended, from its last checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from vcrast.models.export import DESCRIPTION, STAGES, UNFINISHED, is_run, read_description, write_export
from vcrast.runs import checkpoint

log = logging.getLogger(__name__)


def recover(run: Path, *, fold: str | None = None) -> list[str]:
    """Export the encoders of pretrainings that have not come to their end, each as `exported/fold_<fold>/unfinished`.

    Folds that have a pretrained or finetuned model are left alone, and so is everything that is no run folder. What is
    there already of the same step is kept.

    Args:
        run: a run folder, or anything else.
        fold: of which; None is all of them.

    Returns:
        One line for each: how far it came.

    Raises:
        CheckpointError: checkpoints of another version.
        OSError: the run folder cannot be written.
    """
    if not run.is_dir() or not is_run(run):
        return []
    told = []
    for folder in sorted((run / "checkpoints").glob("fold_*/pretrain")):
        name = folder.parent.name.removeprefix("fold_")
        place = run / "exported" / folder.parent.name
        finished = any((place / stage / DESCRIPTION).is_file() for stage in STAGES if stage != UNFINISHED)
        if finished or (fold is not None and name != fold):
            continue
        told += [text for text in [_export(folder, place / UNFINISHED, name)] if text]
    return told


def _export(folder: Path, place: Path, fold: str) -> str | None:
    latest = checkpoint.find_latest(folder)
    if latest is None:
        return None
    content = checkpoint.load(latest)
    if "export" not in content:
        return f"{latest}: an earlier version wrote it, without what a model of it needs; go on with the run first"
    step, planned = content["step"], content["num_steps"]
    if not (place / DESCRIPTION).is_file() or read_description(place)["meta"].get("step") != step:
        weights = content["engine"]["module"]
        tensors = {name: value for name, value in weights.items() if name.startswith("encoder.")}
        description = content["export"]
        meta = {**description["meta"], "step": step, "num_steps": planned}
        write_export(place, tensors, {**description, "meta": meta})
    return f"pretraining of fold {fold} has come to step {step} of {planned}; these are its weights then"
