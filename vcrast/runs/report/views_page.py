"""Write a page to listen to views: each change of the sound alone, then all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchaudio.functional import griffinlim

from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views, build_views, part_from, titles_of
from vcrast.models.backbone import Backbone
from vcrast.objectives.masked import left_of
from vcrast.runs.report.listening import BRIGHT, DARK, Sound, picture_address, sound_address
from vcrast.runs.report.write import write_page

WINDOW_S = (
    0.064  # of the spectra whose phase is made again; the front end's own 25 ms are too short for it to sound well
)
ROUNDS = 32  # of Griffin and Lim's iteration
LOUDEST = 0.9  # sample of a clip's sounds on the page, all scaled alike

ALONE: dict[str, dict[str, Any]] = {
    "rolled": {"roll": True},
    "another sound": {"background_probability": 1.0},
    "room": {"reverb_probability": 1.0},
    "high-pass": {"high_pass_probability": 1.0},
    "band-stop": {"band_stop_probability": 1.0},
    "white noise": {"noise_probability": 1.0},
    "polarity": {"polarity_probability": 1.0},
    "level": {"gain_probability": 1.0},
    "time stretch": {"time_stretch_probability": 1.0},
    "pitch": {"pitch_probability": 1.0},
}
"""The changes that can be heard, with what makes each certain: an option of the views, or of their `augment`."""
SIZES = {"level": "gain_db", "time stretch": "time_stretch", "rolled": "roll", "another sound": "background_folder"}
"""The option beside these probabilities that the change alone is given, too."""
OF_THE_SPECTRUM = ("time stretch", "pitch")


@dataclass(frozen=True)
class Heard:
    """A sound of the page.

    Attributes:
        title: what was changed.
        text: how much, empty for nothing.
        sound: player and picture.
        share: of the clip's length.
    """

    title: str
    text: str
    sound: Sound
    share: float


@dataclass(frozen=True)
class Shown:
    """A clip of the page: itself and its views, then each change alone."""

    name: str
    views: list[Heard]
    alone: list[Heard]


def write_views_page(
    path: Path,
    wavs: Sequence[Tensor],
    names: Sequence[str],
    *,
    views: Mapping[str, Any],
    off: Mapping[str, Any],
    features: Mapping[str, Any],
    sample_rate: int,
    seed: int,
    recordings: Sequence[Tensor],
    encoder: Backbone,
    command: str,
) -> Path:
    """Write the page.

    Args:
        path: of the page; written aside and renamed.
        wavs: (n, S) clips; of pairs the first sounds and the second ones, of which views are made in turns.
        names: n, of the clips.
        views: the options of the views that a run would have.
        off: those of views that change nothing.
        features: of the filterbank that the pictures show.
        sample_rate: Hz.
        seed: of all draws.
        recordings: of `views.background_folder`.
        encoder: of clips of this length; tells the tokens that views take away.
        command: that makes the page again, shown on it.

    Returns:
        `path`.
    """
    logs = Fbank(**features, sample_rate=sample_rate)(wavs[0])
    # Masks are filled with the data's mean; of so few clips it is that of the page.
    fbank = Fbank(**features, sample_rate=sample_rate, mean=float(logs.mean()), std=max(float(logs.std()), 1e-3))
    draws = Draws(seed, 0, len(names))

    def column(title: str, options: Mapping[str, Any], wav: Tensor, view: str) -> Column:
        made = build_views(options, fbank=fbank, recordings=recordings if options["background_folder"] else ())
        own, picture = made.of(view), made.make(wav, draws, view)
        words, heard = in_words(own, draws, view, wav.shape[1]), audible(own, wav, draws, view)
        return Column(title, words, cropped(own, heard, draws, view), left(encoder, made, picture, draws, view, words))

    columns = [column("the clip", off, wavs[0], "a")]
    titles = titles_of(build_views(views, fbank=fbank, recordings=recordings))
    columns += [column(title, views, wavs[n % len(wavs)], view) for n, (view, title) in enumerate(titles.items())]
    num_views = len(columns)
    columns += [column(title, options, wavs[0], "a") for title, options in alone(views, off)]
    for each in columns[num_views:]:
        more = "" if is_on(each.title, views) else " (off in these views)"
        each.words = [{each.title: words.get(each.title, "") + more} for words in each.words]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        path, "views.html", clips=[_shown(name, n, columns, num_views, sample_rate) for n, name in enumerate(names)],
        command=command, seconds=f"{wavs[0].shape[1] / sample_rate:g}", seed=seed,
    )  # fmt: skip
    return path


@dataclass
class Column:
    """One kind of view of all clips: how much was changed, by title, the sounds (n, S) and the pictures (n, T, F)."""

    title: str
    words: list[dict[str, str]]
    heard: Tensor
    pictures: Tensor


def _shown(name: str, n: int, columns: Sequence[Column], num_views: int, sample_rate: int) -> Shown:
    """Clip n of all columns, the first of which is the clip itself and then, up to `num_views`, its views."""
    low, high = torch.quantile(columns[0].pictures[n].flatten()[:1_000_000], torch.tensor([DARK, BRIGHT])).tolist()
    loudest = max(float(column.heard[n].abs().max()) for column in columns)
    scale = LOUDEST / max(loudest, 1e-6)
    sounds = []
    for column in columns:
        words = column.words[n]
        text = words.get(column.title) or "; ".join(f"{title}: {word}" for title, word in words.items())
        picture = picture_address(column.pictures[n], low, high, "jpeg")
        sound = Sound(sound_address(column.heard[n] * scale, sample_rate), picture)
        share = column.pictures.shape[1] / columns[0].pictures.shape[1]
        sounds.append(Heard(column.title, text, sound, share))
    return Shown(name, sounds[:num_views], sounds[num_views:])


def alone(views: Mapping[str, Any], off: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Title and options of views with one audible change each, as strong as `views` say; none without a size."""
    for title, certain in ALONE.items():
        size = SIZES.get(title)
        chosen = {**off, "augment": dict(views["augment"])}
        for key in chosen["augment"]:
            if key.endswith("_probability"):
                chosen["augment"][key] = 0.0
        for key, value in certain.items():
            (chosen if key in off else chosen["augment"])[key] = value
        if title == "another sound":
            chosen |= {"background_snr_db": views["background_snr_db"], "background_folder": views["background_folder"]}
        elif size is not None and size != "roll":
            chosen[size] = views[size]
            if not views[size]:
                continue
        yield title, chosen


