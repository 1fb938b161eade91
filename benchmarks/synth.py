"""Measure generated pairs per second and their share of a step; check many draws.

python benchmarks/synth.py [--model small] [--batch 256] [--seconds 2 5]
python benchmarks/synth.py --draws 1000000 [--first 0] [--draw-seconds 0.5]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import Table, header, seconds_each
from benchmarks.training import SMALL, build_training
from vcrast.config.compose import compose, read_option
from vcrast.config.schema import Config
from vcrast.data.streams import OF_THE_BATCH, doppelgangers
from vcrast.data.synth.pairs import Doppelgangers
from vcrast.features.fbank import build_fbank
from vcrast.training.device import resolve_precision

COLUMNS = ("clip", "batch", "layers", "pairs/s", "x real time", "pairs ms", "training ms", "share of the step")
SPEED_SECONDS = (2.0, 5.0)
# Length of all the pairs that are checked at once: at 16 kHz 16 MB, which the allocator of glibc keeps for the next.
BLOCK_S = 128.0
WINDOW_S = 0.025  # in one of them at least something must move
REPORT_S = 10.0  # between two lines of progress
NAMED = 10  # bad sounds that are listed


def settings(arguments: argparse.Namespace, seconds: float) -> Config:
    """The settings of a row: those of recipe `synth` with the model and the sizes asked for."""
    words = [
        "recipe=synth", f"model={arguments.model}", f"pretrain.batch_size={arguments.batch}",
        f"source.duration_s={seconds}", f"source.num_layers={arguments.layers}", *(SMALL if arguments.tiny else ()),
    ]  # fmt: skip
    return compose([*words, *arguments.overrides])


def sounds_of(config: Config, device: torch.device) -> Doppelgangers:
    """The stream of pairs of some settings."""
    options = {key: value for key, value in config.source.items() if key not in OF_THE_BATCH}
    return doppelgangers(config.data, seed=0, device=device, **options)


def training_seconds(
    config: Config, wavs: Tensor, arguments: argparse.Namespace, precision: str, device: torch.device
) -> float:
    """Time of a step on pairs that are there already: views, encoder, loss, backward, optimiser."""
    num_frames = build_fbank(read_option("features", "fbank"), sample_rate=config.data.sample_rate).num_frames(
        wavs.shape[2]
    )
    training = build_training(config, num_frames=num_frames, precision=precision, device=device)

    def step(number: int) -> None:
        training.step(wavs, number)

    seconds_each(step, times=arguments.warmup, device=device)
    return seconds_each(step, times=arguments.steps, device=device, first=arguments.warmup)


def measure(arguments: argparse.Namespace, seconds: float, precision: str, device: torch.device) -> list[str]:
    """One row of the table."""
    config = settings(arguments, seconds)
    sounds = sounds_of(config, device)

    def generate(number: int) -> Tensor:
        return sounds.batch(number, arguments.batch).wavs

    seconds_each(generate, times=arguments.warmup, device=device)
    taken = seconds_each(generate, times=arguments.steps, device=device, first=arguments.warmup)
    training = training_seconds(config, generate(0), arguments, precision, device)
    rate = arguments.batch / taken
    return [
        f"{seconds:g} s", str(arguments.batch), str(sounds.num_layers), f"{rate:,.1f}", f"{2 * rate * seconds:,.0f}",
        f"{1000 * taken:.1f}", f"{1000 * training:.1f}", f"{taken / (taken + training):.1%}",
    ]  # fmt: skip


class Tally(NamedTuple):
    """What a check has found: sounds done, numbers of the bad ones, quietest and loudest peak."""

    sounds: int = 0
    bad: tuple[int, ...] = ()
    quietest: float = math.inf
    loudest: float = 0.0

    def plus(self, wavs: Tensor, first: int, window: int) -> Tally:
        """With sounds `first`, `first + 1`, ... of the stream, (n, S)."""
        peaks, good = audible(wavs, window)
        bad = [first + row for row in (~good).nonzero().flatten().tolist()]
        quietest, loudest = (float(value) for value in peaks.aminmax())
        return Tally(
            self.sounds + len(wavs), (*self.bad, *bad), min(self.quietest, quietest), max(self.loudest, loudest)
        )

    def __str__(self) -> str:
        text = f"{self.sounds:,} sounds: {len(self.bad)} not finite, clipped or silent"
        if self.bad:
            text += f" (numbers {', '.join(map(str, self.bad[:NAMED]))}{', ...' if len(self.bad) > NAMED else ''})"
        return text + (f"; peaks from {self.quietest:.4f} to {self.loudest:.4f}" if self.sounds else "")


def audible(wavs: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(n, S) -> (n,) peaks, and whether a sound is finite, within [-1, 1], and moves in some window of samples."""
    peaks = wavs.abs().amax(dim=1)
    spread = wavs.unfold(1, window, window).var(dim=2, correction=0).amax(dim=1).sqrt()
    # A sample that is not a number makes the peak one that is not, which no comparison lets pass.
    return peaks, (peaks <= 1) & (peaks > 0) & (spread > 0.01 * peaks)


