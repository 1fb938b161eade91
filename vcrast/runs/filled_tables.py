"""Fill the tables of configs/table with the numbers of finished runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vcrast.config.metric import Metric
from vcrast.config.tables import Row, Table, read_tables
from vcrast.runs.compare import Comparison, Run, Variant, find_runs, group, measured_folds, notes, shared_folds, to_run
from vcrast.runs.record import read_run

DERIVED = {
    "ms_per_sample": Metric("Time per sample, ms", better="lower", short="ms a sample"),
    "data_ms": Metric("Waiting for data, ms a sample", better="lower", short="data, ms"),
    "compute_ms": Metric("Computing, ms a sample", better="lower", short="compute, ms"),
}
"""Numbers of a training stage that follow from others."""


@dataclass(frozen=True)
class NamedVariant(Variant):
    """Runs of one row of a table, called by its label."""

    row: Row | None = None
    own_label: str = ""

    @property
    def label(self) -> str:
        """The row's, and what tells the variant from others of the same row."""
        return self.own_label


@dataclass(frozen=True)
class FilledTable(Comparison):
    """A table with the runs that fill it.

    Attributes:
        table: its rows, columns and notes.
        scale: of the runs.
        planned: labels of rows that no run has filled yet.
    """

    table: Table | None = None
    scale: str = ""
    planned: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name, scale and what it shows."""
        assert self.table is not None
        return f"Table {self.table.name} ({self.scale}): {self.table.title}"

    def name(self, variant: Variant) -> str:
        """The row's label."""
        return variant.label

    def published(self, variant: Variant) -> str:
        """What others report for a row; empty if nothing."""
        return variant.row.published if isinstance(variant, NamedVariant) and variant.row else ""


def fill_tables(paths: Sequence[str | Path]) -> list[FilledTable]:
    """Fill every table that the runs belong to, one for each scale.

    Args:
        paths: run folders, or folders that hold some.

    Raises:
        FileNotFoundError: a path without runs.
        ValueError: none of them belongs to a table, or has a number yet.
    """
    folders = dict.fromkeys(folder for path in paths for folder in find_runs(Path(path)))
    cells: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for folder in folders:
        record = read_run(folder, arrays=False)
        for cell in (record.config.get("run") or {}).get("cells") or ():
            table, scale, label = str(cell).split("/", 2)
            cells.setdefault((table, scale), {}).setdefault(label, []).append(with_derived(to_run(record)))
    if not cells:
        raise ValueError(f"{', '.join(map(str, paths))}: no run belongs to a table; start one with table=NAME")
    filled = [found for (name, scale), rows in cells.items() if (found := _filled(name, scale, rows)) is not None]
    if not filled:
        raise ValueError(f"{', '.join(map(str, paths))}: no run has a number of its table yet")
    return filled


def rows_per_run(found: FilledTable) -> list[list[Any]]:
    """A header and a row per run: table, scale, row, seed, folder, values with all their digits."""
    assert found.table is not None
    rows: list[list[Any]] = [["table", "scale", "row", "run.seed", "folder", *found.metrics]]
    for variant in found.variants:
        for run in variant.runs:
            values = [run.value(metric, found.folds) for metric in found.metrics]
            rows.append([found.table.name, found.scale, variant.label, run.seed, str(run.folder), *values])
    return rows


def with_derived(run: Run) -> Run:
    """The run with the numbers of `DERIVED` beside those of its training stages."""
    folds = {
        fold: {stage: {**values, **_times(values)} for stage, values in stages.items()}
        for fold, stages in run.folds.items()
    }
    names = {f"{stage}.{name}": metric for stage in ("pretrain", "finetune") for name, metric in DERIVED.items()}
    return replace(run, folds=folds, shown={**run.shown, **names})


def _times(values: Mapping[str, Any]) -> dict[str, float]:
    speed, data, compute = (values.get(name) for name in ("samples_per_s", "data_s", "compute_s"))
    if not speed or data is None or not compute:
        return {}
    each = 1000 / speed
    waiting = data / (data + compute)
    return {"ms_per_sample": each, "data_ms": each * waiting, "compute_ms": each * (1 - waiting)}


def _filled(name: str, scale: str, rows: Mapping[str, Sequence[Run]]) -> FilledTable | None:
    [table] = read_tables(name)
    variants = tuple(
        variant for row in table.rows for variant in _variants(row, rows.get(row.label, ()), table.columns)
    )
    if not variants:
        return None
    runs = [run for variant in variants for run in variant.runs]
    folds, shown = (
        shared_folds(runs, table.columns),
        {name: metric for run in runs for name, metric in run.shown.items()},
    )
    done = [variant.row for variant in variants]
    planned = tuple(row.label for row in table.rows if row not in done)
    said = [*(f"no run is done yet: {label}" for label in planned), *table.notes]
    # Rows of a table differ by design; what else differs is worth a word.
    said += notes(runs, table.columns, folds, variants)
    return FilledTable(variants, table.columns, folds, tuple(said), shown, table, scale, planned)


def _variants(row: Row, runs: Sequence[Run], columns: Sequence[str]) -> Iterator[NamedVariant]:
    """The runs of a row that have a number; several variants where the user has swept something beside the table."""
    found = group([run for run in runs if measured_folds(run, columns)])
    for variant in found:
        own = row.label if len(found) == 1 else f"{row.label}: {variant.label}"
        yield NamedVariant(variant.settings, variant.runs, row, own)
