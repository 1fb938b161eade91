"""Compare runs: settings that differ, means over seeds, paired differences."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vcrast.config.compose import flatten
from vcrast.config.metric import Metric
from vcrast.config.resume import FREE_ON_RESUME, is_one_of
from vcrast.config.words import natural, suggest
from vcrast.runs.named_views import names_of_views
from vcrast.runs.paired import Estimate, difference_by_clip, right_clips
from vcrast.runs.record import RunRecord, read_run

SEED = "run.seed"
SAME = (SEED, *(key for key in FREE_ON_RESUME if key != "stages"))
"""Settings in which variants may differ without being different: where and how a run computes, not what."""

_ABSENT = object()

Settings = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run folder holds that a comparison needs.

    Attributes:
        folder: of the run.
        settings: dotted keys, those of `SAME` left out.
        seed: `run.seed`.
        folds: by fold and stage, the numbers of `summary.json`.
        conditions: of what and on what it was made, such as the data's place, commit and processor, as text.
        lines: the objects of `metrics.jsonl`.
        shown: how each number is shown, by `stage.name`.
    """

    folder: Path
    settings: Settings
    seed: int
    folds: Mapping[str, Mapping[str, Mapping[str, Any]]]
    conditions: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[Mapping[str, Any]] = ()
    shown: Mapping[str, Metric] = field(default_factory=dict)

    def value(self, metric: str, folds: Iterable[str]) -> float | None:
        """Mean of `stage.name` over some folds; None where one of them lacks it."""
        stage, _, name = metric.partition(".")
        found = [self.folds[fold].get(stage, {}).get(name) for fold in folds]
        numbers = [float(value) for value in found if isinstance(value, int | float)]
        return statistics.fmean(numbers) if found and len(numbers) == len(found) else None


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but their seed."""

    settings: Settings
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The settings that tell it from others: `attention=rfa optim.lr=0.001`."""
        return " ".join(f"{key}={shown(value)}" for key, value in self.settings.items()) or "all runs"

    def by_seed(self, metric: str, folds: Iterable[str]) -> dict[int, float]:
        """The value of each seed; of a seed that was run twice, the mean."""
        values: dict[int, list[float]] = {}
        for run in self.runs:
            value = run.value(metric, folds)
            if value is not None:
                values.setdefault(run.seed, []).append(value)
        return {seed: statistics.fmean(values[seed]) for seed in sorted(values)}


@dataclass(frozen=True)
class Comparison:
    """Variants of one job, measured on the same folds.

    Attributes:
        variants: in the order in which their first run was named.
        metrics: `stage.name`, those compared.
        folds: that all runs have finished.
        notes: what makes the comparison less fair than it looks.
        shown: how each number is shown, by `stage.name`.
    """

    variants: tuple[Variant, ...]
    metrics: tuple[str, ...]
    folds: tuple[str, ...]
    notes: tuple[str, ...]
    shown: Mapping[str, Metric] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """How a number is shown; plainly where no run says."""
        return self.shown.get(name, Metric(name.replace("_", " ")))

    def name(self, variant: Variant) -> str:
        """What a reader is shown; see `name_beside`."""
        return name_beside(variant, self.variants[0])

    def estimate(self, variant: Variant, metric: str) -> Estimate | None:
        """Mean and sample standard deviation over the variant's runs; None if none has the metric."""
        values = [value for run in variant.runs if (value := run.value(metric, self.folds)) is not None]
        if not values:
            return None
        return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    def difference(self, variant: Variant, metric: str) -> Estimate | None:
        """Against the first variant, over the seeds that both have: mean and standard error of the paired differences.

        None if they share no seed.
        """
        own, other = (each.by_seed(metric, self.folds) for each in (variant, self.variants[0]))
        pairs = [own[seed] - other[seed] for seed in own if seed in other]
        if not pairs:
            return None
        error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
        return Estimate(statistics.fmean(pairs), error, len(pairs))

    def difference_by_clip(self, variant: Variant, metric: str) -> Estimate | None:
        """Against the first variant, over the test clips that both have: mean and standard error of the differences.

        Of accuracies; each clip's is the mean over the seeds in common. None where runs do not tell, or share no seed.
        """
        stage, _, name = metric.partition(".")
        if stage != "evaluate":
            return None
        own, other = (
            {run.seed: right_clips(run.folder, name, self.folds) for run in each.runs}
            for each in (variant, self.variants[0])
        )
        return difference_by_clip(own, other)


def name_beside(variant: Variant, first: Variant) -> str:
    """All settings of the first variant that differ anywhere; of another one those that differ from the first's."""
    own = {key: value for key, value in variant.settings.items() if first.settings.get(key, _ABSENT) != value}
    return Variant(own, ()).label if own else variant.label


