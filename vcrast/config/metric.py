"""How a number is shown: label, unit and direction; and the numbers of a run as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Metric(NamedTuple):
    """What a reader is told of a number; stands beside the code that computes it and travels in `summary.json`.

    Attributes:
        label: in tables, such as `Accuracy, nearest neighbours`.
        format: a name in `FORMATS`.
        better: `higher` or `lower`; None where neither is.
        short: for the head of a column; None takes the label.
        headline: a comparison shows, unasked, the first metric that runs have of each name given here.
    """

    label: str
    format: str = "significant"
    better: str | None = None
    short: str | None = None
    headline: str | None = None

    def text(self, value: float) -> str:
        """The value as a table shows it, unit included."""
        return FORMATS.get(self.format, significant)(value)


def percent(value: float) -> str:
    """0.8125 -> 81.2 %."""
    return f"{100 * value:.1f} %"


def fixed(value: float) -> str:
    """0.81249 -> 0.812."""
    return f"{value:.3f}"


def significant(value: float) -> str:
    """Four significant digits without an exponent where that is readable."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def count(value: float) -> str:
    """12800 -> 12,800."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def size(value: float) -> str:
    """Bytes in binary units, as GPU memory is quoted."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.1f} {unit}"
    return f"{value:.0f} B"


def duration(value: float) -> str:
    """Seconds as a person says them."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


FORMATS: dict[str, Callable[[float], str]] = {
    "percent": percent, "fixed": fixed, "significant": significant, "count": count, "bytes": size, "duration": duration,
}  # fmt: skip
"""`percent` of a share, `fixed` with three decimals, `significant` with four digits, `duration` of seconds."""
