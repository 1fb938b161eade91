"""Decide which stages of a run are done, go on to another length, or are done again.

A stage is done for its inputs: the settings that it reads, its length, the clips of the fold, and what the stages that
it starts from were made from. `summary.json` keeps them (`Summary.begin`). On resuming, other settings of evaluation or
other weights do a stage again, another length lets it go on from its last checkpoint, other clips are refused. Other
settings of a training stage are refused before, from the files alone (`vcrast.config.resume`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vcrast.config.resume import STAGES, TRAINING, differences, stage_settings
from vcrast.config.schema import Config
from vcrast.data.backgrounds import recordings_identity
from vcrast.data.fingerprint import changed_shards, without_content
from vcrast.data.streams import clips_per_epoch
from vcrast.models.export import DESCRIPTION
from vcrast.models.kept_epochs import kept_in
from vcrast.models.pretrained import checkpoint_digest
from vcrast.runs import checkpoint
from vcrast.runs.log import MetricLog
from vcrast.runs.parts import build_schedule
from vcrast.runs.stage import total_steps
from vcrast.runs.summary import Summary
from vcrast.training.dist import broadcast_object, is_rank_zero
from vcrast.training.schedule import log as schedule_log

Inputs = dict[str, Any]
"""What a stage is made from: `settings` by dotted key, `steps`, `clips` (fingerprint), `weights` (of which stages);
`checkpoint` (the content of `model.checkpoint`) where it starts from that; `sounds` (fingerprint) that views mix in."""


@dataclass
class FoldPlan:
    """What is to happen to the stages of one fold.

    Attributes:
        inputs: what each stage asked for is made from, now.
        adopted: what stages that an earlier version has begun were made from.
        again: stages whose results, if there are any, no longer count.
        longer: stages that go on from their last checkpoint to another length.
        said: one line for each stage that is done again.
        notes: one line for each that goes on, which a reader of the results should know, too.
    """

    inputs: dict[str, Inputs] = field(default_factory=dict)
    adopted: dict[str, Inputs] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    longer: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Before:
    """What a run folder holds, and the settings that it was left with; those of now where it is new."""

    folder: Path
    settings: Config
    summary: Summary

    def latest(self, fold: str, stage: str) -> int | None:
        """The step of the last checkpoint; None where there is none."""
        return checkpoint.latest_step(self.folder / "checkpoints" / f"fold_{fold}" / stage)

    def begun(self, fold: str, stage: str) -> bool:
        """Whether anything of a stage is there."""
        found = self.summary.done(fold, stage) or self.summary.inputs(fold, stage) is not None
        return found or self.latest(fold, stage) is not None


def plan_folds(config: Config, before: Before, *, clips: Mapping[str, Inputs], sizes: Mapping[str, int]) -> Plans:
    """Plan every fold that is asked for, before anything is changed; alike on all processes.

    Args:
        config: of now.
        before: what is there.
        clips: the fingerprint of each fold.
        sizes: the number of training clips of each fold.

    Raises:
        ValueError: what is asked for is not well defined; says which way is.
    """
    plans: Plans | ValueError
    try:
        plans = _plan_folds(config, before, clips, sizes) if is_rank_zero() else {}
    except ValueError as error:
        plans = error
    plans = broadcast_object(plans)
    if isinstance(plans, ValueError):
        raise plans
    return plans


Plans = dict[str, FoldPlan]


def _plan_folds(config: Config, before: Before, clips: Mapping[str, Inputs], sizes: Mapping[str, int]) -> Plans:
    for fold in sizes:
        _refuse_half_pretrained(config, before, fold)
    plans = {fold: plan_fold(config, before, fold, clips=clips[fold], num_clips=sizes[fold]) for fold in sizes}
    others = [fold for fold in before.summary.content["folds"] if fold not in plans]
    if others and any(plan.again or plan.longer for plan in plans.values()):
        raise ValueError(
            f"data.folds: the run also holds fold {', '.join(others)}, made as before; its means would mix the two; "
            f"give data.folds=[{','.join([*plans, *others])}], or start anew in another run.dir"
        )
    return plans


def check_clips(config: Config, summary: Summary, clips: Mapping[str, Inputs]) -> None:
    """Refuse to go on with other clips than a fold has begun with; where they lie does not matter.

    Raises:
        ValueError: names the fold and what differs.
    """
    place = f"data.path={config.data.path}" if config.data.path else f"data.root={config.data.root}"
    for fold, stages in summary.content["inputs"].items():
        for stage, inputs in stages.items():
            was, now = inputs["clips"], clips.get(fold)
            if now is None or was == now or was == without_content(now):
                continue
            counts = [f"{each['train']} training and {each['test']} test clips" for each in (was, now)]
            what = f"{counts[1]}, not {counts[0]}" if counts[0] != counts[1] else (
                f"as many clips ({counts[0]}), but other names, labels, sounds or another order"
            )  # fmt: skip
            if shards := changed_shards(was, now):
                what = f"other shards ({shards})"
            raise ValueError(
                f"{place}: fold {fold} now has {what}, which its {stage} was begun with; give the data back, or start "
                "anew in another run.dir"
            )


def _refuse_half_pretrained(config: Config, before: Before, fold: str) -> None:
    """Refuse to go on without a pretraining that the run has begun: the encoder would silently start from scratch."""
    if "pretrain" in config.stages or before.summary.done(fold, "pretrain"):
        return
    folds = {*before.summary.content["folds"], *before.summary.content["inputs"], fold}
    if not any(before.begun(each, "pretrain") for each in folds):
        return
    step = before.latest(fold, "pretrain") or 0
    planned = (before.summary.inputs(fold, "pretrain") or {}).get("steps")
    where = f"stopped at step {step}{f' of {planned}' if planned else ''}" if step else "has not been done"
    raise ValueError(
        f"stages={config.stages}: pretraining of fold {fold} {where}; leave stages out to go on, or start a new "
        "run to train from scratch"
    )


def plan_fold(config: Config, before: Before, fold: str, *, clips: Inputs, num_clips: int) -> FoldPlan:
    """Compare what each stage of a fold was made from with what it would be made from now; errors as `plan_folds`."""
    plan, summary = FoldPlan(), before.summary
    begun = [found for stage in STAGES if (found := summary.inputs(fold, stage)) is not None]
    if any("content" not in found["clips"] for found in begun):  # an earlier version began it
        clips = without_content(clips)
    known = known_inputs(before, fold, clips=clips, num_clips=num_clips)
    plan.adopted = {stage: inputs for stage, inputs in known.items() if summary.inputs(fold, stage) is None}
    chain: dict[str, Inputs] = {}
    for stage in STAGES:
        was = known.get(stage)
        if stage not in config.stages:
            if was is not None and summary.done(fold, stage):
                chain[stage] = was
            continue
        now = stage_inputs(config, stage, chain, clips=clips, num_clips=num_clips)
        if stage == "pretrain" or "pretrain" not in now["weights"]:
            _compare_checkpoint(config, fold, stage, was, now)
        chain[stage] = plan.inputs[stage] = now
        if was is None or was == now:
            continue
        changed = differences(was["settings"], now["settings"])
        if changed and stage in TRAINING:
            raise ValueError(f"fold {fold}: {stage} was begun with other settings ({'; '.join(changed[:8])})")
        if was.get("sounds") != now.get("sounds") and stage in TRAINING:
            raise ValueError(
                f"{'' if stage == 'pretrain' else 'finetune.'}views.background_folder: fold {fold}: {stage} was begun "
                "with other sounds; give them back, or start anew in another run.dir"
            )
        if changed or any(was.get(key) != now.get(key) for key in ("weights", "checkpoint")):
            plan.again.append(stage)
            if before.begun(fold, stage):
                plan.said.append(f"{stage} is done again: {'; '.join(changed[:4]) or _other_weights(was, now)}")
        elif was["steps"] != now["steps"]:
            _change_length(plan, config, before, fold, stage, was["steps"], num_clips)
    return plan


def _compare_checkpoint(config: Config, fold: str, stage: str, was: Inputs | None, now: Inputs) -> None:
    """Add the content of `model.checkpoint` to the inputs of a stage that starts from it.

    Raises:
        ValueError: a training stage has begun from other weights under the same path.
    """
    before = was.get("checkpoint") if was else None
    found = checkpoint_digest(config.model, fold=fold, data=vars(config.data)) or before
    if found is None or (was is not None and before is None):  # an earlier version has not kept it
        return
    now["checkpoint"] = found
    if before is not None and found != before and stage in TRAINING:
        raise ValueError(
            f"model.checkpoint={config.model['checkpoint']}: fold {fold}: {stage} was begun from other weights under "
            f"this path (sha256 {before}, now {found}); give them back, or start anew in another run.dir"
        )


def known_inputs(before: Before, fold: str, *, clips: Inputs, num_clips: int) -> dict[str, Inputs]:
    """What the stages that have begun were made from; what an earlier version has begun, from its own settings."""
    known: dict[str, Inputs] = {}
    for stage in STAGES:
        if (found := before.summary.inputs(fold, stage)) is not None:
            known[stage] = found
        elif before.begun(fold, stage):
            done = {name: inputs for name, inputs in known.items() if before.summary.done(fold, name)}
            known[stage] = stage_inputs(before.settings, stage, done, clips=clips, num_clips=num_clips)
    return known


def stage_inputs(config: Config, stage: str, earlier: Mapping[str, Inputs], *, clips: Inputs, num_clips: int) -> Inputs:
    """What a stage is made from.

    Args:
        config: of the run.
        stage: one of `STAGES`.
        earlier: the inputs of the stages whose weights it reads.
        clips: the fingerprint of the fold.
        num_clips: training clips of the fold.
    """
    found = {
        "settings": stage_settings(config, stage),
        "steps": length(config, stage, num_clips)[0] if stage in TRAINING else None,
        "clips": clips,
        "weights": {name: _digest(inputs) for name, inputs in earlier.items()},
    }
    views = {"pretrain": config.views, "finetune": config.finetune.views}.get(stage)
    if views is not None and (sounds := recordings_identity(views, root=config.data.root)) is not None:
        found["sounds"] = sounds
    plain: Inputs = json.loads(json.dumps(found))  # as it will be read from the file
    return plain


def length(config: Config, stage: str, num_clips: int) -> tuple[int, int]:
    """(steps, steps of an epoch) of a training stage."""
    options = config.pretrain if stage == "pretrain" else config.finetune
    clips = clips_per_epoch(config.source, num_clips) if stage == "pretrain" else num_clips
    per_epoch = clips // options.batch_size
    return total_steps(options.steps, options.epochs, per_epoch), per_epoch


def _digest(inputs: Inputs) -> str:
    return hashlib.blake2b(json.dumps(inputs, sort_keys=True).encode(), digest_size=8).hexdigest()


def _other_weights(was: Inputs, now: Inputs) -> str:
    before, after = was["weights"], now["weights"]
    if before == after:
        return "the weights behind model.checkpoint changed"
    if added := [stage for stage in after if stage not in before]:
        return f"it now starts from this run's {' and '.join(added)}"
    if gone := [stage for stage in before if stage not in after]:
        return f"this run's {' and '.join(gone)} no longer counts"
    return f"{' and '.join(stage for stage in after if after[stage] != before[stage])} changed"


def _change_length(
    plan: FoldPlan, config: Config, before: Before, fold: str, stage: str, old: int, num_clips: int
) -> None:
    (new, per_epoch), at = length(config, stage, num_clips), before.latest(fold, stage)
    done = before.summary.done(fold, stage)
    reached = old if done else at
    if reached is None:
        return
    if new <= reached:
        raise ValueError(
            f"{stage}.steps={new}: fold {fold} has done {reached} steps of {old}; ask for more, leave it out, or start "
            "anew in another run.dir"
        )
    if at is None:
        plan.again.append(stage)
        plan.said.append(f"{stage}: {old} -> {new} steps: no checkpoint to go on from is left, it is done again")
        return
    plan.longer.append(stage)
    options: Any = config.pretrain if stage == "pretrain" else config.finetune
    own = config if stage == "pretrain" else config.finetune
    with _unheard(schedule_log):  # a stage that really has such a length says it itself
        before_it, from_now = (
            build_schedule(own.schedule, own.optim, replace(options, steps=steps), per_epoch) for steps in (old, new)
        )
    name, looked = own.schedule["name"], range(0, at, max(1, at // 1000))
    if all(math.isclose(before_it.lr(step), from_now.lr(step)) for step in looked):
        said = f"so far the {name} schedule had the learning rates of {new} steps, too"
    else:
        said = (
            f"the {name} schedule is that of {new} steps from there on (learning rate {before_it.lr(at - 1):.2g} -> "
            f"{from_now.lr(at):.2g}), which is not the run of {new} steps begun anew"
        )
    plan.notes.append(f"{stage}: {old} -> {new} steps: goes on from step {at}; {said}")


@contextmanager
def _unheard(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def by_fold(lines: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines of all folds, equal ones once: `finetune is done again: pretrain changed (fold 1, 2)`."""
    folds: dict[str, list[str]] = {}
    for fold, own in lines.items():
        for text in own:
            folds.setdefault(text, []).append(fold)
    return [f"{text} (fold {', '.join(names)})" for text, names in folds.items()]