def compare(paths: Sequence[str | Path], metrics: Sequence[str] = ()) -> Comparison:
    """Put runs side by side.

    Args:
        paths: run folders, or folders that hold some, such as that of a sweep. The first run's variant is what the
            others are measured against.
        metrics: names of `summary.json`, `stage.name` or of the stage `evaluate`; empty for the usual ones.

    Raises:
        FileNotFoundError: a path without runs.
        ValueError: no run has results, they share no fold, or none has a metric that was asked for or is usual.
    """
    folders = [folder for path in paths for folder in find_runs(Path(path))]
    runs = [to_run(read_run(folder, arrays=False)) for folder in dict.fromkeys(folders)]
    names = names_of_views([run.settings for run in runs], differing(runs))
    runs = [replace(run, settings={**run.settings, **own}) for run, own in zip(runs, names, strict=True)]
    found = available(runs)
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: no stage of any run is done yet")
    shown = {name: metric for run in runs for name, metric in run.shown.items()}
    chosen = tuple(complete(metric, found) for metric in metrics) or usual(found, shown)
    if not chosen:
        raise ValueError(f"{', '.join(map(str, paths))}: no run says what to compare; name some of {', '.join(found)}")
    measured = [run for run in runs if measured_folds(run, chosen)]
    if not measured:
        raise ValueError(
            f"{', '.join(map(str, paths))}: no run has a number that is shown unasked; name one by --metric"
        )
    folds = shared_folds(measured, chosen)
    variants = group(measured)
    return Comparison(variants, chosen, folds, tuple(notes(runs, chosen, folds, variants)), shown)


def find_runs(path: Path) -> list[Path]:
    """The folder itself if it is a run's, else the runs in it.

    Raises:
        FileNotFoundError: there is none.
    """
    if (path / "config.yaml").is_file():
        return [path]
    found = sorted((file.parent for file in path.glob("*/config.yaml")), key=lambda folder: natural(folder.name))
    if not found:
        raise FileNotFoundError(f"{path}: neither a run folder nor a folder of runs (no config.yaml there or below)")
    return found


def to_run(record: RunRecord) -> Run:
    """What a comparison needs of a run folder.

    Raises:
        ValueError: its settings cannot be read.
    """
    settings = dict(flatten(record.config))
    if SEED not in settings:
        raise ValueError(f"{record.folder}: {'; '.join(record.missing) or f'config.yaml has no {SEED}'}")
    kept = {key: value for key, value in settings.items() if not is_one_of(key, SAME)}
    place = settings.get("data.path") or settings.get("data.root")
    conditions = {
        "data": str(place or ""),
        "commit": record.commit[:10] + (" with changes" if record.has_changes else ""),
        "device": record.device,
        "torch": record.torch,
    }
    known = {name: value for name, value in conditions.items() if value}
    stages = record.summary.get("metrics") or {}
    shown = {f"{stage}.{name}": metric for stage in stages for name, metric in record.metrics(stage).items()}
    return Run(record.folder, kept, int(settings[SEED]), record.summary.get("folds", {}), known, record.lines, shown)


def measured_folds(run: Run, metrics: Sequence[str]) -> list[str]:
    """The folds in which a run has at least one of the metrics; one that has not come so far has none."""
    return [fold for fold in run.folds if any(run.value(metric, [fold]) is not None for metric in metrics)]


def shared_folds(runs: Sequence[Run], metrics: Sequence[str]) -> tuple[str, ...]:
    """The folds in which all runs are measured, by number.

    Raises:
        ValueError: there is none.
    """
    own = [measured_folds(run, metrics) for run in runs]
    shared = set.intersection(*map(set, own))
    if not shared:
        listed = "; ".join(f"{run.folder.name}: {', '.join(f)}" for run, f in list(zip(runs, own, strict=True))[:6])
        raise ValueError(f"the runs have no fold in common ({listed})")
    return tuple(sorted(shared, key=natural))


def available(runs: Sequence[Run]) -> list[str]:
    """Every number that some run has, as `stage.name`, in the order of `summary.json`."""
    names: dict[str, None] = {}
    for run in runs:
        for stages in run.folds.values():
            for stage, values in stages.items():
                numbers = (name for name, value in values.items() if isinstance(value, int | float))
                names.update({f"{stage}.{name}": None for name in numbers})
    return list(names)


def usual(found: Sequence[str], shown: Mapping[str, Metric]) -> tuple[str, ...]:
    """The first metric there is of each headline; the losses of runs that were not evaluated."""
    first: dict[str, str] = {}
    for metric, how in shown.items():
        if how.headline and metric in found:
            first.setdefault(how.headline, metric)
    return tuple(first.values()) or tuple(metric for metric in found if metric.endswith(".loss"))


def complete(metric: str, found: Sequence[str]) -> str:
    """`stage.name` for a name, which is one of `evaluate` if it names no stage.

    Raises:
        ValueError: no run has it.
    """
    full = metric if "." in metric else f"evaluate.{metric}"
    if full not in found:
        raise ValueError(
            f"{metric}: no run has it; {suggest(metric, [name.removeprefix('evaluate.') for name in found])}"
        )
    return full


