"""Find `configs/`, its groups and their options, without Hydra or torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = (
    "data", "source", "features", "views", "model", "attention", "linear", "objective", "optim", "schedule", "engine",
    "slurm",
)  # fmt: skip
LISTS = ("evaluation",)
"""Groups of which a run takes several files: `"evaluation=[knn,linear_probe]"`."""


def config_dir() -> Path:
    """The folder `configs/`: inside an installed package, or at the top of a clone.

    Raises:
        FileNotFoundError: neither exists.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "run.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"no configs/run.yaml in {package} or {package.parent}; reinstall vcrast or use a full clone"
    )


def own_dirs() -> list[Path]:
    """The user's folders of options, which add to `configs/`: $VCRAST_CONFIGS, several joined as in PATH.

    Raises:
        FileNotFoundError: an entry is not a folder.
        ValueError: a file that `configs/` has, too, and that would thus never be read.
    """
    found = []
    for entry in filter(None, os.environ.get("VCRAST_CONFIGS", "").split(os.pathsep)):
        folder = Path(entry).expanduser().resolve()
        if not folder.is_dir():
            raise FileNotFoundError(f"VCRAST_CONFIGS={entry}: no such folder; name one that holds GROUP/OPTION.yaml")
        for path in sorted(folder.rglob("*.yaml")):
            if folder != config_dir() and (config_dir() / path.relative_to(folder)).is_file():
                raise ValueError(f"VCRAST_CONFIGS: {path} has the name of a file of vcrast; give it another one")
        found.append(folder)
    return found


def search_path() -> list[str]:
    """The override that makes Hydra look in `own_dirs`, too; none without them."""
    folders = [f"file://{folder}" for folder in own_dirs()]
    return [f"hydra.searchpath={json.dumps(folders, ensure_ascii=False)}"] if folders else []


def option_files(group: str) -> dict[str, Path]:
    """The file of every option of a config group, sorted by name; those of the user included."""
    found = {path.stem: path for folder in [*own_dirs(), config_dir()] for path in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def options(group: str) -> Iterator[tuple[str, str]]:
    """(name, first comment line) of every file of a config group."""
    for name, path in option_files(group).items():
        yield name, first_comment(path)


def first_comment(path: Path) -> str:
    """The first comment that is not a directive to Hydra; empty if there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").rstrip(".")
    return ""
