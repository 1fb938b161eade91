"""Name the test clips of a fold, and read the sound of a few of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vcrast.config.saved import load_config
from vcrast.data.audio import MEMBERS, READERS, is_address, read_wav
from vcrast.data.clip import Clip
from vcrast.data.open import build_corpus
from vcrast.data.sources import import_sources
from vcrast.features.fbank import Fbank, build_fbank
from vcrast.runs.record import Arrays, RunRecord
from vcrast.runs.report.listening import BRIGHT, DARK, Sound, picture_address, sound_address

NEEDED = {"path", "start", "duration"}
COLUMNS = NEEDED | {"label", "fold"}
LOUDEST = 0.9  # sample of a sound on the page: clips are heard alike however loud they were recorded


def clips_of_fold(record: RunRecord, fold: str) -> list[Clip]:
    """The test clips of a fold, in the order of its arrays; none where no file of the run tells them for certain."""
    arrays = record.evaluations.get(fold, {})
    count = len(arrays.get("labels", ()))
    rows = _rows(record.folder / "evaluation" / f"predictions_fold_{fold}.csv")
    if not rows:
        rows = [row for row in _rows(record.folder / "clips.csv") if row.get("fold") == fold]
        index = arrays.get("index", np.arange(0))
        # Of clips that were left out as unreadable the file does not know, so that only equal numbers tell.
        fits = len(rows) == len(index) == count and sorted(index.tolist()) == list(range(count))
        rows = [rows[place] for place in index.tolist()] if fits else []
    if len(rows) != count or not _agree(rows, arrays, record.classes):
        return []
    expansion = float((record.config.get("data") or {}).get("time_expansion") or 1.0)
    try:
        return [
            Clip(
                row["path"], (), float(row["start"] or 0.0), float(row["duration"]) if row["duration"] else None,
                time_expansion=expansion,
            )
            for row in rows
        ]  # fmt: skip
    except ValueError:  # a time that is no number: edited by hand
        return []


def name_of(clip: Clip) -> str:
    """What a reader calls a clip: its file, and where in it the clip begins."""
    generated = is_address(clip.path) and clip.path.partition("://")[0] in READERS
    name = clip.path.partition("://")[2].partition("?")[0] if generated else clip.path.rstrip("/").rpartition("/")[2]
    return f"{name}, from {clip.start_s:g} s" if clip.start_s else name


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table of clips, without the columns of their scores, of which there may be hundreds."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.reader(file)
        places = {name: place for place, name in enumerate(next(lines, [])) if name in COLUMNS}
        last = max(places.values(), default=0)
        cells = [line[: last + 1] for line in lines if line]
    # A file that was cut or edited tells nothing for certain.
    if not places.keys() >= NEEDED or any(len(line) <= last for line in cells):
        return []
    return [{name: line[place] for name, place in places.items()} for line in cells]


def _agree(rows: list[dict[str, str]], arrays: Arrays, classes: list[str]) -> bool:
    """Whether the labels of the rows are those of the arrays, where each clip has one."""
    labels = arrays.get("labels")
    if labels is None or not rows or "label" not in rows[0] or not np.all((labels > 0).sum(axis=1) == 1):
        return bool(rows)
    return all(row["label"] == classes[number] for row, number in zip(rows, labels.argmax(axis=1), strict=True))


def read_clip(record: RunRecord, clip: Clip, *, sample_rate: int, longest_s: float) -> NDArray[np.float32]:
    """(S,) samples of a test clip at `sample_rate`, what is longer cut; errors are those of its file or its store."""
    if is_address(clip.path) and clip.path.partition("://")[0] not in {*READERS, *MEMBERS}:
        # A path into an archive or to a generator that is not known yet: the dataset must be opened.
        import_sources((record.config.get("data") or {}).get("module"))
        if clip.path.partition("://")[0] not in {*READERS, *MEMBERS}:
            build_corpus(load_config(record.folder / "config.yaml").data)
    return read_wav(
        clip.path, sample_rate=sample_rate, start_s=clip.start_s,
        duration_s=min(clip.duration_s or longest_s, longest_s), keep_silent=True, time_expansion=clip.time_expansion,
    )  # fmt: skip


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    quoted = isinstance(error, KeyError) and error.args
    return " ".join(str(error.args[0] if quoted else error).split()) or type(error).__name__


class Player:
    """Reads the few clips that a page lets hear, as long as they fit into it.

    Attributes:
        budget: bytes that are left for sounds and pictures.
        faults: of each clip that could not be read, the reason.
        left_out: how many clips had no room.
        placed: of clips that have a player on the page, its id.
    """

    def __init__(self, record: RunRecord, *, budget: int) -> None:
        self.record, self.budget = record, budget
        self.faults: list[str] = []
        self.left_out = 0
        self.data: Mapping[str, Any] = record.config.get("data") or {}
        self.fbank = self._fbank()
        self.placed: dict[tuple[str, float, float | None], str] = {}

    def sound(self, clip: Clip, *, longest_s: float, picture: bool) -> Sound | None:
        """A clip's player, and its picture (else empty); None where it cannot be read or has no room.

        Args:
            clip: of the test clips.
            longest_s: what is longer is cut.
            picture: whether it is needed.
        """
        if self.fbank is None or self.budget <= 0:
            self.left_out += self.fbank is not None
            return None
        rate = self.fbank.sample_rate
        try:
            wav = read_clip(self.record, clip, sample_rate=rate, longest_s=longest_s)
            drawn = self._picture(torch.from_numpy(wav)) if picture else ""
        except Exception as error:  # whatever a codec or a store raises: the page says it and goes on
            self.faults.append(reason(error))
            return None
        scale = LOUDEST / max(float(np.abs(wav).max()), 1e-6)
        found = Sound(sound_address(torch.from_numpy(wav * scale), rate), drawn)
        self.budget -= len(found.audio) + len(found.picture)
        return found

    def _picture(self, wav: torch.Tensor) -> str:
        assert self.fbank is not None
        fbank = self.fbank(wav[None])[0]
        low, high = torch.quantile(fbank.flatten()[:1_000_000], torch.tensor([DARK, BRIGHT])).tolist()
        return picture_address(fbank, low, max(high, low + 1e-3), "jpeg")

    def _fbank(self) -> Fbank | None:
        """What draws the pictures: the run's filterbank; without its settings no sound can be read."""
        features = self.record.config.get("features") or {}
        try:
            return build_fbank({**features, "name": "fbank"}, sample_rate=int(self.data["sample_rate"]))
        except (KeyError, TypeError, ValueError) as error:
            self.faults.append(
                f"config.yaml does not say how sounds are read ({error.args[0] if error.args else error})"
            )
            return None