def is_on(title: str, views: Mapping[str, Any]) -> bool:
    """Whether `views` make this change."""
    keys = [*ALONE[title], *([SIZES[title]] if SIZES.get(title) not in (None, "background_folder") else [])]
    return all(bool({**views["augment"], **views}[key]) for key in keys)


def in_words(views: Views, draws: Draws, view: str, num_samples: int) -> list[dict[str, str]]:
    """For each clip what was drawn for it, in numbers, by the titles of `ALONE`; without what leaves it as it is."""
    rate = views.fbank.sample_rate
    found: list[dict[str, str]] = [{} for _ in range(draws.size)]

    def say(title: str, numbers: Tensor, text: Callable[[float], str], neutral: float | None = None) -> None:
        for words, number in zip(found, numbers.tolist(), strict=True):
            if number != neutral:
                words[title] = text(number)

    strengths = views.augment.strengths(draws, view)
    if views.roll:
        say("rolled", draws.integers(f"{view}/roll", num_samples), lambda n: f"{n / rate:.2f} s later")
    if views.background_probability > 0:
        say("another sound", views.backgrounds_db(draws, view), lambda n: f"{n:.1f} dB below the clip", math.inf)
    if "reverb_s" in strengths:
        seconds = torch.where(strengths["reverb_direct_db"].isfinite(), strengths["reverb_s"], 0)
        say("room", seconds, lambda n: f"{n:.2f} s", 0)
        for words, direct in zip(found, strengths["reverb_direct_db"].tolist(), strict=True):
            if "room" in words:
                words["room"] += f", direct sound {direct:.1f} dB over the echoes"
    if "high_pass_hz" in strengths:
        say("high-pass", strengths["high_pass_hz"], lambda n: f"{n:.0f} Hz", 0)
    if "band_stop_hz" in strengths:
        centre, width = strengths["band_stop_hz"], strengths["band_stop_width"]
        low = centre * ((1 + width.square() / 4).sqrt() - width / 2)
        say("band-stop", torch.where(width > 0, low, 0), lambda n: f"{n:.0f}", 0)
        for words, top in zip(found, (low + width * centre).tolist(), strict=True):
            if "band-stop" in words:
                words["band-stop"] += f" to {top:.0f} Hz"
    if "noise_snr_db" in strengths:
        say("white noise", strengths["noise_snr_db"], lambda n: f"{n:.1f} dB below the clip", math.inf)
    if "polarity" in strengths:
        say("polarity", strengths["polarity"], lambda _: "turned", 1)
    if views.gain_db > 0:
        say("level", views.gains_db(draws, view), lambda n: f"{n:+.1f} dB", 0)
    if views.time_stretch is not None:
        say("time stretch", views.rates(draws, view), lambda n: f"{n:.2f} times as fast", 1)
    if "pitch_semitones" in strengths:
        say("pitch", strengths["pitch_semitones"], lambda n: f"{n:+.1f} semitones", 0)
    if views.crop < 1:
        frames = views.fbank.num_frames(num_samples)
        shift_s, kept = views.fbank.shift_samples / rate, views.num_frames(view, frames)
        begin = views.first_frames(draws, view, frames) * shift_s
        say("crop", begin, lambda n: f"{kept * shift_s:.2f} s from {n:.2f} s on")
    return found