def group(runs: Sequence[Run]) -> tuple[Variant, ...]:
    """Runs whose settings are equal but for the seed make a variant, named by what differs between variants."""
    differ, tell = differing(runs), telling(runs)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.settings.get(key) for key in differ]), []).append(run)
    return tuple(
        Variant({short(key): same[0].settings[key] for key in tell if key in same[0].settings}, tuple(same))
        for same in groups.values()
    )


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys in which runs differ, in the order of the settings; one that only some have is one of them."""
    parts = list(dict.fromkeys(key.partition(".")[0] for run in runs for key in run.settings))
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    ordered = sorted(keys, key=lambda key: parts.index(key.partition(".")[0]))
    return [key for key in ordered if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]


def telling(runs: Sequence[Run]) -> list[str]:
    """Of the differing keys, those that a reader needs: not what the name of a recipe or a part implies in all runs.

    `attention.num_features`, which comes with `attention.name=rfa`, says nothing more unless runs of rfa differ in it.
    An objective brings its views.
    """
    keys = differing(runs)
    scopes = {key: ["" if key == "recipe" else key.removesuffix("name")] for key in keys if is_name(key)}
    if "objective.name" in scopes:
        scopes["objective.name"].append("views.")
    return [
        key
        for key in keys
        if not any(
            key not in (name, "recipe") and key.startswith(tuple(begins)) and follows(key, name, runs)
            for name, begins in scopes.items()
        )
    ]


def is_name(key: str) -> bool:
    """Whether a key names a recipe or a swappable part, which stands for many settings."""
    return key == "recipe" or key.endswith(".name")


def follows(key: str, name: str, runs: Sequence[Run]) -> bool:
    """Whether runs that agree in `name` agree in `key`."""
    values: dict[str, set[str]] = {}
    for run in runs:
        values.setdefault(json.dumps(run.settings.get(name)), set()).add(json.dumps(run.settings.get(key)))
    return all(len(own) == 1 for own in values.values())


def notes(
    runs: Sequence[Run], metrics: Sequence[str], folds: Sequence[str], variants: Sequence[Variant]
) -> Iterator[str]:
    """What a reader should know before believing a difference."""
    measured = [run for variant in variants for run in variant.runs]
    yield from (f"{run.folder}: none of these numbers yet, left out" for run in runs if run not in measured)
    yield from gaps(measured, metrics, folds)
    if "recipe" in telling(measured):
        behind = [short(key) for key in differing(measured) if key not in telling(measured)]
        yield f"the recipes differ in {', '.join(behind) or 'nothing but their names'}"
    for name in ("data", "commit", "device", "torch"):
        values = {run.conditions[name] for run in measured if name in run.conditions}
        if len(values) > 1:
            yield f"made with different {name}: {'; '.join(sorted(values))}"
    seeds: dict[str, list[str]] = {}
    for variant in variants:
        own = ", ".join(map(str, sorted(run.seed for run in variant.runs)))
        seeds.setdefault(own, []).append(name_beside(variant, variants[0]))
    if len(seeds) > 1:
        yield "variants have different seeds: " + "; ".join(f"{own} of {', '.join(seeds[own])}" for own in seeds)
    clips = {number for run in measured if (number := run.value("evaluate.num_test_clips", folds))}
    if len(clips) > 1:
        yield f"different numbers of test clips: {', '.join(f'{len(folds) * mean:.0f}' for mean in sorted(clips))}"
    elif clips:
        count = round(len(folds) * clips.pop())
        yield f"{count} test clips: by their choice alone an accuracy of 70 % has a standard error of {sampling(count)}"


def gaps(runs: Sequence[Run], metrics: Sequence[str], folds: Sequence[str]) -> Iterator[str]:
    """Numbers and stages that only some runs have, and folds that are not compared."""
    stages = dict.fromkeys(stage for run in runs for fold in folds for stage in run.folds[fold])
    for run in runs:
        if missing := [stage for stage in stages if any(stage not in run.folds[f] for f in folds)]:
            yield f"{run.folder}: has no {' and no '.join(missing)}"
        if lacking := [metric for metric in metrics if run.value(metric, folds) is None]:
            yield f"{run.folder}: has no {', '.join(lacking)}"
        if more := [fold for fold in measured_folds(run, metrics) if fold not in folds]:
            yield f"{run.folder}: not all runs have fold {', '.join(more)}: left out"
        if empty := [fold for fold in run.folds if fold not in folds and undefined(run, fold, metrics)]:
            yield f"{run.folder}: undefined in fold {', '.join(empty)}, which is left out"


def undefined(run: Run, fold: str, metrics: Sequence[str]) -> bool:
    """Whether a fold has said that one of the metrics is undefined on its test clips."""
    said = run.folds[fold].get("evaluate", {}).get("undefined") or {}
    return any(metric.removeprefix("evaluate.") in said for metric in metrics)


def sampling(number: int, share: float = 0.7) -> str:
    """Standard error of a share of `number` independent clips, in points."""
    return f"{100 * math.sqrt(share * (1 - share) / number):.1f} points"


def short(key: str) -> str:
    """`attention` for `attention.name`."""
    return key.removesuffix(".name")


def shown(value: Any) -> str:
    """A setting as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(each)}' for key, each in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
