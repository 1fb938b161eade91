"""Say what a pretraining's numbers show of why it learns nothing, and what to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vcrast.objectives.base import Objective

Numbers = Mapping[str, float | None]
AT_FLOOR = 0.02  # of what the loss was above its floor at first
WEAK, STRONG = 0.02, 0.9  # distance of two views, in that of two clips
FALLEN = 0.01  # of the first loss
LOST = 0.5  # of the rank at the start


def reasons(first: Numbers, last: Numbers, *, start: Numbers, objective: Objective, batch_size: int) -> str:
    """Name what can be seen, and for each what to change; plain words where nothing can.

    Args:
        first: loss and parts of the first steps that were logged.
        last: the newest, those of the embeddings as well.
        start: of the embeddings before the first step.
        objective: what is trained.
        batch_size: clips of the loss.
    """
    found = list(_seen(first, last, start, objective, batch_size))
    return "; ".join(found) or (
        "the loss falls as it should, so what the views have in common is not what tells these classes apart: try "
        "other views or another source, or evaluate with a probe before giving up"
    )


def _seen(first: Numbers, last: Numbers, start: Numbers, objective: Objective, batch_size: int) -> Iterator[str]:
    if seen := objective.collapsed(last, batch_size):
        yield f"{seen}: {objective.remedy}"
    above, above_first = last.get("above_floor"), first.get("above_floor")
    if above is not None and above_first is not None and above <= AT_FLOOR * max(above_first, 0.0):
        yield (
            f"the loss is at its floor ({above:.2g} above, {above_first:.2g} at first): the task is too easy; stronger "
            "views, or a larger pretrain.batch_size"
        )
    apart, apart_first = distance_of_views(last), distance_of_views(first)
    if apart_first is not None and apart_first < WEAK:
        yield (
            f"the views are too weak (from the first step, two of one clip differ by {100 * apart_first:.2g} % of what "
            "two clips do): a higher views.patch_drop, wider masks, other sounds mixed in"
        )
    elif apart is not None and apart_first is not None and apart > STRONG * min(1.0, apart_first):
        yield (
            f"the views are too strong (two of one clip still differ by {100 * apart:.0f} % of what two clips do, "
            f"{100 * apart_first:.0f} % at first): a lower views.patch_drop, narrower masks, or more steps"
        )
    rank, rank_first = last.get("effective_rank"), start.get("effective_rank")
    if objective.can_collapse and rank is not None and rank_first is not None and rank < LOST * rank_first:
        yield (f"the embeddings' effective rank has fallen from {rank_first:.1f} to {rank:.1f}: {objective.remedy}")
    loss, loss_first = last.get("loss"), first.get("loss")
    if loss is not None and loss_first is not None and loss > loss_first - FALLEN * abs(loss_first):
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
