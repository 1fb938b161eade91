"""Measure linear layers D -> 4 D of each type: weights, operations, time.

python benchmarks/linear.py [--tokens 1024] [--rounds 10] [--precision auto] [--out FILE] [--small]

All types take turns within a round, so that whatever else the machine does meets them alike; the best round counts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import header, seconds_each
from vcrast.config.compose import read_option
from vcrast.models.backbone import build_backbone
from vcrast.models.linear import build_linear
from vcrast.training.device import AUTOCAST, resolve_precision

WIDTHS = (192, 384, 768)
MODELS = ("tiny", "small", "base")
TYPES: dict[str, dict[str, Any]] = {
    "real": {"name": "real", "module": "vcrast.models.linear"},
    "quaternion": read_option("linear", "quaternion"),
    **{f"phm, n = {n}": {**read_option("linear", "phm"), "n": n} for n in (2, 4, 8)},
}
COLUMNS = ("layer", "linear", "weights", "of real", "GFLOP", "ms", "to real")


def count(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(weight.numel() for weight in module.parameters())


class Case:
    """One layer and its input; `both` is a forward and backward."""

    def __init__(self, linear: dict[str, Any], width: int, num_tokens: int, device: torch.device, precision: str):
        self.layer = build_linear(linear, width, 4 * width).to(device)
        self.values = torch.randn(num_tokens, width, device=device, requires_grad=True)
        self.gradient = torch.randn(num_tokens, 4 * width, device=device)
        self.dtype = AUTOCAST[precision]

    def both(self, _: int = 0) -> None:
        """Gradients of input and weights."""
        with torch.autocast(self.values.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            found = self.layer(self.values)
        found.backward(self.gradient.to(found.dtype))
        self.values.grad = None
        self.layer.zero_grad()

    def flops(self) -> int:
        """Operations of `both` as PyTorch counts them: matrix products, the building of the matrix included."""
        with FlopCounterMode(display=False) as counter:
            self.both()
        return counter.get_total_flops()


def layer_rows(
    widths: list[int], num_tokens: int, rounds: int, device: torch.device, precision: str
) -> list[list[str]]:
    """The table of layers."""
    lines = []
    for width in widths:
        cases = {name: Case(linear, width, num_tokens, device, precision) for name, linear in TYPES.items()}
        times = {name: [seconds_each(case.both, times=1, device=device)] for name, case in cases.items()}
        for _ in range(rounds):
            for name, case in cases.items():
                times[name].append(seconds_each(case.both, times=1, device=device))
        real, real_time = cases["real"], min(times["real"])
        for name, case in cases.items():
            share, best = count(case.layer) / count(real.layer), min(times[name])
            lines.append(
                [f"{width} -> {4 * width}", name, f"{count(case.layer):,}", f"{share:.3f}",
                 f"{case.flops() / 1e9:.2f}", f"{1e3 * best:.2f}", f"{best / real_time:.2f}"]
            )  # fmt: skip
    return lines


def encoder_rows(models: list[str]) -> list[list[str]]:
    """Weights of whole encoders in millions, and their share of the real one's."""
    lines = []
    for model in models:
        found = [encoder_weights(model, linear) for linear in TYPES.values()]
        lines.append(
            [model, f"{found[0] / 1e6:.2f}", *(f"{each / 1e6:.2f} ({each / found[0]:.2f})" for each in found[1:])]
        )
    return lines


def encoder_weights(model: str, linear: dict[str, Any]) -> int:
    """Weights of configs/model/<model>.yaml with this type of layer; nothing is allocated."""
    parts: dict[str, Any] = {"attention": {"name": "softmax"}, "linear": linear}
    with torch.device("meta"):
        encoder = build_backbone(
            read_option("model", model), **parts, num_mel_bins=128, num_frames=512, num_channels=1, patch_stride=None
        )
    return count(encoder)


def table(columns: tuple[str, ...], lines: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (list(columns), ["---"] * len(columns), *lines))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024, help="rows that a layer gets at once")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, help="file for the tables, beside the screen")
    parser.add_argument("--small", action="store_true", help="seconds on one core: shows that it works")
    arguments = parser.parse_args(argv)
    arguments.widths, arguments.models = list(WIDTHS), list(MODELS)
    if arguments.small:
        arguments.widths, arguments.models, arguments.tokens, arguments.rounds = [64], ["tiny"], 32, 2
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    arguments = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(arguments.precision, device)
    notes = f"forward and backward of {arguments.tokens} tokens, best of {arguments.rounds + 1}"
    rows = layer_rows(arguments.widths, arguments.tokens, arguments.rounds, device, precision)
    text = "\n".join(
        [*(f"{line}  " for line in header(device, precision, notes)), "", table(COLUMNS, rows), "",
         table(("encoder, million weights", *TYPES), encoder_rows(arguments.models)), ""]
    )  # fmt: skip
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
