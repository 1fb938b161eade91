"""Read the labels and folds that samples have under names of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vcrast.config.words import suggest
from vcrast.data.listing import in_short
from vcrast.data.table.folds import read_folds
from vcrast.data.table.names import column_name, find_column
from vcrast.data.table.roles import KNOWN
from vcrast.data.table.rows import Row, is_empty

CAPTIONS = ("text", "txt", "caption")
"""Fields that hold labels in some sets and sentences in others: labels unless most samples have their own."""
LABEL_TIERS = (*KNOWN["label"], ("cls",), *((name,) for name in CAPTIONS))
FEW = 20  # values that nobody takes for sentences, even if each sample has its own


@dataclass(frozen=True)
class Field:
    """What samples have under one name.

    Attributes:
        codes: (n,) int32, number of each sample's value; -1 where it has none.
        values: the distinct ones, as JSON has them.
        names: of the classes that numbers stand for, where the format says them.
        several: the format says that a sample may have several.
    """

    codes: np.ndarray
    values: Sequence[Any]
    names: tuple[str, ...] | None = None
    several: bool = False


class Collector:
    """Collects the values of a field one by one."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def code(self, value: Any) -> int:
        """Return the number of a value: -1 for none, equal values have equal ones."""
        return -1 if is_empty(value) else self.number.setdefault(json.dumps(value, default=str), len(self.number))

    @property
    def values(self) -> list[Any]:
        """The distinct values, in order of their numbers."""
        return [json.loads(text) for text in self.number]


def collect(values: Iterable[Any], names: tuple[str, ...] | None = None, *, several: bool = False) -> Field:
    """Make a field of the values of all samples."""
    collector = Collector()
    codes = np.fromiter((collector.code(value) for value in values), np.int32)
    return Field(codes, collector.values, names, several)


class Labels(NamedTuple):
    """The labels of n samples.

    Attributes:
        values: class indices of all samples behind one another, int32.
        starts: (n + 1,) int64, where those of each begin.
        missing: (n,) bool, samples without a value.
        classes: their names.
        multilabel: whether a sample may have several.
        field: name of the field; "" if there is none.
        notes: what a reader of the results should know.
    """

    values: np.ndarray
    starts: np.ndarray
    missing: np.ndarray
    classes: tuple[str, ...]
    multilabel: bool
    field: str
    notes: tuple[str, ...]


@lru_cache(maxsize=4096)
def is_wanted(name: str, label: str | None, fold: str | bool | None) -> bool:
    """Tell whether a field may hold labels or folds."""
    key = column_name(name).key
    usual = (*LABEL_TIERS, *KNOWN["fold"])
    asked = [column_name(each).key for each in (label, fold) if isinstance(each, str)]
    return key in asked or any(key in tier for tier in usual)


def choose(
    fields: Mapping[str, Field], tiers: Sequence[Sequence[str]], asked: str | None, setting: str, known: Iterable[str]
) -> str | None:
    """Return the field that plays a role: the one asked for, or that of a usual name; None if there is none.

    Where a sample has its label both as a name and as a number, the name is taken.

    Args:
        fields: of the samples.
        tiers: the usual names, an earlier group's before a later one's.
        asked: its name; None takes a usual one.
        setting: that asks.
        known: names of all fields, for messages.

    Raises:
        ValueError: no such field, or several.
    """
    names = list(fields)
    if asked is not None:
        found = find_column(str(asked), names)
        if found is None:
            raise ValueError(f"{setting}={asked}: no sample has such a field; {suggest(str(asked), known)}")
        return found
    for tier in tiers:
        alike = [name for name in names if column_name(name).key in tier]
        if len(alike) > 1:
            named = [name for name in alike if not _has_numbers(fields[name])]
            alike = named if len(named) == 1 else alike
        if len(alike) > 1:
            raise ValueError(f"samples have the fields {' and '.join(alike)}; choose with {setting}=")
        if alike:
            return alike[0]
    return None


