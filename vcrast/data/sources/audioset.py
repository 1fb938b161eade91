"""AudioSet: two million segments of 10 s, 527 classes, several a clip; your own copy."""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest
from vcrast.data import ffmpeg
from vcrast.data.audio import explain_suffixes, sound_suffixes
from vcrast.data.clip import Clip
from vcrast.data.clips import Builder
from vcrast.data.corpus import TRAIN, Corpus, fold_names
from vcrast.data.preflight import fault_list
from vcrast.data.settings import refuse_settings

log = logging.getLogger(__name__)

DEFAULT_ROOT = Path("data") / "audioset"
CSV_FOLDERS = ("", "csv", "metadata")  # below `data.root`, in the order in which they are looked through
LABELS = "class_labels_indices.csv"
SEGMENTS = {split: f"{split}_segments.csv" for split in ("unbalanced_train", "balanced_train", "eval")}
EVAL = "eval"
TRAINING = {
    "full": ("unbalanced_train", "balanced_train"),
    "unbalanced": ("unbalanced_train",),
    "balanced": ("balanced_train",),
}
"""What `data.options.train` may be: the 2M of papers are both lists, their 20K the balanced one."""
NUM_CLASSES = 527

# <YTID>, Y<YTID> (as PANNs writes it), and either followed by _<start> or _<start>_<end>. An id may itself begin with Y
# and hold underscores; it always has 11 characters, and without the prefix is tried first.
NAME = re.compile(r"(?:([\w-]{11})|Y([\w-]{11}))(?:_(\d+(?:\.\d+)?)(?:[_-]\d+(?:\.\d+)?)?)?", re.ASCII)


class Segment(NamedTuple):
    """One line of a segment list; `labels` as written, `/m/...` separated by commas."""

    line: int
    video: str
    start_s: float
    labels: str


class Files:
    """Sound files below a folder, by the video that their name states.

    Folders are listed once and no file is opened or asked for its size: on a network disk two million of either take
    longer than the first epoch.

    Attributes:
        path: of each file, by video, or by video and start where the name has one.
        ignored: endings that downloaders leave behind and that cannot be decoded here, counted.
    """

    def __init__(self, root: Path) -> None:
        self.path: dict[str, str] = {}
        self.ignored: Counter[str] = Counter()
        self.num_used = 0
        readable = frozenset(sound_suffixes())
        for entry in _entries(root):
            stem, _, ending = entry.name.rpartition(".")
            named = NAME.fullmatch(stem)
            if named is None:
                continue
            suffix = f".{ending.lower()}"
            if suffix in readable:
                key = _key(named[1] or named[2], None if named[3] is None else float(named[3]))
                other = self.path.setdefault(key, entry.path)
                if entry.path < other:  # of a file that is there twice, the same one on every machine
                    self.path[key] = entry.path
            elif suffix in ffmpeg.SUFFIXES:
                self.ignored[suffix] += 1

    def pop(self, video: str, start_s: float) -> str | None:
        """Return the file of a segment, "" if it was returned before, or None if there is none."""
        key = video
        if key not in self.path:
            key = _key(video, start_s)
        if key not in self.path:
            key = _key(video, 1000 * start_s)  # names may state the start in milliseconds
        path = self.path.get(key)
        if path:
            self.num_used += 1
            self.path[key] = ""
        return path


@SOURCES.register("audioset")
def audioset(data: DataConfig) -> Corpus:
    """Open the segments of the official lists whose sound file is below `data.root`, in the lists' order.

    Folds are `train` (`data.options.train`: full, unbalanced or balanced) and `eval`. No copy of AudioSet is complete;
    segments without a file are counted and said, because a mean average precision means little without the counts.

    Raises:
        FileNotFoundError: no segment lists at `data.root`, nor where `vcrast data download audioset` puts them.
        ValueError: a damaged list, a label that is not among the classes, the same segment twice, or no sound at all.
    """
    refuse_settings(data, options=("train",))
    asked = data.options["train"]
    if asked not in TRAINING:
        raise ValueError(f"data.options.train={asked}: {suggest(str(asked), TRAINING)}")
    start, lists = find_lists(data, (*TRAINING[asked], EVAL))
    classes = read_classes(lists / LABELS)
    files = Files(start)
    faults: list[str] = []
    clips = Builder()
    notes: list[str] = []
    number = {mid: index for index, mid in enumerate(classes)}
    for split in (*TRAINING[asked], EVAL):
        before = len(clips)
        total = _append(lists / SEGMENTS[split], EVAL if split == EVAL else TRAIN, number, files, clips, faults)
        notes.append(f"audioset: {len(clips) - before} of the {total} clips of {split} have a sound file")
    if faults:
        raise ValueError(f"{lists}: {len(faults)} faults in the segment lists{fault_list(faults)}")
    if not len(clips):
        raise ValueError(_no_sound(start, files))
    if left := len(files.path) - files.num_used:
        log.info("audioset: %d sound files belong to no segment of these lists", left)
    if files.ignored.total():
        notes.append(f"audioset: {_unreadable(files)}")
    found = clips.clips()
    return Corpus("audioset", found, tuple(classes.values()), True, fold_names(found), notes=tuple(notes), listed=True)


