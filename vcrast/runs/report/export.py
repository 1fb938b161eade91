"""Hand on the numbers of runs: Markdown tables to paste, CSV rows for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from vcrast.runs.record import RunRecord
from vcrast.runs.report.lead import differences, lead
from vcrast.runs.report.tables import Small, loss_terms, stage_tables, time_table

COLUMNS = ("folder", "recipe", "seed", "stage", "fold", "metric", "value")


def markdown(record: RunRecord) -> str:
    """The page's tables of a run; what comes from the run cannot end a cell."""
    first, words = lead(record), " ".join(f"`{word}`" for word in differences(record))
    lines = [f"## {record.recipe}", ""]
    if first:
        spread = f" {first.spread}" if first.spread else ""
        beside = "".join(f" {name}: {text}." for name, text in first.beside)
        lines += [
            f"**{first.label}: {first.value}{spread} {first.unit}**".replace(" **", "**"),
            "",
            f"{first.of}.{beside}",
            "",
        ]
    lines += [f"`{record.folder.resolve().name}`{', with ' if words else ''}{words}", ""]
    if record.commit:
        changed = " with changes" if record.has_changes else ""
        lines += [f"Commit {record.commit[:10]}{changed}, torch {record.torch}, {record.device}.", ""]
    for small in (*stage_tables(record), *loss_terms(record), time_table(record)):
        if small.rows:
            lines += [
                f"### {small.title[:1].upper()}{small.title[1:]}",
                "",
                *table(small),
                "",
                *(f"{text}\n" for text in small.notes),
            ]
    lines += [f"- {text}" for text in record.summary.get("warnings") or []]
    return "\n".join(lines).rstrip() + "\n"


def table(small: Small) -> list[str]:
    """The lines of a Markdown table."""
    return [
        _line(small.header),
        _line(["---", *["---:"] * (len(small.header) - 1)], safe=True),
        *map(_line, small.rows),
    ]


def _line(cells: Sequence[str], *, safe: bool = False) -> str:
    shown = cells if safe else [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(shown)} |"


def as_csv(records: Sequence[RunRecord]) -> str:
    """A row for each run, stage, fold and number, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerows(rows(record))
    return text.getvalue()


def rows(record: RunRecord) -> Iterator[list[Any]]:
    """The rows of one run; a number by class is `class_AP.dog`."""
    seed = (record.config.get("run") or {}).get("seed", "")
    for fold, stages in (record.summary.get("folds") or {}).items():
        for stage, values in (stages or {}).items():
            for name, value in (values or {}).items():
                parts = value.items() if isinstance(value, dict) else [("", value)]
                for part, number in parts:
                    if isinstance(number, int | float) and not isinstance(number, bool):
                        metric = f"{name}.{part}" if part else name
                        yield [str(record.folder), record.recipe, seed, stage, fold, metric, number]
