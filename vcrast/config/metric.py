"""How a number is shown: label, unit and direction, for logs, summary, report and comparison."""

from __future__ import annotations

from typing import NamedTuple

FORMATS = ("percent", "fixed", "significant", "count", "bytes", "duration")


class Metric(NamedTuple):
    """What a reader is told of a number; stands beside the code that computes it and travels in `summary.json`.

    Attributes:
        label: in tables, such as `Accuracy, nearest neighbours`.
        format: `percent` (of a share), `fixed` (three decimals), `significant` (four digits), `count`, `bytes` or
            `duration` (of seconds).
        better: `higher` or `lower`; None where neither is.
        short: for the head of a column; None takes the label.
        headline: whether a comparison shows it unasked.
    """

    label: str
    format: str = "significant"
    better: str | None = None
    short: str | None = None
    headline: bool = False
