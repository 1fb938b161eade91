"""Time views: whole sets of them, and each change of the sound alone.

python benchmarks/views.py [--batch 32] [--seconds 5] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import Table, header, seconds_each
from vcrast.config.compose import read_option
from vcrast.features.augment import CHANGES
from vcrast.features.draws import Draws
from vcrast.features.fbank import build_fbank
from vcrast.features.views import build_views

RATE = 16000
COLUMNS = ("views", "batch", "seconds", "ms a clip", "more than the filterbank")


def cases() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and options of the views; the first changes nothing and is the filterbank."""
    none = read_option("views", "none")
    yield "none", none
    for name in ("default", "sounds"):
        yield name, read_option("views", name)
    yield "time stretch", {**none, "time_stretch": [0.7, 1.3]}
    for name in CHANGES:
        yield name.replace("_", "-"), {**none, "augment": {**none["augment"], f"{name}_probability": 0.5}}
    yield "all of these changes", {
        **none, "time_stretch": [0.7, 1.3],
        "augment": {**none["augment"], **{f"{name}_probability": 0.5 for name in CHANGES}},
    }  # fmt: skip


@torch.no_grad()
def measure(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[str]]:
    """Rows of the table; all views take turns, and the median round counts."""
    batch = arguments.batch
    fbank = build_fbank(read_option("features", "fbank"), sample_rate=RATE, mean=-5.0, std=4.0).to(device)
    wavs = 0.1 * torch.randn(batch, round(arguments.seconds * RATE), device=device)
    views = {name: build_views(options, fbank=fbank).to(device) for name, options in cases()}
    times: dict[str, list[float]] = {name: [] for name in views}
    for number in range(arguments.rounds + 1):
        for name, made in views.items():
            taken = seconds_each(
                lambda step, made=made: made.make(wavs, Draws(0, step, batch, device=device), "a"),  # type: ignore[misc]
                times=1, device=device, first=number,
            )  # fmt: skip
            if number > 0:  # the first round makes plans and tables
                times[name].append(1000 * taken / batch)
    plain = statistics.median(times["none"])
    for name, taken_ms in times.items():
        middle = statistics.median(taken_ms)
        yield [name, str(batch), f"{arguments.seconds:g}", f"{middle:.3f}", f"{middle - plain:+.3f}"]


def main(argv: list[str] | None = None) -> int:
    """Print the header and the table."""
    parser = argparse.ArgumentParser(description="Views: milliseconds a clip.")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    lines = header(device, "fp32", "16 kHz, 128 mel bins, one view of each clip")
    for text in lines:
        print(f"# {text}", flush=True)
    table = Table(COLUMNS, arguments.json, lines)
    for cells in measure(arguments, device):
        table.add(cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