def find_lists(data: DataConfig, splits: tuple[str, ...]) -> tuple[Path, Path]:
    """Find the folder of the data, and the one below it with the lists of these splits and of the classes."""
    start = DEFAULT_ROOT if data.root is None else Path(data.root).expanduser()
    needed = [SEGMENTS[split] for split in splits] + [LABELS]
    missing = {start / name: [each for each in needed if not (start / name / each).is_file()] for name in CSV_FOLDERS}
    # Where some of the lists are, the others are expected.
    lists = min(missing, key=lambda folder: len(missing[folder]))
    if not missing[lists]:
        return start, lists
    place = f"data.root is not set and {lists}" if data.root is None else f"data.root={data.root}: {lists}"
    raise FileNotFoundError(
        f"data=audioset: {place} has no {', '.join(missing[lists])}; run `vcrast data download audioset "
        f"--root {lists}`, or set data.root=FOLDER"
    )


def read_classes(path: Path) -> dict[str, str]:
    """Read the name of every class by machine id (`/m/...`), in the order of their numbers.

    Raises:
        ValueError: not the 527 classes, numbered from 0.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"index", "mid", "display_name"} - set(reader.fieldnames or ()):
            raise ValueError(f"{path}: no column {min(missing)!r}; it has {', '.join(reader.fieldnames or ())}")
        rows = [(cells["index"], cells["mid"], cells["display_name"]) for cells in reader]
    if [index for index, _, _ in rows] != [str(index) for index in range(NUM_CLASSES)]:
        raise ValueError(f"{path}: {len(rows)} classes, expected {NUM_CLASSES}, numbered from 0 in order")
    classes = {mid: name for _, mid, name in rows}
    if len(classes) < NUM_CLASSES or not all(classes.values()):
        raise ValueError(f"{path}: a class is there twice or has no name")
    return classes


def read_segments(path: Path, faults: list[str]) -> Iterator[Segment]:
    """Yield the lines of a segment list; those that cannot be read go to `faults`.

    Three comment lines, then `YTID, start, end, "mid,mid"`: a blank after each comma, so that the quotes count only
    when it is skipped.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        try:
            for cells in reader:
                if not cells or cells[0].startswith("#"):
                    continue
                try:
                    video, start, end, labels = cells
                    start_s, end_s = float(start), float(end)
                    if not 0 <= start_s < end_s < math.inf:
                        raise ValueError
                    yield Segment(reader.line_num, video, start_s, labels)
                except ValueError:
                    shown = ", ".join(cells)
                    faults.append(f'{path.name} line {reader.line_num}: not `YTID, start, end, "mid,mid"`: {shown}')
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); fetch it anew") from None


def _append(path: Path, fold: str, number: dict[str, int], files: Files, clips: Builder, faults: list[str]) -> int:
    """Append the segments of one list that have a file; returns how many the list has."""
    total = 0
    known: dict[str, tuple[int, ...]] = {}
    for segment in read_segments(path, faults):
        total += 1
        labels = known.get(segment.labels)
        if labels is None:
            mids = [mid.strip() for mid in segment.labels.split(",")]
            unknown = [mid for mid in mids if mid not in number]
            if unknown:
                faults.append(f"{path.name} line {segment.line}: label {unknown[0]!r} is not in {LABELS}")
                continue
            labels = known[segment.labels] = tuple(dict.fromkeys(number[mid] for mid in mids))
        sound = files.pop(segment.video, segment.start_s)
        if sound == "":
            faults.append(f"{path.name} line {segment.line}: {segment.video} is listed twice")
        elif sound is not None:
            clips.append(Clip(sound, labels, fold=fold))
    return total


def _key(video: str, start: float | None) -> str:
    # A blank is in no name that matches, so that no video looks like another one's start.
    return video if start is None else f"{video} {round(1000 * start)}"


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield all files below a folder; hidden names are left out, each folder is visited once."""
    folders, seen, suffixes = [str(root)], {os.path.realpath(root)}, sound_suffixes()
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                # The ending first: some network disks need another round trip to tell a file from a folder.
                if entry.name.endswith(suffixes):
                    if not entry.name.startswith("."):
                        yield entry
                elif entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real not in seen and not entry.name.startswith("."):
                        seen.add(real)
                        folders.append(entry.path)
                else:
                    yield entry


def _unreadable(files: Files) -> str:
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(files.ignored.items()))
    return f"{counts} files cannot be decoded here; {explain_suffixes(files.ignored)}"


def _no_sound(root: Path, files: Files) -> str:
    text = (
        f"data.root={root}: no segment of AudioSet has a sound file there; they are called <YTID>.wav, Y<YTID>.wav or "
    )
    text += f"<YTID>_<start>.wav ({', '.join(sound_suffixes())}), in any folders"
    return f"{text}; {_unreadable(files)}" if files.ignored.total() else text
