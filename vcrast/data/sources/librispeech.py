"""LibriSpeech: read English books at 16 kHz; its speakers are the classes.

Source: Panayotov et al. 2015, "LibriSpeech: an ASR corpus based on public domain audio books",
doi:10.1109/ICASSP.2015.7178964. Licence: CC BY 4.0.

The published subsets share no speaker, so they cannot test who is speaking. Here every speaker's utterances are split:
ordered by the BLAKE2b hash of their ids, the first tenth is `test`, the next `val`, the rest `train`. The split depends
on nothing but the ids and is the same for any choice of subsets.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest
from vcrast.data.clip import Clip
from vcrast.data.corpus import TRAIN, Corpus, fold_names
from vcrast.data.hashing import stable_hash
from vcrast.data.listing import find_sounds, in_short
from vcrast.data.preflight import fault_list
from vcrast.data.settings import published_folder, refuse_settings

DEFAULT_ROOT = Path("data") / "librispeech"
ARCHIVE_FOLDER = "LibriSpeech"
NUM_UTTERANCES = {
    "dev-clean": 2703, "dev-other": 2864, "test-clean": 2620, "test-other": 2939,
    "train-clean-100": 28_539, "train-clean-360": 104_014, "train-other-500": 148_688,
}  # fmt: skip
HELD_OUT = 10  # one utterance in ten for each of `test` and `val`
UTTERANCE = re.compile(r"(\d+)-(\d+)-(\d+)")


class Utterance(NamedTuple):
    """A sound file: its id (`speaker-chapter-number`), its speaker, its path."""

    id: str
    speaker: str
    path: str


@SOURCES.register("librispeech")
def librispeech(data: DataConfig) -> Corpus:
    """Open `data.options.subsets` with the speakers as classes and the splits `train`, `val`, `test` within each.

    Raises:
        FileNotFoundError: a subset is not at `data.root`, nor at the place of `vcrast data download librispeech`.
        ValueError: an unknown subset, or files that are not named as LibriSpeech names them.
    """
    refuse_settings(data, options=("subsets",))
    subsets = chosen_subsets(data.options["subsets"])
    root = published_folder(data, ARCHIVE_FOLDER, subsets)
    utterances, notes = [], []
    for subset in subsets:
        found = read_subset(root / subset)
        utterances += found
        if len(found) != NUM_UTTERANCES[subset]:
            notes.append(f"librispeech: {len(found)} of the {NUM_UTTERANCES[subset]} utterances of {subset} are here")
    speakers = tuple(sorted({utterance.speaker for utterance in utterances}, key=int))
    number = {speaker: index for index, speaker in enumerate(speakers)}
    split = split_utterances(utterances)
    clips = tuple(
        Clip(utterance.path, (number[utterance.speaker],), fold=split[utterance.id]) for utterance in utterances
    )
    return Corpus("librispeech", clips, speakers, False, fold_names(clips), notes=tuple(notes), listed=True)


def chosen_subsets(asked: object) -> list[str]:
    """Return the subsets that a setting names: one, or a list.

    Raises:
        ValueError: none, one that does not exist, or one twice.
    """
    names = (
        [str(name) for name in asked] if isinstance(asked, Sequence) and not isinstance(asked, str) else [str(asked)]
    )
    for name in names:
        if name not in NUM_UTTERANCES:
            raise ValueError(f"data.options.subsets={name}: {suggest(name, NUM_UTTERANCES)}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"data.options.subsets={names}: name each subset once")
    return names


def read_subset(folder: Path) -> list[Utterance]:
    """List the utterances of a subset, `<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac`, by their ids.

    Audio may be of another format, and be missing; other files are left alone.

    Raises:
        ValueError: no utterance, or files whose folders say another speaker or chapter; lists the first 20.
    """
    utterances, faults = [], []
    for path in find_sounds(folder).sounds:
        named = UTTERANCE.fullmatch(path.stem)
        if named is None:
            continue
        if path.relative_to(folder).parts[:-1] != (named[1], named[2]):
            faults.append(f"{path}: does not lie in {folder.name}/{named[1]}/{named[2]}")
        utterances.append(Utterance(path.stem, named[1], str(path)))
    if faults:
        raise ValueError(f"{folder}: {len(faults)} files of another speaker or chapter{fault_list(faults)}")
    if not utterances:
        raise ValueError(f"{folder}: no <speaker>/<chapter>/<speaker>-<chapter>-<number>.flac")
    counts = Counter(utterance.id for utterance in utterances)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ValueError(f"{folder}: there twice, in two formats: {in_short(twice)}")
    return sorted(utterances, key=lambda found: tuple(map(int, found.id.split("-"))))


def split_utterances(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Split every speaker's utterances: id -> `train`, `val` or `test`.

    Of n utterances max(1, n // 10) are `test`, as many `val`; of two one is `test`, a single one is `train`.
    """
    spoken: dict[str, list[str]] = defaultdict(list)
    for utterance in utterances:
        spoken[utterance.speaker].append(utterance.id)
    split: dict[str, str] = {}
    for ids in spoken.values():
        held_out = max(1, len(ids) // HELD_OUT)
        ordered = sorted(ids, key=lambda name: (stable_hash(f"librispeech {name}"), name))
        parts = ["test"] * held_out + ["val"] * held_out
        parts = parts[: len(ids) - 1]  # something is left to train on
        split |= dict(zip(ordered, [*parts, *[TRAIN] * (len(ids) - len(parts))], strict=True))
    return split
