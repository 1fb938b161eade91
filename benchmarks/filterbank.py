"""Time filterbanks: ours on a batch, Kaldi's clip by clip, reading a file with either.

python benchmarks/filterbank.py [--batch 96] [--seconds 5] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import Table, header, seconds_each
from vcrast.config.compose import read_option
from vcrast.features.fbank import build_fbank

RATE = 16000
COLUMNS = ("what", "batch", "seconds", "clips/s", "largest difference")


def kaldi_fbank(wav: Tensor) -> Tensor:
    """(S,) -> (T, 128), as the AST's program calls it."""
    wav = (wav - wav.mean()).unsqueeze(0)
    return kaldi.fbank(
        wav, htk_compat=True, sample_frequency=RATE, use_energy=False, window_type="hanning", num_mel_bins=128,
        dither=0.0,
    )  # fmt: skip


def read(files: list[Path]) -> Tensor:
    """(B, S)."""
    return torch.stack([torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in files])


@torch.no_grad()
def measure(arguments: argparse.Namespace, folder: Path, device: torch.device) -> list[list[str]]:
    """Rows of the table; the median round counts."""
    files = [folder / f"{number}.wav" for number in range(arguments.batch)]
    for file in files:
        soundfile.write(file, 0.1 * torch.randn(round(arguments.seconds * RATE)).numpy(), RATE)
    wavs, fbank = read(files), build_fbank(read_option("features", "fbank"), sample_rate=RATE).to(device)
    there = wavs.to(device)
    works: dict[str, Callable[[int], Tensor]] = {
        "ours, a batch on the device": lambda _: fbank(there),
        "reading and ours": lambda _: fbank(read(files).to(device)),
        "reading and Kaldi's, one by one": lambda _: torch.stack([kaldi_fbank(wav) for wav in read(files)]),
    }
    expected = torch.stack([kaldi_fbank(wav) for wav in wavs])
    times: dict[str, list[float]] = {name: [] for name in works}
    differences = {name: float((work(0).cpu() - expected).abs().max()) for name, work in works.items()}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            times[name].append(seconds_each(work, times=1, device=device))
    return [
        [name, str(arguments.batch), f"{arguments.seconds:g}", f"{arguments.batch / statistics.median(taken):,.0f}",
         f"{differences[name]:.1g}"]
        for name, taken in times.items()
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print the header and the table."""
    parser = argparse.ArgumentParser(description="Filterbanks a second: ours and Kaldi's.")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    lines = header(device, "fp32", "16 kHz, 128 mel bins, 25 ms windows every 10 ms")
    for text in lines:
        print(f"# {text}", flush=True)
    table = Table(COLUMNS, arguments.json, lines)
    with tempfile.TemporaryDirectory() as folder:
        for cells in measure(arguments, Path(folder), device):
            table.add(cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
