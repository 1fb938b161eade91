"""Say what a pretraining's numbers show of why it learns nothing, and what to change."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vcrast.objectives.base import Objective

Numbers = Mapping[str, float | None]
LINES = 5  # logged steps whose mean is looked at: a single batch says little
AT_FLOOR = 0.02  # of what the loss was above its floor at first
WEAK, STRONG = 0.02, 0.9  # distance of two views, in that of two clips; of that at first
FALLEN = 0.01  # of the first loss
LOST = 0.5  # of the rank before the first step


def reasons(
    lines: Sequence[Mapping[str, Any]], *, before: Numbers, after: Numbers, objective: Objective, batch_size: int
) -> str:
    """Name what can be seen, and for each what to change; plain words where nothing can.

    Args:
        lines: loss and parts of the logged steps, in order.
        before: numbers of the embeddings before the first step.
        after: the newest.
        objective: what is trained.
        batch_size: clips of the loss.
    """
    first, last = ends(lines)
    seen = objective.collapsed(mean_of(last), batch_size)
    found = [f"{seen}: {objective.remedy}"] if seen else []
    found += _of_the_loss(mean_of(first), mean_of(last), still=len(lines) > 1 and not fallen(first, last))
    rank, rank_before = after.get("effective_rank"), before.get("effective_rank")
    if objective.can_collapse and rank is not None and rank_before is not None and rank < LOST * rank_before:
        found.append(
            f"the embeddings' effective rank has fallen from {rank_before:.1f} to {rank:.1f}: {objective.remedy}"
        )
    return "; ".join(found) or (
        "the loss falls as it should, so what the views have in common is not what tells these classes apart: other "
        "views, another source, or a probe that sees more than neighbours do"
    )


def _of_the_loss(first: Numbers, last: Numbers, *, still: bool) -> Iterator[str]:
    above, above_first = last.get("above_floor"), first.get("above_floor")
    if above is not None and above_first is not None and above <= AT_FLOOR * max(above_first, 0.0):
        yield (
            f"the loss is at its floor ({above:.2g} above, {above_first:.2g} at first), so the task is too easy: "
            "stronger views, or a larger pretrain.batch_size"
        )
    apart, apart_first = distance_of_views(last), distance_of_views(first)
    if apart_first is not None and apart_first < WEAK:
        yield (
            f"the views are too weak (from the first step, two of one clip differ by {100 * apart_first:.2g} % of what "
            "two clips do): a higher views.patch_drop, wider masks, other sounds mixed in"
        )
    elif not still and apart is not None and apart_first is not None and apart > STRONG * min(1.0, apart_first):
        yield (
            f"the views are too strong (two of one clip still differ by {100 * apart:.0f} % of what two clips do, "
            f"{100 * apart_first:.0f} % at first): a lower views.patch_drop, narrower masks, or more steps"
        )
    loss, loss_first = last.get("loss"), first.get("loss")
    if still and loss is not None and loss_first is not None:
        yield f"the loss has not fallen ({loss_first:.4g} at first, {loss:.4g} now): a higher optim.lr, or more steps"


def distance_of_views(parts: Numbers) -> float | None:
    """The mean squared distance of two views' projections in that of two clips': 0 alike, 1 unrelated.

    Two unrelated vectors whose dimensions have std s differ by 2 s^2 a dimension, which is what an `invariance` of
    objectives that have that and the `std` of their projections counts. None for others.
    """
    invariance, std = parts.get("invariance"), parts.get("std")
    if invariance is None or not std:
        return None
    return invariance / (2 * std**2)


def ends(lines: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """The first logged steps, and the last."""
    count = max(1, min(LINES, len(lines) // 2))
    return lines[:count], lines[-count:]


def mean_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of every number that all lines have."""
    kept = {key for key in lines[0] if all(isinstance(line.get(key), int | float) for line in lines)} if lines else ()
    return {key: statistics.fmean(line[key] for line in lines) for key in kept}


def fallen(first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the loss has, by more than what the batches make of it; also where a step's loss is unknown."""
    before, after = ([line["loss"] for line in part if line.get("loss") is not None] for part in (first, last))
    if not before or not after:
        return True
    noise = sum(statistics.variance(part) / len(part) if len(part) > 1 else 0.0 for part in (before, after)) ** 0.5
    fall = statistics.fmean(before) - statistics.fmean(after)
    return fall > max(2 * noise, FALLEN * abs(statistics.fmean(before)))
