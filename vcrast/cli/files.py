"""Read the sound files given to a verb one by one; name and leave out bad ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.inference import Model


def find_sounds(paths: Sequence[str]) -> list[str]:
    """Files as given, folders searched through, sorted; each file once.

    Raises:
        FileNotFoundError: a path that does not exist, or nothing to read.
    """
    from vcrast.data.audio import SUFFIXES, is_generated

    found: dict[str, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            inside = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
            found.update(dict.fromkeys(sorted(map(str, inside))))
        elif path.exists() or is_generated(given):
            found[given] = None
        else:
            raise FileNotFoundError(f"{given}: no such file or folder")
    if not found:
        raise FileNotFoundError(f"{', '.join(paths)}: no sound files there; looked for {', '.join(SUFFIXES)}")
    return list(found)


def read_sounds(model: Model, paths: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """(path, samples) of every readable file; the others are named on stderr and counted at the end."""
    bad = 0
    for path in paths:
        try:
            clips, _ = model.read(path)
        except ValueError as error:
            bad += 1
            print(f"left out: {error}", file=sys.stderr)
        else:
            yield path, clips[0]
    if bad:
        print(f"{bad} of {len(paths)} files left out", file=sys.stderr)