def cropped(views: Views, heard: Tensor, draws: Draws, view: str) -> Tensor:
    """(B, S) sounds -> (B, S'): the stretch that the view keeps of each."""
    if views.crop == 1:
        return heard
    fbank, frames = views.fbank, views.fbank.num_frames(heard.shape[1])
    length = (views.num_frames(view, frames) - 1) * fbank.shift_samples + fbank.window_samples
    return part_from(heard, views.first_frames(draws, view, frames) * fbank.shift_samples, length)


def left(
    encoder: Backbone, views: Views, pictures: Tensor, draws: Draws, view: str, words: Sequence[dict[str, str]]
) -> Tensor:
    """(B, T, F) pictures with NaN where their tokens leave the encoder; how many do is added to the words."""
    if not views.of(view).dropping.setting or not encoder.can_drop:
        return pictures
    grid = encoder.grid(pictures.shape[-2])
    keep = views.keep(draws, view, grid)
    if keep is None:
        return pictures
    for each in words:
        each["tokens"] = f"{keep.shape[1]} of {grid[0] * grid[1]} stay"
    return left_of(encoder, pictures, keep)


def audible(views: Views, wavs: Tensor, draws: Draws, view: str) -> Tensor:
    """(B, S) waveforms of a view: what can be heard of it, with what is changed in the spectrum made audible.

    A view's stretch and pitch change magnitudes alone, so a phase is made for them (Griffin and Lim 1984); a clip that
    they leave as it is keeps its own.
    """
    heard = views.change_wavs(wavs, draws, view)
    changed = [
        any(title in words for title in OF_THE_SPECTRUM) for words in in_words(views, draws, view, wavs.shape[1])
    ]
    if not any(changed):
        return heard
    n_fft = 2 ** max(5, round(math.log2(WINDOW_S * views.fbank.sample_rate)))
    shape: dict[str, Any] = {
        "n_fft": n_fft,
        "hop_length": n_fft // 4,
        "win_length": n_fft,
        "window": torch.hann_window(n_fft),
    }
    power = torch.stft(heard, **shape, return_complex=True).abs().square().transpose(1, 2)
    power = views.change_power(power, draws, view).transpose(1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the phases that the iteration starts from
        made = griffinlim(power, **shape, power=2.0, n_iter=ROUNDS, momentum=0.99, length=wavs.shape[1], rand_init=True)
    return torch.where(torch.tensor(changed).unsqueeze(1), made, heard)
