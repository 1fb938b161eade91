"""Show where in a sound's spectrogram a model's result comes from, by its attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vcrast.config.words import suggest
from vcrast.data.windows import window_starts
from vcrast.features.fbank import Fbank
from vcrast.models.attention_map import METHODS, attention_layers, spread, token_map
from vcrast.models.backbone import Tokens
from vcrast.models.classifier import classify

if TYPE_CHECKING:
    from vcrast.inference.model import Model


@dataclass(frozen=True)
class Explanation:
    """Where in a sound its result comes from.

    Attributes:
        values: (T, F) float32, the share of the map in each frame and mel bin: at least 0, 1 in all. All are 0 where
            nothing in the sound speaks for the result.
        spectrogram: (T, F) float32 log-mel energies of the sound.
        times_s: (T,) middle of each frame, s.
        frequencies_hz: (F,) middle of each mel bin, Hz.
        method: `relevance` or `rollout`.
        label: the class that is explained; None: the embedding is.
        score: the probability of that class; None: as above.
        windows_s: (W, 2) begin and end of the windows that the model heard, s.
        in_padding: share of the map that lay in what fills a short sound, and is not in `values`.
        wav: (S,) float32, the sound as the model read it.
        sample_rate: of `wav`, Hz.
        frame_s: from one frame to the next, s.
    """

    values: np.ndarray
    spectrogram: np.ndarray
    times_s: np.ndarray
    frequencies_hz: np.ndarray
    method: str
    label: str | None
    score: float | None
    windows_s: np.ndarray
    in_padding: float
    wav: np.ndarray
    sample_rate: int
    frame_s: float

    def share(self, start_s: float, end_s: float) -> float:
        """Share of the map between two times, 0 to 1; of an even map it is the share of the time."""
        return float(self.values[(self.times_s >= start_s) & (self.times_s < end_s)].sum())


def explain(
    model: Model,
    wav: Tensor,
    *,
    label: str | None,
    embedding: bool,
    method: str,
    pad: str | None,
    batch_size: int,
) -> Explanation:
    """Explain a sound (S,) at the model's rate; see `Model.explain`."""
    check(model, label, embedding, method)
    cutter = model.cutter(pad)
    target, name, score = choose_target(model, wav, label, embedding, pad, batch_size)

    def maps(windows: Tensor) -> Tensor:
        fbank = cutter.fbank(model.features, windows.to(model.device))
        return spread(token_map(model.encoder, fbank, target, method), model.encoder, fbank.shape[-2]).cpu()

    ((_, rows),) = cutter.heard(cutter.whole("", wav), maps, batch_size=batch_size)
    starts = window_starts(len(wav), model.num_samples)
    values = joined(rows, starts, len(wav), model.features)
    total, kept = float(rows.sum()), float(values.sum())
    features, length = model.features, max(len(wav), model.features.window_samples)
    with torch.no_grad():
        power = features.power(F.pad(wav, (0, length - len(wav))).unsqueeze(0).to(model.device))
        spectrogram = features.log_mel(power)[0].float().cpu()
    middles = (np.arange(len(values)) * features.shift_samples + features.window_samples / 2) / model.sample_rate
    ends = [min(start + model.num_samples, len(wav)) for start in starts]
    return Explanation(
        values=(values / kept if kept > 0 else values).float().numpy(), spectrogram=spectrogram.numpy(),
        times_s=middles, frequencies_hz=np.array(features.centres_hz), method=method, label=name, score=score,
        windows_s=np.array([starts, ends]).T / model.sample_rate,
        in_padding=1 - kept / total if len(starts) == 1 and len(wav) < model.num_samples and total > 0 else 0.0,
        wav=wav.numpy(), sample_rate=model.sample_rate, frame_s=features.shift_samples / model.sample_rate,
    )  # fmt: skip


def check(model: Model, label: str | None, embedding: bool, method: str) -> None:
    """Refuse what cannot be explained, before anything is computed.

    Raises:
        ValueError: names the argument, or why this model has nothing to show.
    """
    if method not in METHODS:
        raise ValueError(f"method={method}: {suggest(str(method), METHODS)}")
    if label is not None:
        model.require_head()
        if embedding:
            raise ValueError(f"class {label} and the embedding: choose one to explain")
        if label not in model.labels:
            raise ValueError(f"class {label}: this model has none of that name; {suggest(label, model.labels)}")
    attention_layers(model.encoder)


class Target:
    """The scalar of each window that relevance takes the gradient of.

    Of a class its logit, less the mean of all classes' where a sound has one label: the softmax does not notice what
    logits have in common. Of the embedding its length along the sound's own: the product of the window's vector and the
    direction of the mean of all windows' vectors, which is held fixed. For one window that is the vector's length. (The
    cosine of a vector with itself has no gradient, whatever the vector.)

    Args:
        model: whose result.
        number: of the class; None: the embedding.
        direction: (D,) of the sound's vector, of length 1; for the embedding.
    """

    def __init__(self, model: Model, number: int | None, direction: Tensor | None) -> None:
        self.model, self.number, self.direction = model, number, direction

    def __call__(self, tokens: Tokens) -> Tensor:
        """(B,)."""
        encoder = self.model.encoder
        if self.number is None:
            assert self.direction is not None
            return encoder.read_out(tokens) @ self.direction.to(tokens.values.device)
        logits = classify(encoder, self.model.require_head(), tokens)
        common = 0.0 if self.model.multilabel or logits.shape[1] == 1 else logits.mean(dim=1)
        return logits[:, self.number] - common


def choose_target(
    model: Model, wav: Tensor, label: str | None, embedding: bool, pad: str | None, batch_size: int
) -> tuple[Target, str | None, float | None]:
    """What is explained, with the class's name and probability; by default the likeliest class of the sound."""
    cutter = model.cutter(pad)
    of_class = model.head is not None and not embedding
    of_tokens = model.probabilities if of_class else model.vectors
    ((_, rows),) = model.hear(cutter.whole("", wav), of_tokens, cutter=cutter, batch_size=batch_size)
    mean = rows.mean(dim=0)
    if not of_class:
        return Target(model, None, F.normalize(mean, dim=0)), None, None
    number = int(mean.argmax()) if label is None else model.labels.index(label)
    return Target(model, number, None), model.labels[number], float(mean[number])


def joined(maps: Tensor, starts: Sequence[int], length: int, features: Fbank) -> Tensor:
    """(W, T', F) maps of windows -> (T, F) of the sound, the mean where windows overlap.

    Args:
        maps: of the windows.
        starts: first sample of each.
        length: of the sound, in samples; frames behind its end are left out.
        features: the front end.
    """
    num_frames = features.num_frames(max(length, features.window_samples))
    sums = maps.new_zeros(max(num_frames, maps.shape[1]), maps.shape[2])
    counts = maps.new_zeros(len(sums), 1)
    for start, each in zip(starts, maps, strict=True):
        first = min(round(start / features.shift_samples), len(sums) - len(each))
        sums[first : first + len(each)] += each
        counts[first : first + len(each)] += 1
    return (sums / counts.clamp(min=1))[:num_frames]
