"""Say which column of a table plays which role: path, label, fold, start, end, duration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vcrast.config.words import suggest
from vcrast.data.table.names import column_name, find_column

Tiers = tuple[tuple[str, ...], ...]
KNOWN: dict[str, Tiers] = {
    "path": (
        ("path",),
        ("filepath", "audiopath", "audiofilepath", "wavpath", "soundpath", "relativepath", "fullpath", "beginpath"),
        (
            "file", "filename", "fname", "wav", "audio", "wavfile", "audiofile", "soundfile", "audiofilename",
            "wavfilename", "slicefilename", "beginfile",
        ),
    ),
    "label": (
        ("label", "labels"),
        (
            "category", "categories", "class", "classes", "classname", "classlabel", "labelname", "eventlabel", "event",
            "scenelabel", "primarylabel", "species", "annotation", "annotations", "tag", "tags",
        ),
        ("commonname", "scientificname"),
        ("target", "classid", "labelid"),
    ),
    "fold": (("fold",), ("split",), ("set", "subset", "partition")),
    "start": (("start",), ("starttime", "onset", "begin", "begintime", "tstart", "eventonset")),
    "end": (("end",), ("endtime", "stop", "stoptime", "tend", "eventoffset")),
    "duration": (("duration",), ("dur", "length", "deltatime")),
}  # fmt: skip
"""Role -> the usual names of its column (`column_name(...).key`). Those of an earlier group come before a later one's;
of two in one group neither does, and the user chooses."""
PATHS = frozenset(name for group in KNOWN["path"] for name in group)
OFFSET = "offset"  # the end where there is an onset (DCASE), else the start (NeMo, lhotse)
LOOKS: dict[str, frozenset[str]] = {
    "start": frozenset(("start", "starts", "begin", "begins", "beginning", "onset", "t0", "tmin", "from", "offset")),
    "end": frozenset(("end", "ends", "stop", "stops", "offset", "t1", "tmax", "to", "until")),
    "duration": frozenset(("duration", "dur", "length", "len")),
    "fold": frozenset(
        ("fold", "folds", "split", "splits", "set", "subset", "partition", "train", "test", "val", "valid")
    )
    | {"validation", "dev", "eval", "istrain", "istest", "isval", "isvalid"},
    "label": frozenset(
        ("label", "labels", "class", "classes", "category", "species", "tag", "tags", "target", "genre")
    ),
}
"""Role -> words in a column's name that make it look like the role, a number at their end left out."""
SETTINGS = {"label": "data.label", "fold": "data.options.fold"}
"""Role -> the setting that names its column beside `data.options.columns`."""


@dataclass(frozen=True)
class Roles:
    """The column of each role; None where there is none."""

    path: str
    label: str | None
    fold: str | None
    start: str | None
    end: str | None
    duration: str | None

    def used(self) -> dict[str, str]:
        """Role -> its column, of those that have one."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {role: column for role, column in values.items() if column is not None}


def chosen_columns(columns: Mapping[str, Any], *, label: str | None, fold: Any) -> dict[str, Any]:
    """Join the settings that name columns: role -> name, False for no column, None for the usual names.

    Raises:
        ValueError: an unknown role, a value that is no name, or two settings for one role.
    """
    if not isinstance(columns, Mapping):
        raise ValueError(
            f"data.options.columns={columns}: set data.options.columns.ROLE=NAME; roles: {', '.join(KNOWN)}"
        )
    unknown = [role for role in columns if role not in KNOWN]
    if unknown:
        raise ValueError(f"data.options.columns.{unknown[0]}: no such role; {suggest(str(unknown[0]), KNOWN)}")
    chosen = {role: columns.get(role) for role in KNOWN}
    for role, value in (("label", label), ("fold", fold)):
        if value is not None and chosen[role] is not None and chosen[role] != value:
            raise ValueError(
                f"{SETTINGS[role]}={value} and data.options.columns.{role}={chosen[role]}: set one of them"
            )
        chosen[role] = value if value is not None else chosen[role]
    for role, value in chosen.items():
        if value is True or value == "":
            raise ValueError(f"data.options.columns.{role}={value!r}: give a column's name, or false for none")
    return {role: value if value is None or value is False else str(value) for role, value in chosen.items()}


def choose_roles(names: list[str], chosen: Mapping[str, Any], path: Path) -> tuple[Roles, list[str]]:
    """Return the columns of the roles, and lines on what else the names may mean.

    Args:
        names: of the table's columns.
        chosen: what `chosen_columns` returns.
        path: of the table, for messages.

    Raises:
        ValueError: no column of paths, a column that does not exist, or several for one role.
    """
    said: list[str] = []
    keys = {column_name(name).key for name in names}
    off = {role for role, value in chosen.items() if value is False}
    if {"slicefilename", "fsid"} <= keys and chosen["start"] is None and chosen["end"] is None:
        off |= {"start", "end"}
        said.append(
            "start and end are places in the recordings that UrbanSound8K was cut from, not in its files: not used"
        )
    taken = {role: _named(role, value, names, path) for role, value in chosen.items() if isinstance(value, str)}
    free = [name for name in names if name not in taken.values()]
    tiers = _with_offset(names)
    for role in KNOWN:
        if role not in taken and role not in off:
            found = _usual(role, tiers[role], free, path)
            if found is not None:
                taken[role] = found
    if "path" not in taken:
        raise ValueError(
            f"{path}: no column of paths ({', '.join(('path', 'file', 'filename', 'file_name'))}, ...); it has "
            f"{', '.join(names)}; data.options.columns.path=NAME takes one"
        )
    roles = Roles(taken["path"], *(taken.get(role) for role in ("label", "fold", "start", "end", "duration")))
    return roles, said + _look_alikes(names, roles, off)


def _named(role: str, name: str, names: list[str], path: Path) -> str:
    found = find_column(name, names)
    if found is None:
        setting = SETTINGS.get(role, f"data.options.columns.{role}")
        raise ValueError(f"{setting}={name}: {path} has no such column; {suggest(name, names)}")
    return found


def _with_offset(names: list[str]) -> dict[str, Tiers]:
    """Return the usual names, with `offset` as the end where there is an onset, else as the start."""
    keys = {column_name(name).key for name in names}
    role = "end" if keys & {"onset", "eventonset"} else "start"
    return {**KNOWN, role: (*KNOWN[role], (OFFSET,))}


def _usual(role: str, tiers: Tiers, names: list[str], path: Path) -> str | None:
    """Return the column of the first group of usual names that has one."""
    for group in tiers:
        found = [name for name in names if column_name(name).key in group]
        if len(found) > 1:
            setting = SETTINGS.get(role, f"data.options.columns.{role}")
            raise ValueError(f"{path} has the columns {' and '.join(found)}; choose with {setting}=")
        if found:
            return found[0]
    return None


def _look_alikes(names: list[str], roles: Roles, off: set[str]) -> list[str]:
    """Name the columns that are not used and look like a role that no column plays."""
    used = roles.used()
    missing = [role for role in LOOKS if role not in used and role not in off]
    if "end" in used or "duration" in used:
        missing = [role for role in missing if role not in ("end", "duration")]
    lines = []
    for name in names:
        words = {shape for word in column_name(name).words for shape in (word, word.rstrip("0123456789"))}
        role = next((role for role in missing if words & LOOKS[role]), None)
        if role and name not in used.values():
            like = f"an {role}" if role == "end" else f"a {role}"
            lines.append(
                f"column {name!r} looks like {like} and is not used; data.options.columns.{role}={name} takes it"
            )
    return lines
