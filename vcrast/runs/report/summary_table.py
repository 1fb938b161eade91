"""Print the table that ends a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vcrast.config.saved import read_summary
from vcrast.runs.report.headline import headline


def summary_table(summary: Mapping[str, Any]) -> Table:
    """`summary.json` as a rich table: a row per metric; mean and standard deviation first if there are several folds.

    More than 3 folds do not fit a terminal beside them; `report.html` has them all.
    """
    numbers = headline(summary)
    several = len(numbers.folds) > 1
    shown = numbers.folds if len(numbers.folds) <= 3 else []
    title = escape(str(summary.get("recipe", "run"))) + (f" ({len(numbers.folds)} folds)" if several else "")
    table = Table(title=f"[bold]{title}[/]", title_justify="left")
    table.add_column("", overflow="fold")
    for name in ["mean", "std"] * several + [f"fold {fold}" for fold in shown]:
        table.add_column(escape(name), justify="right", no_wrap=True)
    for group in numbers.groups:
        table.add_section()
        table.add_row(f"[bold]{escape(group.stage)}[/]")
        for row in group.rows:
            cells = [row.mean, row.std] * several + row.cells[: len(shown)]
            table.add_row(f"  {escape(row.label)}", *map(escape, cells))
    return table


def print_summary(folder: str | Path, console: Console | None = None) -> None:
    """Print the table of a run folder's `summary.json`, then the run's warnings.

    Raises:
        FileNotFoundError: the folder holds no summary yet.
    """
    path = Path(folder) / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the run writes it when its first stage is done")
    summary = read_summary(path)
    console = console or Console()
    console.print(summary_table(summary))
    for warning in summary.get("warnings") or []:
        console.print(f"[yellow]warning:[/] {escape(str(warning))}", highlight=False)
