"""A page to listen to: generated pairs side by side, their spectrograms and parameters; one file without scripts."""

from __future__ import annotations

import base64
import io
import os
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.image
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from vcrast.report.style import SEQUENTIAL
from vcrast.synth.pairs import Doppelgangers
from vcrast.synth.program import KINDS
from vcrast.synth.space import Parameter

DARK, BRIGHT = 0.05, 0.999  # quantiles of a page's log-mel values that become the ends of the colours


@dataclass(frozen=True)
class Sound:
    """One of the two: its WAV file and its spectrogram, as data addresses."""

    audio: str
    picture: str


@dataclass(frozen=True)
class Row:
    """One parameter of both sounds, as text; `same` where it was not shifted."""

    name: str
    group: str
    first: str
    second: str
    same: bool


@dataclass(frozen=True)
class Card:
    """One pair."""

    number: int
    caption: str
    sounds: list[Sound]
    tables: list[tuple[str, list[Row]]]


def write_listening_page(
    path: Path, sounds: Doppelgangers, fbank: Callable[[Tensor], Tensor], *, num_pairs: int, command: str
) -> Path:
    """Write the first pairs of a stream as one HTML file.

    Args:
        path: of the page; written aside and renamed.
        sounds: the stream.
        fbank: (B, S) waveforms -> (B, T, F) log-mel values, what the encoder sees.
        num_pairs: how many.
        command: that makes the page again, shown on it.

    Returns:
        `path`.
    """
    pairs = sounds.batch(0, num_pairs)
    wavs, units = pairs.wavs.flatten(0, 1), pairs.units.flatten(0, 1)
    pictures = fbank(wavs).cpu()
    low, high = torch.quantile(
        pictures.flatten()[:: max(1, pictures.numel() // 1_000_000)], torch.tensor([DARK, BRIGHT])
    )
    heard = [
        Sound(wav_address(wav, sounds.grid.sample_rate), picture_address(picture, float(low), float(high)))
        for wav, picture in zip(wavs.cpu(), pictures, strict=True)
    ]
    values = {name: value.cpu() for name, value in sounds.space.physical(units).items()}
    cards = [
        Card(n + 1, caption(values, 2 * n, sounds.num_layers), heard[2 * n : 2 * n + 2], tables(sounds, values, 2 * n))
        for n in range(num_pairs)
    ]
    environment = Environment(
        loader=PackageLoader("vcrast.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    distances = ", ".join(f"{name} {value:g}" for name, value in sounds.distances(0).items())
    text = environment.get_template("listening.html").render(
        cards=cards, command=command, distances=distances, duration_s=f"{sounds.grid.duration_s:g}", seed=sounds.seed
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    return path


def wav_address(wav: Tensor, sample_rate: int) -> str:
    """(S,) in [-1, 1] -> a 16-bit WAV file as a data address."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((wav.clamp(-1, 1) * 32767).round().short().numpy().astype("<i2").tobytes())
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture_address(fbank: Tensor, low: float, high: float) -> str:
    """(T, F) log-mel values -> a PNG with low frequencies at the bottom, as a data address."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(
        buffer,
        fbank.T.flip(0).numpy(),
        vmin=low,
        vmax=high,
        cmap=SEQUENTIAL,
        format="png",
        pil_kwargs={"optimize": True},
    )
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def caption(values: dict[str, Tensor], row: int, num_layers: int) -> str:
    """What each layer is, in words: the recipe that both sounds share, with the first one's values."""

    def value(layer: int, name: str) -> float:
        return float(values[f"{layer}/{name}"][row, 0])

    parts = []
    for layer in range(1, num_layers + 1):
        kind = KINDS[int(value(layer, "kind"))]
        pace = {
            "bursts": f"bursts at {value(layer, 'burst_hz'):.2g} Hz",
            "onsets": f"{value(layer, 'count'):.0f} onset" + "s" * (value(layer, "count") > 1),
            "slow modulation": f"swelling at {value(layer, 'slow_hz'):.2g} Hz",
        }[kind]
        share = value(layer, "noise_share")
        made_of = f"tone of {value(layer, 'f0_hz'):.0f} Hz" if share < 0.5 else "noise"
        if 0.1 < share < 0.9:
            made_of = f"tone of {value(layer, 'f0_hz'):.0f} Hz and noise"
        parts.append(f"{made_of}, {pace}")
    return "; ".join(parts)


def tables(sounds: Doppelgangers, values: dict[str, Tensor], row: int) -> list[tuple[str, list[Row]]]:
    """All parameters of a pair: one table for each layer, one for the whole."""
    titles = {f"{n}/": f"Layer {n}" for n in range(1, sounds.num_layers + 1)} | {"": "The whole"}
    return [(title, list(rows(sounds, values, row, prefix))) for prefix, title in titles.items()]


def rows(sounds: Doppelgangers, values: dict[str, Tensor], row: int, prefix: str) -> Iterator[Row]:
    """The parameters whose name begins with `prefix`, or that have none."""
    for parameter in sounds.space.parameters:
        head, slash, name = parameter.name.rpartition("/")
        if head + slash == prefix:
            first, second = (shown(parameter, values[parameter.name][row + n]) for n in range(2))
            yield Row(name, parameter.group, first, second, first == second)


def shown(parameter: Parameter, numbers: Tensor) -> str:
    """(size,) values as text, short where there are many."""
    if parameter.name.endswith("kind"):
        return KINDS[int(numbers[0])]
    small = ".3g" if parameter.size == 1 else ".2f" if parameter.high <= 1 and parameter.low >= 0 else ".0f"
    return ", ".join(f"{number:.0f}" if abs(number) >= 100 else f"{number:{small}}" for number in numbers.tolist())
