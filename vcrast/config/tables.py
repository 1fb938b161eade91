"""Read configs/table: rows, columns and sizes of the tables that one command makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vcrast.config.files import config_dir, first_comment, option_files
from vcrast.config.words import suggest

ALL = "all"
PRETRAINING = ("pretrain.", "objective.", "source.")
"""How words begin that are refused where a run does not pretrain."""


@dataclass(frozen=True)
class Scale:
    """How large the runs of a table are.

    Attributes:
        name: such as `esc10`.
        recipe: that all runs follow.
        seeds: of which each row has a run.
        keys: settings that a row calls by another name, as `duration` for `source.duration_s`.
        words: `key=value` of every run.
        objectives: more of them, for runs with that objective.
    """

    name: str
    recipe: str
    seeds: tuple[int, ...]
    keys: Mapping[str, str]
    words: tuple[str, ...]
    objectives: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: what a reader sees.
        words: `key=value` that make it, beside those of scale and table.
        published: what others report for it; empty if nothing.
    """

    label: str
    words: tuple[str, ...]
    published: str = ""


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its file.
        title: its first comment.
        columns: `stage.name` of numbers, as `vcrast compare` takes them.
        words: `key=value` of all rows.
        scales: more of them, by scale.
        rows: in order; differences are those to the first.
        notes: what a reader should know before believing it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    words: tuple[str, ...]
    scales: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def row_words(self, row: Row, scale: Scale) -> tuple[str, ...]:
        """The command line of a row's runs, recipe first, seed and folder left out; the last word on a key wins."""
        own = [_renamed(word, scale.keys) for word in (*self.words, *self.scales.get(scale.name, ()), *row.words)]
        objective = next(
            (value for key, _, value in (word.partition("=") for word in own) if key == "objective"), "vcr"
        )
        words = [f"recipe={scale.recipe}", *scale.words, *scale.objectives.get(objective, ()), *own]
        if any(word.startswith("stages=") and "pretrain" not in word for word in own):
            words = [word for word in words if not word.startswith(PRETRAINING)]
        return tuple({word.partition("=")[0]: word for word in words}.values())


def tables() -> dict[str, Path]:
    """The files of all tables by name."""
    return option_files("table")


def read_tables(name: str) -> list[Table]:
    """Read one table, several between commas, or all.

    Raises:
        ValueError: there is none of that name.
    """
    found = tables()
    names = list(found) if name == ALL else list(dict.fromkeys(name.split(",")))
    for each in names:
        if each not in found:
            raise ValueError(f"table={each}: no configs/table/{each}.yaml; {suggest(each, [*found, ALL])}")
    return [_read(found[each]) for each in names]


def read_scale(name: str) -> Scale:
    """Read a scale; the first there is, without a name.

    Raises:
        ValueError: there is none of that name.
    """
    scales = _content(config_dir() / "table" / "_scales.yaml")
    name = name or next(iter(scales))
    if name not in scales:
        raise ValueError(f"table.scale={name}: no such scale; {suggest(name, scales)}")
    own = scales[name]
    return Scale(
        name, own["recipe"], tuple(own["seeds"]), own["keys"], tuple(own["words"]),
        {objective: tuple(words) for objective, words in own["objectives"].items()},
    )  # fmt: skip


def _read(path: Path) -> Table:
    content = _content(path)
    try:
        return Table(
            path.stem, first_comment(path), tuple(content["columns"]), tuple(content["words"]),
            {scale: tuple(words) for scale, words in content["scales"].items()},
            tuple(
                Row(str(label), tuple(row["words"]), row.get("published", ""))
                for label, row in content["rows"].items()
            ),
            tuple(content["notes"]),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: columns, words, scales, rows and notes make a table ({error})") from None


def _content(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no settings")
    return {str(key): value for key, value in content.items()}


def _renamed(word: str, keys: Mapping[str, str]) -> str:
    key, equals, value = word.partition("=")
    return f"{keys.get(key, key)}{equals}{value}"
