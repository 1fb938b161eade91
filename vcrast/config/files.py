"""Find `configs/`, its groups and their options, without Hydra or torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

GROUPS = (
    "data", "source", "features", "views", "model", "attention", "linear", "objective", "optim", "schedule", "engine",
    "slurm",
)  # fmt: skip
LISTS = ("evaluation",)
"""Groups of which a run takes several files: `"evaluation=[knn,linear_probe]"`."""
VARIABLE, FOLDER, SCHEME = "VCRAST_CONFIGS", "vcrast_recipes", "vcrast"


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


def add_own_dirs(given: Sequence[str] = ()) -> None:
    """Add folders to $VCRAST_CONFIGS, for this program and those that it starts: `given`, and `vcrast_recipes` here.

    Raises:
        ValueError: a folder that the variable could not hold.
    """
    known = [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
    for entry in [*given, *([FOLDER] if Path(FOLDER).is_dir() else [])]:
        path = str(Path(entry).expanduser().absolute())
        if os.pathsep in path:
            raise ValueError(f"--recipes {entry}: {path} has a {os.pathsep!r} in it; give the folder another name")
        if path not in known:
            known.append(path)
    if known:
        os.environ[VARIABLE] = os.pathsep.join(known)


def own_dirs() -> list[Path]:
    """The user's folders of options, which add to `configs/`: $VCRAST_CONFIGS, several joined as in PATH.

    Each holds `GROUP/OPTION.yaml`; the files at its top are recipes.

    Raises:
        FileNotFoundError: an entry is not a folder.
        ValueError: an option of which there is another with this name, so that one would never be read.
    """
    found: list[Path] = []
    seen: dict[Path, Path] = {}
    for entry in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        folder = Path(entry).expanduser().resolve()
        if not folder.is_dir():
            raise FileNotFoundError(f"{VARIABLE}={entry}: no such folder; name one that holds GROUP/OPTION.yaml")
        if folder in (*found, config_dir()):
            continue
        for path in sorted(folder.rglob("*.yaml")):
            option = path.relative_to(folder)
            option = Path("recipe") / option if len(option.parts) == 1 else option
            if (config_dir() / option).is_file():
                raise ValueError(f"{path} has the name of a file of vcrast; give it another one")
            if other := seen.get(option):
                raise ValueError(f"{path} has the name of {other}; give one of them another")
            seen[option] = path
        found.append(folder)
    return found


def search_path() -> list[str]:
    """The override that makes Hydra look in `own_dirs`, too; none without them."""
    folders = [f"{SCHEME}://{folder}" for folder in own_dirs()]
    return [f"hydra.searchpath={json.dumps(folders, ensure_ascii=False)}"] if folders else []


def option_files(group: str) -> dict[str, Path]:
    """The file of every option of a config group, sorted by name; those of the user included.

    A file whose name begins with `_` is no option: others inherit from it.
    """
    places = [folder / group for folder in [*own_dirs(), config_dir()]]
    if group == "recipe":
        places += own_dirs()
    return dict(sorted((path.stem, path) for place in places for path in place.glob("[!_]*.yaml")))


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
