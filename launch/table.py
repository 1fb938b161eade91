"""List the runs of a table: for each row one of every seed, what tables share only once."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vcrast.config.compose import compose, to_dict
from vcrast.config.quoting import quote
from vcrast.config.tables import Table, read_scale, read_tables

from .sweep import Point, expand, is_sweep


def points(name: str, scale_name: str, words: Sequence[str]) -> list[Point]:
    """The runs of a table, or of all tables.

    Args:
        name: of the table, several between commas, or `all`.
        scale_name: of the scale.
        words: the user's own, of all runs; they win over the table's. With several values for a key they are swept.

    Raises:
        ValueError: no such table or scale, or a word that would make rows alike.
    """
    scale, own = read_scale(scale_name), {word.partition("=")[0] for word in words}
    found, tables = dict[str, tuple[tuple[str, ...], list[str]]](), read_tables(name)
    for table in tables:
        _refuse_differing(table, words)
        for row in table.rows:
            kept = [word for word in table.row_words(row, scale) if word.partition("=")[0] not in own]
            seeds = [] if "run.seed" in own else [f"run.seed={','.join(map(str, scale.seeds))}"]
            for each, _ in _expanded((*kept, *words, *seeds)):
                # Tables may ask for the same run in other words.
                key = json.dumps(to_dict(compose(each)), sort_keys=True) if len(tables) > 1 else " ".join(each)
                found.setdefault(key, (each, []))[1].append(f"{table.name}/{scale.name}/{row.label}")
    return [
        ((*each, f"run.cells=[{','.join(map(quote, names))}]"), (f"row={names[0]}", *_seed(each)))
        for each, names in found.values()
    ]


def _expanded(words: tuple[str, ...]) -> list[Point]:
    return expand(words) if is_sweep(words) else [(words, ())]


def _seed(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith("run.seed=")]


def _refuse_differing(table: Table, words: Sequence[str]) -> None:
    differing = {word.partition("=")[0] for row in table.rows for word in row.words}
    for word in words:
        if word.partition("=")[0] in differing:
            raise ValueError(f"{word}: the rows of table {table.name} differ in {word.partition('=')[0]}; leave it out")