def check_draws(arguments: argparse.Namespace, device: torch.device) -> tuple[Tally, bool]:
    """Render `--draws` sounds from `--first` on, with progress on standard error.

    Returns:
        What was found, and whether all sounds were done; False after an interrupt (Ctrl-C).
    """
    sounds = sounds_of(settings(arguments, arguments.draw_seconds), device)
    size = max(1, int(BLOCK_S / arguments.draw_seconds / sounds.chunk)) * sounds.chunk
    window = round(WINDOW_S * sounds.grid.sample_rate)
    first, last = arguments.first // 2, (arguments.first + arguments.draws + 1) // 2
    tally, started = Tally(), time.perf_counter()
    reported = started
    try:
        for start in (first, *range(first - first % size + size, last, size)):
            stop = min(start - start % size + size, last)
            wavs = sounds.batch(0, last, start=start, stop=stop).wavs.flatten(0, 1)
            tally = tally.plus(wavs, 2 * start, window)
            now = time.perf_counter()
            if now - reported >= REPORT_S or stop == last:
                reported = now
                rate, asked = tally.sounds / (now - started), 2 * (last - first)
                print(
                    f"{tally.sounds:,} of {asked:,} sounds, {rate:,.0f} sounds/s, {len(tally.bad)} bad",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
    except KeyboardInterrupt:
        return tally, False
    return tally, True


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed of generated pairs, alone and within a pretraining step.")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings of recipe synth")
    parser.add_argument("--model", default="small", help="a file of configs/model")
    parser.add_argument("--batch", type=int, default=256, help="pairs of a batch")
    parser.add_argument(
        "--seconds", type=float, nargs="+", help="lengths of the clips whose speed is measured (2 5; none with --draws)"
    )
    parser.add_argument("--layers", type=int, default=2, help="layers of a sound")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=5, help="timed, after --warmup")
    parser.add_argument("--warmup", type=int, default=2, help="steps before")
    parser.add_argument("--draws", type=int, default=0, help="check that so many sounds are finite and audible")
    parser.add_argument("--first", type=int, default=0, help="sound to begin the check with, an even number")
    parser.add_argument("--draw-seconds", type=float, default=0.5, help="length of the sounds checked")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there, each as it is done")
    parser.add_argument("--tiny", action="store_true", help="a toy model, for trying the script out")
    arguments = parser.parse_args(argv)
    for name in ("batch", "steps", "warmup", "layers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: must be at least 1")
    if arguments.draws < 0 or arguments.first < 0:
        parser.error(f"--draws {arguments.draws} --first {arguments.first}: must not be negative")
    if arguments.first % 2:
        parser.error(f"--first {arguments.first}: sounds come in pairs, give an even number")
    if arguments.first and not arguments.draws:
        parser.error(f"--first {arguments.first}: of a check only; say with --draws how many sounds")
    if arguments.seconds is None:
        arguments.seconds = [] if arguments.draws else list(SPEED_SECONDS)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Print the header, the table, and what the check found.

    Returns:
        0; 1 if the check found bad sounds, 130 if it was interrupted.
    """
    arguments = parse(argv)
    device = torch.device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    notes = [f"command: synth.py {' '.join(sys.argv[1:] if argv is None else argv)}"]
    if arguments.seconds:
        notes.append(f"model {arguments.model}; a training step is timed on pairs that are there already")
    lines = header(device, precision, *notes)
    for text in lines:
        print(f"# {text}", flush=True)
    if arguments.seconds:
        table = Table(COLUMNS, arguments.json, lines)
        for seconds in arguments.seconds:
            table.add(measure(arguments, seconds, precision, device))
    if not arguments.draws:
        return 0
    tally, finished = check_draws(arguments, device)
    print(f"\n{tally}", flush=True)
    if not finished:
        left = arguments.draws - tally.sounds
        print(f"interrupted; the rest: --first {arguments.first + tally.sounds} --draws {left}", flush=True)
        return 130
    return 1 if tally.bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"synth.py: error: {error}")
