"""Scan a tar of samples: where their sounds lie, what is said of them; none is read."""

from __future__ import annotations

import json
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vcrast.data.foreign.fields import Collector, is_wanted
from vcrast.data.listing import SOUND_KINDS
from vcrast.data.sndfile import SUFFIXES

MEMBER = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)", re.DOTALL)  # what WebDataset takes for key and ending
PACKED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"(\xb5/\xfd": "zstd -d", b"PK": "unzip"}
"""First bytes of compressed files -> what unpacks them."""
ABOUT = (".json", ".cls", ".txt", *SOUND_KINDS)  # what makes a sample of members without a sound
NAMED_KEYS = 1000  # names of fields that are remembered for messages


class Damaged(Exception):
    """A file that is no whole tar; the text says where."""


@dataclass(frozen=True)
class Wanted:
    """What to look for in samples.

    Attributes:
        label: name of the field of labels; None is any usual one.
        fold: of the field of folds; None is any usual one, False none.
        audio: ending of the sound, where samples have several.
    """

    label: str | None
    fold: str | bool | None
    audio: str | None

    def is_sound(self, ending: str) -> bool:
        """Tell whether a member with this ending is the sound of its sample."""
        if self.audio is None:
            return "." + ending.rpartition(".")[2] in SUFFIXES
        asked = self.audio.lower().lstrip(".")
        return ending == asked or ending.endswith("." + asked)


@dataclass
class Samples:
    """The samples of one tar that have one sound each.

    Attributes:
        offset: where each sound begins, in bytes.
        size: of each, in bytes.
        names: of the sounds' members.
        codes: field -> number of each sample's value in `values`, -1 where it has none.
        values: field -> the distinct values.
        keys: names of all fields.
        faults: (member, reason) of other samples.
        whole: the end is marked, as `tar` does it.
    """

    offset: array[int] = field(default_factory=lambda: array("q"))
    size: array[int] = field(default_factory=lambda: array("q"))
    names: list[str] = field(default_factory=list)
    codes: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, list[Any]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    faults: list[tuple[str, str]] = field(default_factory=list)
    whole: bool = True


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    size: int


class _Sample:
    def __init__(self) -> None:
        self.sounds: list[Member] = []
        self.others: list[str] = []
        self.fields: dict[str, Any] = {}
        self.fault = ""


class _Header(tarfile.TarInfo):
    """A header of which no more is read than its place in the tar needs: thrice as fast, of a plain file."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """Read a header, see `tarfile.TarInfo.frombuf`."""
        size, checksum = (buf[start:stop].partition(b"\0")[0].strip() for start, stop in ((124, 136), (148, 156)))
        plain = len(buf) == tarfile.BLOCKSIZE and buf[156:157] == tarfile.REGTYPE and not buf[345]
        if not (plain and size.isdigit() and checksum.isdigit()):
            return super().frombuf(buf, encoding, errors)
        try:
            if sum(buf) - sum(buf[148:156]) + 8 * ord(" ") != int(checksum, 8):
                return super().frombuf(buf, encoding, errors)
            found = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
            found.size = int(size, 8)
        except ValueError:  # an 8 or a 9: no octal number
            return super().frombuf(buf, encoding, errors)
        return found


def scan_tar(path: Path, wanted: Wanted) -> Samples:
    """Read the headers of a tar, and the small files in it that say what the sounds are.

    A sample is what shares a name up to the first dot, wherever in the tar.

    Raises:
        Damaged: compressed, cut, or no tar.
        OSError: it cannot be read.
    """
    samples: dict[str, _Sample] = {}
    found = Samples()
    with open(path, "rb") as file:
        for member in _members(file, found):
            match = MEMBER.fullmatch(member.name)
            if match is None:
                continue
            sample = samples.setdefault(match[1], _Sample())
            ending = match[2].lower()
            if wanted.is_sound(ending):
                sample.sounds.append(member)
            elif (kind := ending.rpartition(".")[2]) in ("json", "cls", "txt"):
                file.seek(member.offset)
                _read_fields(sample, kind, file.read(member.size), wanted, found.keys)
                sample.others.append(ending)
            else:
                sample.others.append(ending)
    _enter(samples, found, wanted)
    return found


def _members(file: BinaryIO, found: Samples) -> Iterator[Member]:
    """Yield the files in a tar; sets `found.whole`."""
    first = file.read(6)
    for begin, command in PACKED.items():
        if first.startswith(begin):
            raise Damaged(f"is compressed: single sounds cannot be reached in it; unpack it, as with `{command}`")
    file.seek(0)
    last = ""
    try:
        tar = tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape")
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # all are kept otherwise
            last = f" in or behind {info.name}"
            if info.isreg() and not info.issparse():
                yield Member(info.name, info.offset_data, info.size)
    except tarfile.TarError as error:
        reason = "it is cut" if "unexpected end" in str(error) else f"no tar ({error})"
        raise Damaged(f"{reason}{last}; copy it again, or remove it") from None
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE and block:
        raise Damaged(f"it is cut{last}; copy it again, or remove it")
    if block.strip(b"\0"):
        raise Damaged(f"damaged{last}: byte {tar.offset} begins no member; copy it again, or remove it")
    found.whole = len(block) == tarfile.BLOCKSIZE


def _read_fields(sample: _Sample, kind: str, content: bytes, wanted: Wanted, keys: set[str]) -> None:
    """Enter what a small file says of its sample."""
    try:
        text = content.decode("utf-8-sig").strip()
        value = json.loads(text) if kind == "json" else text
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        sample.fault = f"its .{kind} cannot be read ({error})"
        return
    if kind == "cls" and text.lstrip("-").isdecimal():
        value = int(text)
    fields = value if isinstance(value, dict) else {kind: value}
    if len(keys) < NAMED_KEYS:
        keys.update(fields)
    sample.fields.update((name, each) for name, each in fields.items() if is_wanted(name, wanted.label, wanted.fold))


def _enter(samples: dict[str, _Sample], found: Samples, wanted: Wanted) -> None:
    """Enter the samples that have one sound."""
    collectors: dict[str, Collector] = {}
    for key, sample in samples.items():
        if not sample.fault and len(sample.sounds) != 1:
            if sample.sounds:
                several = " and ".join(sound.name for sound in sample.sounds[:3])
                sample.fault = f"{len(sample.sounds)} sounds ({several}); data.options.audio=ENDING chooses one"
            elif any("." + ending.rpartition(".")[2] in ABOUT for ending in sample.others):
                asked = f"ending in {wanted.audio}" if wanted.audio else "that is decoded here"
                sample.fault = f"no sound {asked}, only .{' and .'.join(sample.others)}"
            else:  # a picture, a licence: no sample
                continue
        if sample.fault:
            found.faults.append((key, sample.fault))
            continue
        (sound,) = sample.sounds
        for name, value in sample.fields.items():
            collector = collectors.setdefault(name, Collector())
            codes = found.codes.setdefault(name, [])
            codes.extend([-1] * (len(found.names) - len(codes)))
            codes.append(collector.code(value))
        found.offset.append(sound.offset)
        found.size.append(sound.size)
        found.names.append(sound.name)
    for name, codes in found.codes.items():
        codes.extend([-1] * (len(found.names) - len(codes)))
        found.values[name] = collectors[name].values
