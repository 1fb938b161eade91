"""Show where in a spectrogram a result comes from: relevance or rollout of attention.

Both follow the attention weights A of each layer from the result back to the patches. They only see what the attention
weights show: a map says where the model looked, not that the sound there is the cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.words import suggest
from vcrast.data.windows import window_starts
from vcrast.features.fbank import Fbank
from vcrast.models.attention import Attention
from vcrast.models.backbone import Backbone, Tokens, upcast
from vcrast.models.classifier import classify
from vcrast.models.patch_embed import PatchEmbed

if TYPE_CHECKING:
    from vcrast.inference.model import Model

METHODS = ("relevance", "rollout")


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
            return encoder.pool(tokens) @ self.direction.to(tokens.values.device)
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


def attention_layers(encoder: Backbone) -> list[Attention]:
    """The layers of an encoder whose attention weights can be had.

    Raises:
        ValueError: there are none, or their backend shows no weights.
    """
    layers = [module for module in encoder.modules() if isinstance(module, Attention)]
    name = encoder.options.get("name", type(encoder).__name__)
    if not layers or not isinstance(getattr(encoder, "patch_embed", None), PatchEmbed):
        raise ValueError(
            f"model={name}: cannot be explained: its attention does not lead from the result to patches of the whole "
            "clip (model=htsat attends within shifted windows and joins tokens); choose model=base, small or tiny"
        )
    hidden = next((layer for layer in layers if not hasattr(layer.mix, "weights")), None)
    if hidden is not None:
        chosen = encoder.options.get("attention", {}).get("name", type(hidden.mix).__name__)
        raise ValueError(f"attention={chosen}: cannot be explained: this backend has no `weights(q, k)` to show")
    return layers


@contextmanager
def attended(encoder: Backbone) -> Iterator[list[Tensor]]:
    """Collect the weights (B, H, N, N) of a forward, first layer first; its result is computed from them.

    Raises:
        ValueError: see `attention_layers`.
    """
    found: list[Tensor] = []

    def written_out(mix: Any, inputs: tuple[Tensor, Tensor, Tensor], _: Tensor) -> Tensor:
        q, k, v = inputs
        found.append(mix.weights(q, k))
        return found[-1].to(v.dtype) @ v

    hooks = [layer.mix.register_forward_hook(written_out) for layer in attention_layers(encoder)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def token_map(encoder: Backbone, fbank: Tensor, target: Any, method: str) -> Tensor:
    """(B, t, f): what each patch has to do with the result, at least 0.

    Args:
        encoder: in eval mode.
        fbank: (B, [C,] T, F) normalised.
        target: `Tokens` -> (B,), what relevance takes the gradient of; each clip's depends on that clip alone.
        method: of `METHODS`.
    """
    with torch.enable_grad(), attended(encoder) as weights:
        tokens = encoder(fbank.detach().requires_grad_())
    own = 0 if tokens.class_tokens is None else tokens.class_tokens.shape[1]
    shares = pooled_shares(encoder, tokens)
    if method == "rollout":
        found = rollout(shares, [each.detach() for each in weights])
    else:
        with torch.enable_grad():
            parts = [*weights, tokens.values]
            gradients = torch.autograd.grad(target(tokens).sum(), parts, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            pooled = (shares != 0).to(shares.dtype)
            rows = relevance(pooled, [each.detach() for each in weights], gradients[:-1])
            # Past all attention a token counts what it adds to the mean, where R's identity would count all alike.
            added = (upcast(tokens.values) * upcast(gradients[-1])).sum(dim=2).clamp(min=0)
            found = rows - pooled + F.pad(added, (own, 0))
    return found[:, own:].unflatten(1, tokens.grid)


def pooled_shares(encoder: Backbone, tokens: Tokens) -> Tensor:
    """(B, K + N): how much each token, class tokens first, counts in the clip's vector: 1 / N each in a mean."""
    with torch.enable_grad():
        values = tokens.values.detach().requires_grad_()
        own = None if tokens.class_tokens is None else tokens.class_tokens.detach().requires_grad_()
        pooled = encoder.pool(tokens._replace(values=values, class_tokens=own)).sum()
        parts = [values] if own is None else [own, values]
        gradients = torch.autograd.grad(pooled, parts, allow_unused=True, materialize_grads=True)
    return torch.cat([upcast(gradient).mean(dim=2) for gradient in gradients], dim=1)


def rollout(begin: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Attention rollout: begin (A_L ... A_1), each A half the mean over heads and half the identity.

    Args:
        begin: (B, N) what each token counts in the result.
        weights: (B, H, N, N) of each layer, first layer first. Estimates may be negative: what is below 0 is taken for
            0, and rows are brought to the sum 1, as they have it under a softmax.

    Returns:
        (B, N).

    Source: Abnar and Zuidema 2020, arXiv:2005.00928, Sec. 3.
    """
    rows = begin.unsqueeze(1)
    for layer in reversed(weights):
        mixed = layer.mean(dim=1).clamp(min=0)
        mixed = mixed / mixed.sum(dim=2, keepdim=True).clamp(min=torch.finfo(mixed.dtype).tiny)
        rows = rows.to(mixed.dtype) @ mixed / 2 + rows / 2
    return rows.squeeze(1)


def relevance(begin: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Relevance: begin R; R is I at first, R + A' R after each layer, A' the mean over heads of (gradient A), above 0.

    Args:
        begin: (B, N): 1 for each token that the result is read from (in the paper the class token), else 0: how much
            each of them counts is in the gradients.
        weights: (B, H, N, N) A of each layer, first layer first.
        gradients: of the target for each of them.

    Returns:
        (B, N).

    Source: Chefer et al. 2021, arXiv:2103.15679, eq. 5 and 6.
    """
    rows = begin.unsqueeze(1)
    for layer, gradient in zip(reversed(weights), reversed(gradients), strict=True):
        # R is (I + A'_L) ... (I + A'_1): from the left no matrix is multiplied by another.
        rows = rows + rows.to(layer.dtype) @ (gradient * layer).clamp(min=0).mean(dim=1)
    return rows.squeeze(1)


def spread(patches: Tensor, encoder: nn.Module, num_frames: int) -> Tensor:
    """(B, t, f) of patches -> (B, T, F) of frames and mel bins: the mean over the patches that lie there.

    What no patch reads, at the ends, is 0.
    """
    embed: Any = encoder.patch_embed
    ones = torch.ones(1, 1, *embed.patch_size, dtype=patches.dtype, device=patches.device)
    stacked = torch.cat([patches, torch.ones_like(patches[:1])]).unsqueeze(1)
    sums = F.conv_transpose2d(stacked, ones, stride=embed.patch_stride).squeeze(1)
    means = sums[:-1] / sums[-1:].clamp(min=1)
    num_mel_bins: Any = encoder.num_mel_bins
    return F.pad(means, (0, num_mel_bins - means.shape[2], 0, num_frames - means.shape[1]))


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
