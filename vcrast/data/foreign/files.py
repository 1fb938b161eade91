"""Find the files of a packed dataset below a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vcrast.config.schema import DataConfig
from vcrast.data.listing import SKIPPED, in_short
from vcrast.data.processes import num_cores
from vcrast.data.remote import is_remote


def find_files(data: DataConfig, endings: Sequence[str], refused: Sequence[str] = ()) -> tuple[Path, list[Path]]:
    """Return the folder that files lie in, and those below it, sorted; hidden ones are skipped.

    Args:
        data: whose `root` is the folder, or one file.
        endings: of the files, in lower case.
        refused: endings of files that look like the data and cannot be read; they are named.

    Raises:
        FileNotFoundError: `data.root` is not set, or not there.
        ValueError: no such files, or some that cannot be read.
    """
    if data.root is None:
        raise FileNotFoundError(f"data={data.name}: set data.root=FOLDER, or one {endings[0]} file")
    if is_remote(data.root):
        raise ValueError(f"data.root={data.root}: data={data.name} reads files of this machine; fetch them first")
    root = Path(data.root).expanduser().absolute()
    if root.is_file():
        return root.parent, [root]
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={data.root}: no such folder or file")
    found: list[Path] = []
    wrong: list[str] = []
    seen = set()  # a link to a folder above would have no end
    for folder, inside, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            inside.clear()
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name not in SKIPPED)
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if name.lower().endswith(tuple(refused)):
                wrong.append(path.relative_to(root).as_posix())
            elif name.lower().endswith(tuple(endings)):
                found.append(path)
    if wrong:
        raise ValueError(
            f"data.root={data.root}: {len(wrong)} compressed files ({in_short(sorted(wrong))}): single sounds cannot "
            "be reached in them; unpack them, as with `gzip -d`, or move them away"
        )
    if not found:
        raise ValueError(f"data.root={data.root}: no {' or '.join(endings)} files below it")
    return root, sorted(found)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that says what lies beside it.

    Raises:
        ValueError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is damaged, no JSON ({error}); copy it again") from None
    return found if isinstance(found, dict) else {}


@contextmanager
def reading_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that wait for a disk or the network; after an error or Ctrl-C what was not begun is not done any more."""
    pool = ThreadPoolExecutor(max_workers=min(16, 4 * num_cores()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
