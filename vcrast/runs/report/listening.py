"""Write a page to listen to generated pairs, with spectrograms and parameters."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcrast.data.sndfile import can_write, encode
from vcrast.data.synth.pairs import Doppelgangers
from vcrast.data.synth.space import Parameter
from vcrast.runs.report.style import SEQUENTIAL
from vcrast.runs.report.write import address, write_page

DARK, BRIGHT = 0.05, 0.999  # quantiles of a page's log-mel values that become the ends of the colours

CODECS = (
    ("OGG", "OPUS", "audio/ogg", (8000, 12000, 16000, 24000, 48000), 0.94),
    ("OGG", "VORBIS", "audio/ogg", None, 0.9),
    ("MP3", "MPEG_LAYER_III", "audio/mpeg", (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 0.1),
)
"""Container, codec, MIME type, the rates that it takes (None: any that a player has) and how much it compresses."""
FASTEST_HZ = 48000  # that browsers play; faster sounds stay WAV files


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
        Card(n + 1, sounds.program.caption(values, 2 * n), heard[2 * n : 2 * n + 2], tables(sounds, values, 2 * n))
        for n in range(num_pairs)
    ]
    distances = ", ".join(f"{name} {value:g}" for name, value in sounds.distances(0).items())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        path, "listening.html", cards=cards, command=command, distances=distances,
        duration_s=f"{sounds.grid.duration_s:g}", seed=sounds.seed,
    )  # fmt: skip
    return path


def wav_address(wav: Tensor, sample_rate: int) -> str:
    """(S,) in [-1, 1] -> a 16-bit WAV file as a data address."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((wav.clamp(-1, 1) * 32767).round().short().numpy().astype("<i2").tobytes())
    return address("audio/wav", buffer.getvalue())


def sound_address(wav: Tensor, sample_rate: int) -> str:
    """(S,) in [-1, 1] -> an Opus file as a data address; Vorbis, MP3 or WAV where Opus lacks the rate or the writer."""
    for container, codec, kind, rates, compression in CODECS:
        fits = sample_rate in rates if rates else sample_rate <= FASTEST_HZ
        if fits and can_write(container, codec):
            coded = encode(wav.numpy(), sample_rate, format_name=container, subtype=codec, compression=compression)
            return address(kind, coded)
    return wav_address(wav, sample_rate)


def picture_address(fbank: Tensor, low: float, high: float, kind: str = "png") -> str:
    """(T, F) log-mel values -> a picture with low frequencies at the bottom, as a data address; `jpeg` is smaller."""
    return pixels_address(fbank.T.flip(0).numpy(), kind, vmin=low, vmax=high, cmap=SEQUENTIAL)


def pixels_address(pixels: NDArray[Any], kind: str, **colours: Any) -> str:
    """(rows, columns) numbers, coloured as `colours` say, or (rows, columns, 3) in [0, 1] -> an address; top row first.

    `kind` is png or jpeg.
    """
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format=kind, pil_kwargs={"optimize": True}, **colours)
    return address(f"image/{kind}", buffer.getvalue())


def tables(sounds: Doppelgangers, values: Mapping[str, Tensor], row: int) -> list[tuple[str, list[Row]]]:
    """All parameters of a pair: one table for each layer, one for the whole."""
    layers = dict.fromkeys(parameter.name.rpartition("/")[0] for parameter in sounds.space.parameters)
    return [(f"Layer {layer}" if layer else "The whole", list(rows(sounds, values, row, layer))) for layer in layers]


def rows(sounds: Doppelgangers, values: Mapping[str, Tensor], row: int, layer: str) -> Iterator[Row]:
    """The parameters named `layer/...`, or those of the whole if it is empty."""
    for parameter in sounds.space.parameters:
        head, _, name = parameter.name.rpartition("/")
        if head == layer:
            first, second = (shown(parameter, values[parameter.name][row + n]) for n in range(2))
            yield Row(name, parameter.group, first, second, first == second)


def shown(parameter: Parameter, numbers: Tensor) -> str:
    """(size,) values as text, short where there are many."""
    if parameter.names:
        return ", ".join(parameter.names[int(number)] for number in numbers)
    small = ".3g" if parameter.size == 1 else ".2f" if parameter.high <= 1 and parameter.low >= 0 else ".0f"
    return ", ".join(f"{number:.0f}" if abs(number) >= 100 else f"{number:{small}}" for number in numbers.tolist())
