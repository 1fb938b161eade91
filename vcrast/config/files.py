"""Find `configs/`, its groups and their options, without Hydra or torch."""

from __future__ import annotations

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


def options(group: str) -> Iterator[tuple[str, str]]:
    """(name, first comment line) of every file of a config group."""
    for path in sorted((config_dir() / group).glob("*.yaml")):
        yield path.stem, first_comment(path)


def first_comment(path: Path) -> str:
    """The first comment that is not a directive to Hydra; empty if there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ").rstrip(".")
    return ""
