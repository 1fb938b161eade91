"""metrics.jsonl: valid after a kill at any moment, free of repeats after a resume."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcrast.config.atomic import write_atomic

log = logging.getLogger(__name__)

NAME = "metrics.jsonl"
APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND
RESERVED = ("stage", "fold", "step", "time")


class MetricFile:
    """The file of a run's numbers, open for appending; a line that a kill cut short goes on opening.

    Args:
        run_dir: where the file lies; created if missing.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = Path(run_dir) / NAME
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, APPEND, 0o644)
        self._warned = False
        if self.path.read_bytes() != _text(lines := list(self.lines())).encode():
            log.warning("%s: removing what a kill left half written", self.path)
            self._replace(lines)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line at once. A full disk costs lines and one warning, not the run."""
        content = memoryview(_text([_finite(line)]).encode())
        end = os.fstat(self._descriptor).st_size
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError as error:
            os.ftruncate(self._descriptor, end)
            if not self._warned:
                log.warning("%s: lines are being lost: %s", self.path, error)
            self._warned = True

    def rewind(self, stage: str, fold: str, step: int) -> None:
        """Forget what a resumed run will do again: the lines of this stage and fold after `step`."""
        lines = list(self.lines())
        kept = [line for line in lines if (line["stage"], line["fold"]) != (stage, fold) or line["step"] <= step]
        if len(kept) < len(lines):
            self._replace(kept)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines so far, in order; what is no line of ours is passed over."""
        for text in self.path.read_bytes().splitlines():
            line = _parse(text)
            if line is not None:
                yield line

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _replace(self, lines: list[dict[str, Any]]) -> None:
        write_atomic(self.path, _text(lines))
        # The old descriptor still leads to the replaced file.
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, APPEND, 0o644)


def to_numbers(values: Mapping[str, float | Tensor | None]) -> dict[str, float | None]:
    """Plain numbers of numbers and one-element tensors, with one copy per device."""
    numbers: dict[str, Any] = {}
    by_device: dict[torch.device, list[str]] = {}
    for name, value in values.items():
        if name in RESERVED:
            raise ValueError(f"{name!r} cannot be the name of a metric; choose another than {', '.join(RESERVED)}")
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"metric {name}: a tensor of shape {tuple(value.shape)}; log one number")
            by_device.setdefault(value.device, []).append(name)
        elif not (value is None or isinstance(value, int | float)):
            raise TypeError(f"metric {name}={value!r}: a {type(value).__name__}; log numbers or one-element tensors")
        numbers[name] = value
    for device, names in by_device.items():
        dtype = torch.float32 if device.type == "mps" else torch.float64
        together = torch.stack([values[name].detach().reshape(()).to(dtype) for name in names])  # type: ignore[union-attr]
        numbers.update(zip(names, together.tolist(), strict=True))
    return numbers


def _text(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and {"stage", "fold", "step"} <= line.keys() else None


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """NaN and infinity are no JSON; most readers stop at them, all read null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()
    }
