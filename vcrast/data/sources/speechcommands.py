"""Speech Commands V2: 105,829 recordings of 35 words, 1 s at 16 kHz.

Source: Warden 2018, "Speech Commands: A dataset for limited-vocabulary speech recognition", arXiv:1804.03209.
Licence: CC BY 4.0.
"""

from __future__ import annotations

import logging
from pathlib import Path

from vcrast.config.registry import SOURCES
from vcrast.config.schema import DataConfig
from vcrast.data.clip import Clip
from vcrast.data.corpus import TRAIN, Corpus, fold_names
from vcrast.data.layout import NOISE
from vcrast.data.listing import find_sounds, in_short
from vcrast.data.settings import published_folder, refuse_settings
from vcrast.data.split_lists import SplitLists, read_split_lists

log = logging.getLogger(__name__)

DEFAULT_ROOT = Path("data") / "speechcommands"
ARCHIVE_FOLDER = "speech_commands_v0.02"
LISTS = ("testing_list.txt", "validation_list.txt")
WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy",
    "house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop",
    "three", "tree", "two", "up", "visual", "wow", "yes", "zero",
)  # fmt: skip
ADDED = {"backward", "follow", "forward", "learn", "visual"}
"""Words that version 0.01 does not have."""


@SOURCES.register("speechcommands")
def speechcommands(data: DataConfig) -> Corpus:
    """Open all 35 words; files in neither list are `train`, the lists' are `val` and `test`.

    Raises:
        FileNotFoundError: no Speech Commands at `data.root`, nor at the place of `vcrast data download speechcommands`.
        ValueError: folders of other words, or lists that do not fit the files.
    """
    refuse_settings(data, options=())
    root = find_root(data)
    lists = read_lists(root)
    found = find_sounds(root).sounds
    names = [path.relative_to(root).as_posix() for path in found]
    notes = lists.check(root, names)
    number = {word: index for index, word in enumerate(WORDS)}
    clips = []
    for path, name in zip(found, names, strict=True):
        word, _, rest = name.partition("/")
        if word == NOISE or not rest:
            continue
        if word not in number:
            raise ValueError(f"{root / word}: no word of Speech Commands V2; data=folder opens any words")
        clips.append(Clip(str(path), (number[word],), fold=lists.split_of(name) or TRAIN))
    if missing := [WORDS[i] for i in sorted(set(range(len(WORDS))) - {clip.labels[0] for clip in clips})]:
        old = " (this is version 0.01)" if set(missing) == ADDED else ""
        raise ValueError(f"{root}: no recording of {in_short(missing)}{old}; run `vcrast data download speechcommands`")
    return Corpus("speechcommands", tuple(clips), WORDS, False, fold_names(clips), notes=tuple(notes), listed=True)


def find_root(data: DataConfig) -> Path:
    """Find the folder with the lists, see `published_folder`."""
    return published_folder(data, ARCHIVE_FOLDER, LISTS)


def read_lists(root: Path) -> SplitLists:
    """Read the two lists; errors as in `read_split_lists`."""
    lists = read_split_lists(root)
    if lists is None or not set(LISTS) <= set(lists.files):
        raise ValueError(f"{root}: {' and '.join(LISTS)} are not both there")
    return lists
