"""Copy the code of a job when it is submitted: later edits cannot change a waiting job."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vcrast.config.files import own_dirs
from vcrast.runs.environment import SNAPSHOT_FILE, git_state

TOPS = ("vcrast", "launch", "extensions", "configs")
"""What a run needs; a wheel has all of it in vcrast. From a git checkout every other file of `KINDS` comes along."""
KINDS = (".py", ".yaml", ".yml")
SKIPPED = ("__pycache__", ".pyc")


def source_files(root: Path) -> list[Path]:
    """Paths below `root` that make up the code, sorted: in a git checkout whatever git tracks or would offer to add.

    Args:
        root: top of a checkout or of a copy, or the folder that vcrast was installed into.
    """
    found = [path for path in list(_from_git(root)) or list(_from_folders(root)) if (root / path).is_file()]
    return sorted(path for path in found if not any(part.endswith(SKIPPED) for part in path.parts))


def fingerprint(root: Path, files: list[Path]) -> str:
    """A short hash of names and contents."""
    digest = hashlib.sha256()
    for path in files:
        content = (root / path).read_bytes()
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def take(root: Path, folder: Path) -> Path:
    """Copy the code to `folder`/<fingerprint> and return that; the same code is copied once.

    A copy is complete when it has its final name, and is never written to again.
    """
    files = source_files(root)
    name = fingerprint(root, files)
    target, aside = folder / name, folder / f".{name}.{os.getpid()}"
    if target.is_dir():
        return target
    try:
        for path in files:
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, aside / path)
        # Files may have changed while they were copied.
        if fingerprint(aside, files) != name:
            raise ValueError(f"{root}: files were edited while the code was copied; submit again")
        (aside / SNAPSHOT_FILE).write_text(json.dumps({"git": git_state(root), "files": len(files)}, indent=2) + "\n")
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def take_own_options(folder: Path) -> str:
    """Copy the user's folders of options to `folder`/options-<fingerprint>; what $VCRAST_CONFIGS is in the job."""
    copies = []
    for own in own_dirs():
        files = sorted(path.relative_to(own) for path in own.rglob("*.yaml"))
        copies.append(folder / f"options-{fingerprint(own, files)}")
        for path in files:
            (copies[-1] / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(own / path, copies[-1] / path)
    return os.pathsep.join(map(str, copies))


def _from_git(root: Path) -> Iterator[Path]:
    """Nothing unless `root` is the top of a checkout; a folder inside another project's is none."""
    try:
        top = _git(root, "rev-parse", "--show-toplevel").strip()
        listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") if Path(top) == root else ""
    except (OSError, subprocess.CalledProcessError):
        return
    for path in map(Path, filter(None, listed.split("\0"))):
        if path.parts[0] in TOPS or path.suffix in KINDS:
            yield path


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout


def _from_folders(root: Path) -> Iterator[Path]:
    # Beside an installed vcrast other packages may have these names.
    for top in TOPS[:1] if (root / "vcrast" / "configs").is_dir() else TOPS:
        yield from (path.relative_to(root) for path in (root / top).rglob("*"))
