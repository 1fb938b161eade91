"""Generated pairs: how many a second, and which share of a pretraining step they take; a check over very many draws.

python benchmarks/synth.py [--model small] [--batch 256] [--seconds 2 5] [--draws 1000000]
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.device import header, seconds_each
from vcrast.compose import compose
from vcrast.config import Config
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.build import build_encoder
from vcrast.objectives.vcr import VCR
from vcrast.stream import OF_THE_BATCH, doppelgangers
from vcrast.synth.pairs import Doppelgangers
from vcrast.training.engine import TorchEngine, resolve_precision
from vcrast.training.exact import exact_backward
from vcrast.training.optim import adamw

COLUMNS = ("clip", "batch", "layers", "pairs/s", "x real time", "pairs ms", "training ms", "share of the step")
TINY = ["model.embed_dim=48", "model.depth=2", "model.num_heads=3", "objective.projector_dims=[64,64,64]"]


def settings(arguments: argparse.Namespace, seconds: float) -> Config:
    """The settings of a row: those of recipe `synth` with the model and the sizes asked for."""
    words = [
        "recipe=synth", f"model={arguments.model}", f"pretrain.batch_size={arguments.batch}",
        f"source.duration_s={seconds}", f"source.num_layers={arguments.layers}", *(TINY if arguments.tiny else []),
    ]  # fmt: skip
    return compose([*words, *arguments.overrides])


def sounds_of(config: Config, device: torch.device) -> Doppelgangers:
    """The stream of pairs of some settings."""
    options = {key: value for key, value in config.source.items() if key not in OF_THE_BATCH}
    return doppelgangers(config.data, seed=0, device=device, **options)


def training_seconds(
    config: Config, wavs: torch.Tensor, arguments: argparse.Namespace, precision: str, device: torch.device
) -> float:
    """Time of a step on pairs that are there already: views, encoder, loss, backward, optimiser."""
    fbank = Fbank(sample_rate=config.data.sample_rate, mean=config.data.mean, std=config.data.std)
    encoder = build_encoder(
        config.model, attention=config.attention, linear=config.linear, num_mel_bins=config.features.num_mel_bins,
        num_frames=fbank.num_frames(wavs.shape[2]), patch_stride=None, drop_path=0.0,
    )  # fmt: skip
    views = Views(fbank, **vars(config.views))
    dims = list(config.objective["projector_dims"])
    objective = VCR(encoder=encoder, views=views, projector_dims=dims).to(device).train()
    optimizer = adamw(objective, lr=1e-4)
    engine = TorchEngine(objective, optimizer, precision=precision, device=device, clip_grad_norm=3.0)

    def step(number: int) -> None:
        draws = Draws(0, number, len(wavs), device=device)
        exact_backward(engine, objective, wavs, None, draws, micro_batch_size=None)
        engine.step(lr=1e-4)

    seconds_each(step, times=arguments.warmup, device=device)
    return seconds_each(step, times=arguments.steps, device=device, first=arguments.warmup)


def measure(arguments: argparse.Namespace, seconds: float, precision: str, device: torch.device) -> list[str]:
    """One row of the table."""
    config = settings(arguments, seconds)
    sounds = sounds_of(config, device)

    def generate(number: int) -> torch.Tensor:
        return sounds.batch(number, arguments.batch).wavs

    seconds_each(generate, times=arguments.warmup, device=device)
    taken = seconds_each(generate, times=arguments.steps, device=device, first=arguments.warmup)
    training = training_seconds(config, generate(0), arguments, precision, device)
    rate = arguments.batch / taken
    return [
        f"{seconds:g} s", str(arguments.batch), str(sounds.num_layers), f"{rate:,.1f}", f"{2 * rate * seconds:,.0f}",
        f"{1000 * taken:.1f}", f"{1000 * training:.1f}", f"{taken / (taken + training):.1%}",
    ]  # fmt: skip


def check_draws(arguments: argparse.Namespace, device: torch.device) -> str:
    """Render at least `--draws` sounds of half a second and count those that are not finite, clip, or are silent."""
    sounds = sounds_of(settings(arguments, 0.5), device)
    bad, loudest, quietest = 0, 0.0, math.inf
    size = 500
    steps = math.ceil(arguments.draws / (2 * size))
    for step in range(steps):
        wavs = sounds.batch(step, size).wavs.flatten(0, 1)
        peaks = wavs.abs().amax(dim=1)
        spread = wavs.unfold(1, 400, 200).var(dim=2, correction=0).amax(dim=1).sqrt()
        bad += int((~(torch.isfinite(wavs).all(dim=1) & (peaks <= 1) & (spread > 0.01 * peaks) & (peaks > 0))).sum())
        loudest, quietest = max(loudest, float(peaks.max())), min(quietest, float(peaks.min()))
    return (
        f"{2 * size * steps:,} sounds: {bad} not finite, clipped or silent; peaks from {quietest:.4f} to {loudest:.4f}"
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed of generated pairs, alone and within a pretraining step.")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="other settings of recipe synth")
    parser.add_argument("--model", default="small", help="a file of configs/model")
    parser.add_argument("--batch", type=int, default=256, help="pairs of a batch")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0], help="lengths of the clips")
    parser.add_argument("--layers", type=int, default=2, help="layers of a sound")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=5, help="timed, after --warmup")
    parser.add_argument("--warmup", type=int, default=2, help="steps before")
    parser.add_argument("--draws", type=int, default=0, help="also check that so many sounds are finite and audible")
    parser.add_argument("--tiny", action="store_true", help="a toy model, for trying the script out")
    arguments = parser.parse_args(argv)
    for name in ("batch", "steps", "warmup", "layers"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: must be at least 1")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Print the header, the table, and what the check found."""
    arguments = parse(argv)
    device = torch.device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    notes = [
        f"command: synth.py {' '.join(sys.argv[1:] if argv is None else argv)}",
        f"model {arguments.model}; a training step is timed on pairs that are there already",
    ]
    for text in header(device, precision, *notes):
        print(f"# {text}")
    print(f"\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for seconds in arguments.seconds:
        print(f"| {' | '.join(measure(arguments, seconds, precision, device))} |", flush=True)
    if arguments.draws:
        print(f"\n{check_draws(arguments, device)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"synth.py: error: {error}")