def said_of(plans: Plans) -> list[str]:
    """What is done again, for the log."""
    return by_fold({fold: plan.said for fold, plan in plans.items()})


def notes_of(plans: Plans) -> list[str]:
    """What goes on to another length, for the log and for a reader of the results."""
    return by_fold({fold: plan.notes for fold, plan in plans.items()})


def clear(plans: Plans, before: Before, metrics: MetricLog) -> None:
    """Take back what no longer counts: results, lines, checkpoints; exported weights are moved to `earlier/`."""
    for fold, plan in plans.items():
        for stage, inputs in plan.adopted.items():
            before.summary.begin(fold, stage, inputs)
        for stage in (*plan.again, *plan.longer):
            before.summary.forget(fold, stage, inputs=stage in plan.again)
    before.summary.write()  # first: killed from here on, the next start takes the rest away
    for fold, plan in plans.items():
        for stage in plan.again:
            metrics.rewind(stage, fold, 0)
            if is_rank_zero():
                shutil.rmtree(before.folder / "checkpoints" / f"fold_{fold}" / stage, ignore_errors=True)
        if is_rank_zero():
            _set_aside(before.folder, fold, [*plan.again, *plan.longer])
            if "finetune" in plan.again:  # one that goes on has passed through its epochs all the same
                for path in kept_in(before.folder / "exported" / f"fold_{fold}", DESCRIPTION).values():
                    _move_aside(before.folder, str(path.relative_to(before.folder)))


MADE_BY = {
    "pretrain": ("exported/fold_{}/pretrained",),
    "finetune": ("exported/fold_{}/finetuned",),
    "evaluate": ("evaluation/fold_{}.safetensors", "evaluation/predictions_fold_{}.csv", "exported/fold_{}/probe"),
}


def _set_aside(folder: Path, fold: str, stages: Sequence[str]) -> None:
    """Move what stages have made to the first of `earlier/1`, `earlier/2`, ... that does not have it yet."""
    for made in [name.format(fold) for stage in stages for name in MADE_BY[stage]]:
        if (folder / made).exists():
            _move_aside(folder, made)


def _move_aside(folder: Path, made: str) -> None:
    number = 1
    while (folder / "earlier" / str(number) / made).exists():
        number += 1
    place = folder / "earlier" / str(number) / made
    place.parent.mkdir(parents=True, exist_ok=True)
    (folder / made).rename(place)
