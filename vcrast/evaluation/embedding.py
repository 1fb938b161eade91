"""Embed clips with a frozen encoder: windows averaged, no views, fp32."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import Batch, mean_by_clip
from vcrast.models.backbone import Backbone, Tokens
from vcrast.training.dist import gather_rows, rank_slice

Known = dict[str, dict[Any, tuple[Tensor, Tensor]]]
"""Embeddings and labels by encoder and clip, which folds share."""


Form = Literal["vectors", "layers", "frames", "tokens"]
"""What is kept of a clip: its vector, that of every layer, all frames of every layer, or all tokens of the last."""
ONE_WINDOW: tuple[Form, ...] = ("frames", "tokens")
"""Forms of one window a clip, in 16 bits."""
KEPT_BYTES = 2**29  # of the embeddings of some clips: larger ones are computed again for every fold


class Embedded(NamedTuple):
    """Embeddings (n, D), or of another `Form` (see `Embedder.fresh`), labels (n, C), clip indices (n,), on CPU."""

    embedding: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on it


class Embedder:
    """Embeds clips of one fold, each process a part of them.

    Args:
        fbank: the front end, on the device: (b, S) -> (b, T, F).
        batches: some clips of a dataset, in order, on the device; rows of equal index are windows of one clip.
        settings: what the front end is, as text.
        known: what other folds have embedded; None if there is none. Folds cut the same clips in other ways, and an
            untrained encoder, or one that pretrained without recordings, is the same in all of them. The last two
            encoders' embeddings are kept.
    """

    def __init__(
        self,
        fbank: nn.Module,
        batches: Callable[[ClipDataset, range], Iterator[Batch]],
        *,
        settings: str = "",
        known: Known | None = None,
    ) -> None:
        self.fbank, self.batches, self.settings, self.known = fbank, batches, settings, known

    @torch.no_grad()
    def fresh(self, encoder: Backbone, clips: ClipDataset, *, form: Form = "vectors") -> Embedded:
        """Embed every clip, its windows averaged; all processes get all.

        The encoder is left in the mode (training or not) it came in.

        Args:
            encoder: on the device.
            clips: to embed.
            form: `vectors` (n, D); `layers` (n, L, D), the embedded patches and every layer; `frames` (n, L, t, D) of
                the same, the mean over frequency of the tokens at each time; `tokens` (n, N, D) of the last layer. The
                last two are fp16 and need an embedder of one window a clip.
        """
        was_training = encoder.training
        encoder.eval()
        rows = []
        for batch in self.batches(clips, rank_slice(len(clips))):
            tokens = encoder(self.fbank(batch.wav), hidden=form in ("layers", "frames"))
            rows.append((in_form(form, encoder, tokens).cpu(), batch.label.cpu(), batch.index.cpu()))
        encoder.train(was_training)
        if not rows:
            return self.none(torch.float16 if form in ONE_WINDOW else torch.float32)
        vector, label, row = (torch.cat(part) for part in zip(*rows, strict=True))
        if form in ONE_WINDOW:
            assert len(row.unique()) == len(row), "tokens of several windows of a clip have no common place"
            return Embedded(gather_rows(vector), gather_rows(label), gather_rows(row))
        vector, index = mean_by_clip(vector, row)
        label, _ = mean_by_clip(label, row)  # equal in all of them
        return Embedded(gather_rows(vector), gather_rows(label), gather_rows(index))

    def none(self, dtype: torch.dtype = torch.float32) -> Embedded:
        """What a process without clips adds, embeddings of this type: it takes part in the exchange with nothing."""
        # One empty axis joins with rows of any shape.
        nothing = torch.empty(0, dtype=dtype), torch.empty(0), torch.empty(0, dtype=torch.int64)
        return Embedded(*(gather_rows(part) for part in nothing))

    def __call__(self, encoder: Backbone, clips: ClipDataset, *, form: Form = "vectors") -> Embedded:
        """`fresh`, without computing again what another fold has computed with the same encoder, unless too large."""
        if self.known is None:
            return self.fresh(encoder, clips, form=form)
        own = f"{fingerprint(encoder)} {self.settings} {form}"
        found = self.known.pop(own, {})
        self.known[own] = found  # the last one now
        recent = list(dict.fromkeys(name.partition(" ")[0] for name in reversed(self.known)))[:2]
        for name in [name for name in self.known if name.partition(" ")[0] not in recent]:
            del self.known[name]
        segments = [clip.segment for clip in clips.clips]
        if any(segment not in found for segment in segments):
            fresh = self.fresh(encoder, clips, form=form)
            if fresh.embedding.nbytes > KEPT_BYTES:
                return fresh
            for vector, label, place in zip(*fresh, strict=True):
                found[segments[int(place)]] = vector, label
        # Without a cache a clip may turn out unreadable only now: it is in no batch.
        places = [place for place, segment in enumerate(segments) if segment in found]
        if not places:
            return self.none()
        embedding, label = (
            torch.stack(rows) for rows in zip(*(found[segments[place]] for place in places), strict=True)
        )
        return Embedded(embedding, label, torch.tensor(places))


def in_form(form: Form, encoder: Backbone, tokens: Tokens) -> Tensor:
    """What a form keeps of clips, see `Embedder.fresh`."""
    if form == "tokens":
        return tokens.values.half()
    if form == "frames":
        # Layer by layer: all tokens of all layers in one piece would be as large again as the pass itself.
        return torch.stack([layer.unflatten(1, tokens.grid).mean(dim=2).half() for layer in tokens.hidden], dim=1)
    return pooled(encoder, tokens)


def pooled(encoder: Backbone, tokens: Tokens) -> Tensor:
    """(b, R) read-outs in fp32, or (b, L, D) pooled vectors of all layers where the tokens carry them."""
    if not tokens.hidden:
        return encoder.read_out(tokens).float()
    layers = [tokens._replace(values=values, class_tokens=None) for values in tokens.hidden]
    return torch.stack([encoder.pool(layer).float() for layer in layers], dim=1)


def fingerprint(encoder: nn.Module) -> str:
    """Hash every weight of an encoder."""
    digest = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