def read_labels(
    fields: Mapping[str, Field], num_samples: int, *, asked: str | None, classes: Any, known: Iterable[str]
) -> Labels:
    """Read the labels of all samples.

    Args:
        fields: those with the usual names, and the one asked for.
        num_samples: n.
        asked: `data.label`.
        classes: `data.options.classes`: names in order, or the path of a file of them.
        known: names of all fields, for messages.

    Raises:
        ValueError: several fields, values that are no labels, unknown ones, numbers without a name.
        FileNotFoundError: no such file of names.
    """
    given = None if classes is None else _given_classes(classes)
    name = choose(fields, LABEL_TIERS, asked, "data.label", known)
    notes: list[str] = []
    if name is None or (asked is None and column_name(name).key in CAPTIONS):
        name = _typed(fields) or name
    if name is not None and asked is None and column_name(name).key in CAPTIONS:
        distinct = len(fields[name].values)
        if distinct > max(FEW, num_samples / 2):
            notes.append(
                f"{name} is another one for most samples: taken for sentences, not labels; data.label={name} takes it"
            )
            name = None
    if given is not None and (name is None or fields[name].names is not None):
        reason = "no sample has a label" if name is None else f"{name} has the names of its classes with it"
        raise ValueError(f"data.options.classes: {reason}; leave it null")
    if name is None:
        there = f"; samples have {in_short(sorted(known))}" if known else ""
        notes.append(f"no labels, for pretraining only: data.label=NAME takes them from a field{there}")
        empty = np.zeros(0, np.int32), np.zeros(num_samples + 1, np.int64), np.zeros(num_samples, bool)
        return Labels(*empty, (), False, "", tuple(notes))
    field = fields[name]
    names = [_names(value, field.names or given, name) for value in field.values]
    chosen = field.names or given or _sorted({label for each in names for label in each})
    number = {label: place for place, label in enumerate(chosen)}
    unknown = sorted({label for each in names for label in each} - set(number))
    if unknown:
        several = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        hint = suggest(unknown[0], number) if len(number) <= 60 else f"it names {len(number)} others"
        raise ValueError(f"data.options.classes: has no {unknown[0]!r}{several}, which are in {name}; {hint}")
    of_value = [[number[label] for label in each] for each in names]
    numbered = (field.names or given) is not None
    values, starts, missing = _spread(field.codes, of_value, [numbered and value == -1 for value in field.values])
    counts = np.diff(starts)
    multilabel = field.several or bool((counts > 1).any())
    notes += [f"labels are {name}"] if asked is None else []
    return Labels(values, starts, missing, chosen, multilabel, name, tuple(notes))


def _typed(fields: Mapping[str, Field]) -> str | None:
    """Return the field that the format says to hold classes, whatever its name.

    Raises:
        ValueError: there are several.
    """
    folds = {name for tier in KNOWN["fold"] for name in tier}
    found = [name for name, each in fields.items() if each.names is not None and column_name(name).key not in folds]
    if len(found) > 1:
        raise ValueError(
            f"samples have the classes {' and '.join(found)}; choose with data.label=, or data.options.labels=false"
        )
    return found[0] if found else None


def read_split_field(field: Field, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of every sample's fold in names of folds; 0 is "", that of a sample without."""
    values = [field.names[v] if field.names and isinstance(v, int) and v >= 0 else v for v in field.values]
    found, _ = read_folds([Row(place, {name: value}) for place, value in enumerate(values)], name, [])
    names = ("", *sorted(set(found) - {""}))
    of_value = np.array([names.index(fold) for fold in found] + [0], np.uint16)
    return of_value[field.codes], names


def _given_classes(classes: Any) -> tuple[str, ...]:
    """Return the names that `data.options.classes` gives: a list, or a file with a name a line, or JSON."""
    if not isinstance(classes, str):
        return tuple(map(str, classes))
    path = Path(classes).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"data.options.classes={classes}: no such file; give one, or a list such as [dog,rain]")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    found = json.loads(text)
    if isinstance(found, dict):  # number -> name, or name -> number
        if all(isinstance(value, int) for value in found.values()):
            found = {str(value): key for key, value in found.items()}
        if sorted(found, key=str) != sorted(map(str, range(len(found)))):
            raise ValueError(f"data.options.classes={classes}: its numbers are not 0 to {len(found) - 1}")
        found = [found[str(number)] for number in range(len(found))]
    if not isinstance(found, list):
        raise ValueError(f"data.options.classes={classes}: expected a list of names")
    return tuple(map(str, found))


def _has_numbers(field: Field) -> bool:
    flat = [part for value in field.values for part in (value if isinstance(value, list) else [value])]
    return all(isinstance(part, int | float) for part in flat)


def _names(value: Any, names: Sequence[str] | None, field: str) -> list[str]:
    """Return the labels in one value: names, or what numbers stand for.

    Raises:
        ValueError: something else, or a number without a name.
    """
    found: list[str] = []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict | list) or (isinstance(part, float) and not part.is_integer()):
            raise ValueError(f"{field}={str(part)[:60]}: is no label; data.label=NAME takes another field")
        text = str(int(part)) if isinstance(part, int | float) else str(part).strip()
        if names is not None and re.fullmatch(r"-?\d+", text) and (not isinstance(part, str) or text not in names):
            if int(text) == -1:  # what datasets write for the labels of a test set that they keep to themselves
                continue
            if not 0 <= int(text) < len(names):
                raise ValueError(f"{field}={text}: has no name among {len(names)} classes; check data.options.classes")
            text = names[int(text)]
        if text:
            found.append(text)
    return list(dict.fromkeys(found))


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else None))


def _spread(
    codes: np.ndarray, of_value: Sequence[Sequence[int]], none: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give every sample the labels of its value: all of them, where each begins, which have none."""
    sizes = np.array([len(each) for each in of_value] + [0], np.int64)  # the last is that of no value
    flat = np.array([label for each in of_value for label in each], np.int32)
    first = np.concatenate([[0], np.cumsum(sizes)])[codes % len(sizes)]
    counts = sizes[codes]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = flat[np.repeat(first - starts[:-1], counts) + np.arange(starts[-1])]
    missing = np.array([*none, True])[codes]
    return values, starts, missing
