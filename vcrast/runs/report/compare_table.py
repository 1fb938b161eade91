"""A comparison as text cells, for terminal, Markdown and page; rows for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vcrast.config.metric import Metric, significant
from vcrast.runs.report.headline import MISSING

if TYPE_CHECKING:
    from vcrast.runs.compare import Comparison, Estimate


class ComparedRow(NamedTuple):
    """The cells of a line; `aside` says that they are differences to the first variant."""

    cells: list[str]
    aside: bool = False


def lines(found: Comparison) -> tuple[list[str], list[ComparedRow]]:
    """Header and lines: of a variant its means, and its differences to the first one by seed and by clip."""
    header = ["", "runs", *(title(found, metric) for metric in found.metrics)]
    rows, metrics = [], [found.metric(name) for name in found.metrics]
    for number, variant in enumerate(found.variants):
        means = [found.estimate(variant, name) for name in found.metrics]
        cells = [cell(metric, mean) for metric, mean in zip(metrics, means, strict=True)]
        rows.append(ComparedRow([found.name(variant), str(len(variant.runs)), *cells]))
        if number:
            pairs = [found.difference(variant, metric) for metric in found.metrics]
            count = max((pair.count for pair in pairs if pair is not None), default=0)
            name = f"against the first, {count} seed{'s' * (count != 1)} in common"
            signed = [cell(metric, pair, signed=True) for metric, pair in zip(metrics, pairs, strict=True)]
            rows.append(ComparedRow([name, "", *signed], aside=True))
            clips = [found.difference_by_clip(variant, metric) for metric in found.metrics]
            if count := max((pair.count for pair in clips if pair is not None), default=0):
                signed = [cell(metric, pair, signed=True) for metric, pair in zip(metrics, clips, strict=True)]
                rows.append(ComparedRow([f"the same by clip, {count} clips", "", *signed], aside=True))
    return header, rows


def markdown(found: Comparison) -> str:
    """The lines as a Markdown table, and the notes below it."""
    return as_markdown(*lines(found), found.notes)


def as_markdown(header: Sequence[str], rows: Sequence[ComparedRow], notes: Sequence[str]) -> str:
    """Lines as a Markdown table, and notes below it."""
    drawn = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *(row.cells for row in rows))]
    return "\n".join([*drawn, "".join(f"\n- {note}" for note in notes)])


def cell(metric: Metric, estimate: Estimate | None, *, signed: bool = False) -> str:
    """`65.5 ± 2.1`, or `+1.3 ± 0.8`."""
    if estimate is None:
        return MISSING
    sign = "" if not signed else "+" if estimate.mean >= 0 else "-"
    value = as_text(metric, abs(estimate.mean) if signed else estimate.mean)
    return f"{sign}{value}" + ("" if estimate.error is None else f" ± {as_text(metric, estimate.error)}")


def rows_per_run(found: Comparison) -> list[list[Any]]:
    """A header and a row per run: the settings that differ, seed, folder, values with all their digits."""
    keys = list(dict.fromkeys(key for variant in found.variants for key in variant.settings))
    rows: list[list[Any]] = [[*keys, "run.seed", "folder", *found.metrics]]
    for variant in found.variants:
        for each in variant.runs:
            values = [each.value(metric, found.folds) for metric in found.metrics]
            rows.append([*(variant.settings.get(key) for key in keys), each.seed, str(each.folder), *values])
    return rows


def as_text(metric: Metric, value: float) -> str:
    """A value in its unit: shares in percent without the sign, counts, sizes and times as people write them."""
    if metric.format in ("count", "bytes", "duration"):
        return metric.text(value)
    return f"{100 * value:.1f}" if is_share(metric) else significant(value)


def is_share(metric: Metric) -> bool:
    """Whether a metric is shown in percent."""
    return metric.format == "percent"


def title(found: Comparison, name: str) -> str:
    """A column's name: short, with its unit; without a short one its stage, too, unless that is `evaluate`."""
    stage, _, own = name.partition(".")
    metric = found.metric(name)
    text = metric.short or (own.replace("_", " ") if stage == "evaluate" else name)
    return f"{text}, %" if is_share(metric) else text
