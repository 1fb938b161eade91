"""Write predictions: text, JSON, CSV, Audacity label tracks, Raven selection tables."""

from __future__ import annotations

import csv
import json
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TextIO

from vcrast.config.words import suggest

SUFFIXES = {".txt": "text", ".jsonl": "jsonl", ".json": "json", ".csv": "csv"}
TRACKS = ("audacity", "raven")
FORMATS = (*SUFFIXES.values(), *TRACKS)
DIGITS = 4  # of times in s
RAVEN = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Label")


@dataclass(frozen=True)
class Prediction:
    """The labels of a sound or a window.

    Attributes:
        sound: its name.
        start_s: begin of the window, or 0.
        end_s: end of the window, or of the sound.
        scores: {label: probability}, those that are shown, the likeliest first.
    """

    sound: str
    start_s: float
    end_s: float
    scores: Mapping[str, float]


class Writer(ABC):
    """Takes predictions one by one, those of a sound after each other."""

    @abstractmethod
    def write(self, found: Prediction) -> None:
        """Write one."""

    def close(self) -> None:  # noqa: B027 - most have nothing left to do
        """Write what is left."""


class Stream(Writer):
    """Writes to a file, made with the first prediction, or to stdout."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._file: TextIO | None = None

    @property
    def file(self) -> TextIO:
        """Where it is written to."""
        if self._file is None:
            self._file = _stdout() if self.out is None else self.out.open("w", encoding="utf-8", newline="")
        return self._file

    def close(self) -> None:
        """Close a file of its own."""
        if self._file is not None and self.out is not None:
            self._file.close()


class Text(Stream):
    """A line for each prediction, for people; names as wide as the widest."""

    def __init__(self, out: Path | None, *, width: int, windows: bool) -> None:
        super().__init__(out)
        self.width, self.windows = width, windows

    def write(self, found: Prediction) -> None:
        """Write one line."""
        times = f"{found.start_s:9.2f} - {found.end_s:9.2f} s  " if self.windows else ""
        scores = "   ".join(f"{label} {100 * score:.1f} %" for label, score in found.scores.items())
        print(f"{_in_line(found.sound):<{self.width}}  {times}{scores or '-'}", file=self.file, flush=True)


class JsonLines(Stream):
    """A JSON object in each line."""

    def __init__(self, out: Path | None, *, windows: bool) -> None:
        super().__init__(out)
        self.windows = windows

    def write(self, found: Prediction) -> None:
        """Write one line."""
        print(json.dumps(self.plain(found), ensure_ascii=not _holds_any_text(self.file)), file=self.file, flush=True)

    def plain(self, found: Prediction) -> dict[str, object]:
        """A prediction as JSON knows it."""
        times = {"start": round(found.start_s, DIGITS), "end": round(found.end_s, DIGITS)} if self.windows else {}
        return {"path": found.sound, **times, "scores": dict(found.scores)}


class JsonArray(JsonLines):
    """One JSON array, written at the end."""

    def __init__(self, out: Path | None, *, windows: bool) -> None:
        super().__init__(out, windows=windows)
        self.all: list[dict[str, object]] = []

    def write(self, found: Prediction) -> None:
        """Keep it."""
        self.all.append(self.plain(found))

    def close(self) -> None:
        """Write the array."""
        if self.all:
            print(json.dumps(self.all, indent=1, ensure_ascii=not _holds_any_text(self.file)), file=self.file)
        super().close()


class Csv(Stream):
    """A row for each label of each prediction: path, start, end, label, score."""

    def write(self, found: Prediction) -> None:
        """Write its rows."""
        first = self._file is None
        writer = csv.writer(self.file, lineterminator="\n")
        if first:
            writer.writerow(["path", "start", "end", "label", "score"])
        for label, score in found.scores.items():
            times = (round(found.start_s, DIGITS), round(found.end_s, DIGITS))
            writer.writerow([found.sound, *times, label, f"{score:.7g}"])  # all digits of a float32
        self.file.flush()


class Track(Writer):
    """A file of labels with their times for each sound; a label goes on as long as the next windows have it, too.

    Args:
        out: folder, or file where there is one sound; None is stdout.
        below: name of each sound -> path below the folder, which names its file.
        top_hz: of the selections of `raven`.
        kind: `audacity` or `raven`.
    """

    def __init__(self, out: Path | None, *, below: Mapping[str, str], top_hz: float, kind: str) -> None:
        self.out, self.below, self.top_hz, self.kind = out, below, top_hz, kind
        self.sound: str | None = None
        self.open: dict[str, list[float]] = {}  # of the last window: label -> begin and end so far
        self.done: list[tuple[float, float, str]] = []
        self.used: set[Path] = set()

    def write(self, found: Prediction) -> None:
        """Lengthen the labels that go on, begin the others."""
        if found.sound != self.sound:
            self.close()
            self.sound = found.sound
        going_on = {}
        for label in found.scores:
            run = self.open.get(label)
            if run is None or found.start_s > run[1] + 10**-DIGITS:
                run = [found.start_s, found.end_s]
            else:
                del self.open[label]
            going_on[label] = [run[0], found.end_s]
        self._end_runs()
        self.open = going_on

    def close(self) -> None:
        """Write the file of the sound that has ended."""
        if self.sound is None:
            return
        self._end_runs()
        text = "".join(self._lines(sorted(self.done)))
        if self.out is None:
            _stdout().write(text)
        else:
            path = self._path(self.out, self.sound)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.sound, self.done = None, []

    def _end_runs(self) -> None:
        self.done += [(start, end, label) for label, (start, end) in self.open.items()]
        self.open = {}

    def _lines(self, runs: list[tuple[float, float, str]]) -> list[str]:
        plain = [(start, end, " ".join(label.split())) for start, end, label in runs]  # no tab or line end in a label
        if self.kind == "audacity":
            return [f"{start:.6f}\t{end:.6f}\t{label}\n" for start, end, label in plain]
        rows = [
            (number, "Spectrogram 1", 1, f"{start:.6f}", f"{end:.6f}", "0.0", f"{self.top_hz:.1f}", label)
            for number, (start, end, label) in enumerate(plain, 1)
        ]
        return ["\t".join(map(str, row)) + "\n" for row in (RAVEN, *rows)]

    def _path(self, out: Path, sound: str) -> Path:
        if len(self.below) == 1 and out.suffix.lower() == ".txt":
            return out
        return free_path(out, self.below[sound], ".txt" if self.kind == "audacity" else ".selections.txt", self.used)


def free_path(out: Path, below: str, ending: str, used: set[Path]) -> Path:
    """`DIR/<path below><ending>`; with the sound's own ending or a number where that is taken.

    Args:
        out: DIR.
        below: path of the sound, see `Sounds.below`.
        ending: of the file.
        used: what is taken; the path is added.
    """
    own = PurePath(below)
    tried = [own.with_name(f"{own.stem}{ending}"), own.with_name(f"{own.name}{ending}")]
    tried += [own.with_name(f"{own.name}-{number}{ending}") for number in range(2, len(used) + 3)]
    path = next(out / each for each in tried if out / each not in used)
    used.add(path)
    return path


def choose_format(asked: str | None, out: Path | None, *, num_sounds: int) -> str:
    """The format that is asked for or that the ending of a file says.

    Raises:
        ValueError: they contradict each other, an ending that says none, or label tracks without a folder.
        FileNotFoundError: the folder of the file does not exist.
    """
    if asked in TRACKS:
        if num_sounds > 1 and (out is None or (out.suffix.lower() in SUFFIXES and not out.is_dir())):
            raise ValueError(f"--format {asked}: one file for each of {num_sounds} sounds; name a folder: --out DIR")
        if out is not None and out.exists() and not out.is_dir() and out.suffix.lower() != ".txt":
            raise ValueError(f"--out {out}: is no folder; --format {asked} writes DIR/<sound>.txt, or one .txt")
        return str(asked)
    if out is None:
        return asked or "text"
    said = SUFFIXES.get(out.suffix.lower())
    if said is None and asked is None:
        raise ValueError(f"--out {out}: {suggest(out.suffix, SUFFIXES)}, or say --format")
    if said is not None and asked is not None and said != asked:
        raise ValueError(f"--out {out}: ends as {said}, but {asked} is asked for; drop one")
    if out.is_dir():
        raise ValueError(f"--out {out}: is a folder; name a file")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: the folder {out.parent} does not exist")
    return asked or str(said)


def open_writer(kind: str, out: Path | None, *, below: Mapping[str, str], windows: bool, top_hz: float) -> Writer:
    """The writer of a format.

    Args:
        kind: of `FORMATS`.
        out: file or folder; None is stdout.
        below: as `Track` needs it.
        windows: whether times are told.
        top_hz: half the model's sample rate.
    """
    if kind == "text":
        return Text(out, width=max(len(_in_line(name)) for name in below), windows=windows)
    if kind == "csv":
        return Csv(out)
    if kind in TRACKS:
        return Track(out, below=below, top_hz=top_hz, kind=kind)
    return (JsonLines if kind == "jsonl" else JsonArray)(out, windows=windows)


def _stdout() -> TextIO:
    """Stdout, where letters that its encoding lacks (Latin-1, cp1252) are escaped rather than end the work."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and not _holds_any_text(sys.stdout):
        reconfigure(errors="backslashreplace")
    return sys.stdout


def _holds_any_text(file: TextIO) -> bool:
    return (file.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def _in_line(name: str) -> str:
    """A name with line ends and the like escaped: it stays on its line."""
    breaks = ("Cc", "Zl", "Zp")
    return "".join(repr(letter)[1:-1] if unicodedata.category(letter) in breaks else letter for letter in name)
