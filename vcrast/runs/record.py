"""Read a run folder, of which any file may be missing or damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcrast.config.metric import Metric
from vcrast.config.words import natural

Arrays = dict[str, NDArray[Any]]


@dataclass
class RunRecord:
    """The files of one run folder. A file that is absent or unreadable is empty here and named in `missing`."""

    folder: Path
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Arrays] = field(default_factory=dict)
    views: dict[str, Arrays] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> str:
        """The recipe's name, from the summary or else from the resolved settings."""
        return str(self.summary.get("recipe") or self.config.get("recipe") or self.folder.resolve().name)

    @property
    def classes(self) -> list[str]:
        """The class names; numbers where the run ended before its summary was written."""
        names = [str(name) for name in self.summary.get("classes") or []]
        every = self.evaluations.values()
        columns = [arrays[name].shape[1] for arrays in every for name in ("scores", "labels") if name in arrays]
        return names or [f"class {number}" for number in range(max(columns, default=0))]

    def metrics(self, stage: str) -> dict[str, Metric]:
        """How the numbers of a stage are shown, as the run itself has written it down."""
        found = (self.summary.get("metrics") or {}).get(stage) or {}
        return {name: Metric(**values) for name, values in found.items()}

    def parts(self, stage: str) -> list[str]:
        """The parts of a stage's loss."""
        return [str(name) for name in (self.summary.get("parts") or {}).get(stage) or []]

    def note(self, stage: str) -> str:
        """What the objective says of its curves; empty if nothing."""
        return str((self.summary.get("notes") or {}).get(stage) or "")

    @property
    def frame_shift_ms(self) -> float | None:
        """Time between two frames of the saved views."""
        try:
            return float(self.config["features"]["frame_shift_ms"])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def commit(self) -> str:
        """Of the program; empty if it was no clone."""
        return str((self.env.get("git") or {}).get("commit") or "")

    @property
    def has_changes(self) -> bool:
        """Whether files differed from the commit."""
        return bool((self.env.get("git") or {}).get("dirty"))

    @property
    def device(self) -> str:
        """The GPUs that the run saw, or the processor of a machine without."""
        return ", ".join(self.env.get("gpus") or []) or str(self.env.get("cpu") or "")

    @property
    def torch(self) -> str:
        """Its version."""
        return str((self.env.get("packages") or {}).get("torch") or "")


def read_run(folder: str | Path, *, arrays: bool = True) -> RunRecord:
    """Read a run folder.

    Args:
        folder: of a run, finished or not.
        arrays: whether to read the scores, embeddings and views too.

    Raises:
        FileNotFoundError: no such folder, or nothing in it was written by a run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder; runs lie under runs/<recipe>/<time>")
    if not any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl", "summary.json")):
        raise FileNotFoundError(f"{folder}: not a run folder (no config.yaml, metrics.jsonl or summary.json in it)")
    record = RunRecord(folder)
    record.config_text = _text(record, "config.yaml", "the resolved settings")
    record.config = _yaml(record)
    record.commands, record.overrides = read_overrides(folder / "overrides.txt")
    record.env = _json(record, "env.json", "the machine and the versions")
    record.lines = _lines(record)
    record.summary = _json(record, "summary.json", "the final numbers: the run has not finished")
    if not arrays:
        return record
    record.evaluations = _folds(record, "evaluation", "the scores of the test clips: evaluation has not run")
    record.views = _folds(record, "views", "the two views of some clips: pretraining has not saved them")
    return record


def _text(record: RunRecord, name: str, what: str) -> str:
    path = record.folder / name
    if not path.exists():
        record.missing.append(f"{name} ({what})")
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _yaml(record: RunRecord) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        found = OmegaConf.to_container(OmegaConf.create(record.config_text or "{}"))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        record.missing.append(f"config.yaml (not readable as YAML: {str(error).splitlines()[0]})")
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def read_overrides(path: Path) -> tuple[list[str], list[str]]:
    """The command lines of a run, one per start, and the overrides of the first.

    A start is a comment `# <date> <time>  <command>`, followed by its overrides, one a line.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    starts = [number for number, line in enumerate(lines) if line.startswith("# ")]
    commands = [lines[number].split(maxsplit=3)[-1] for number in starts]
    first = lines[: starts[1]] if len(starts) > 1 else lines
    return commands, [line.strip() for line in first if line.strip() and not line.startswith("#")]


def _json(record: RunRecord, name: str, what: str) -> dict[str, Any]:
    text = _text(record, name, what)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        record.missing.append(f"{name} (damaged: {error})")
        return {}
    return value if isinstance(value, dict) else {}


def _lines(record: RunRecord) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl; a line cut by a kill is skipped and counted."""
    found, damaged = [], 0
    for line in _text(record, "metrics.jsonl", "the curves: no step was logged").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        elif line.strip():
            damaged += 1
    if damaged:
        record.missing.append(
            f"{damaged} damaged line{'s' * (damaged > 1)} of metrics.jsonl (cut while being written?)"
        )
    return found


def _folds(record: RunRecord, name: str, what: str) -> dict[str, Arrays]:
    """`<name>/fold_<f>.safetensors` of every fold, in natural order."""
    paths = sorted((record.folder / name).glob("fold_*.safetensors"), key=lambda path: natural(path.stem))
    found: dict[str, Arrays] = {}
    for path in paths:
        try:
            found[path.stem.removeprefix("fold_")] = read_arrays(path)
        except ValueError as error:
            record.missing.append(f"{name}/{path.name} (damaged: {error})")
    if not paths:
        record.missing.append(f"{name}/ ({what})")
    return found


def read_arrays(path: Path) -> Arrays:
    """The tensors of a safetensors file as NumPy arrays, floating ones as float32.

    Raises:
        ValueError: the file is damaged.
    """
    # NumPy has no bfloat16, torch does.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from error
    return {
        name: np.asarray(tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy())
        for name, tensor in tensors.items()
    }
