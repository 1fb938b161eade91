"""A trained model in three lines.

model = vcrast.load("runs/esc50/2026-11-02_10-00-00")
vector = model.embed("dog.wav")               # (768,)
scores = model.predict("dog.wav")            # {"dog": 0.93, "rooster": 0.02, ...}
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vcrast.data.arrays import mono_clips
from vcrast.data.audio import read_wav, resample
from vcrast.data.dataset import fit
from vcrast.data.windows import window_starts
from vcrast.features.fbank import Fbank
from vcrast.models.backbone import Backbone, Tokens, build_backbone
from vcrast.models.export import (
    build_head,
    fill,
    find_export,
    read_description,
    read_weights,
)
from vcrast.training.device import existing_device

__all__ = ["Model", "Window", "load"]

log = logging.getLogger(__name__)
Clip = str | Path | np.ndarray | Tensor


class Window(NamedTuple):
    """A stretch of a recording in seconds, and the scores of its labels."""

    start_s: float
    end_s: float
    scores: dict[str, float]


def load(
    run: str | Path, *, fold: str | int | None = None, stage: str | None = None, device: str | torch.device = "cpu"
) -> Model:
    """A trained model, ready to embed and predict.

    Only data is read: no pickle, and no code but this package's and its extensions'.

    Args:
        run: a run folder, or a folder that `vcrast export` wrote.
        fold: which fold's model; None is the first.
        stage: `finetuned` or `pretrained`; None is the finetuned one where there is one.
        device: where it computes.

    Raises:
        FileNotFoundError: no such folder, or nothing exported yet.
        ValueError: no such fold or stage, damaged files, or a device that this machine lacks.
    """
    device = existing_device("device", device)
    folder = find_export(Path(run), fold=fold, stage=stage)
    found = read_description(folder)
    tensors = read_weights(folder, found["weights_sha256"])
    try:
        encoder = build_backbone(found["model"])
        features = Fbank(**found["features"])
        head = None if found["head"] is None else build_head(found["head"])
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        reason = error.args[0] if error.args else error  # text of a KeyError is quoted
        raise ValueError(f"{folder / 'model.json'}: does not describe a model ({reason}); export it again") from None
    if "encoder.mask_token" in tensors:
        encoder.enable_mask_token()
    fill(encoder, tensors, "encoder.", folder)
    if head is not None:
        fill(head, tensors, "head.", folder)
    return Model(
        encoder, features, head, labels=tuple(found["labels"]), multilabel=found["multilabel"],
        clip_duration_s=found["clip_duration_s"], pad=found["pad"], meta=found["meta"], device=device,
    )  # fmt: skip


class Model:
    """A trained encoder with its front end, its labels and, once finetuned, its classifier.

    A sound is a path, or samples as a NumPy array or a tensor, or a list of those. Samples are (S,), several clips
    (B, S), or several channels as `soundfile.read` gives them, (S, C); `layout` says what the shape does not tell
    (`vcrast.data.arrays.mono_clips`). Floats lie in [-1, 1]; int16, int32 and uint8 are read as from a file.

    Clips longer than the training clips are cut into windows of that length (`window_starts`), whose results are
    averaged, as a run's own evaluation does; shorter ones are padded, as in training or as `pad` says (`repeat`,
    `silence`).

    Attributes:
        encoder: the backbone.
        features: (B, S) -> (B, T, F), normalised.
        labels: class names, in the order of the scores.
        sample_rate: of the waveforms, Hz.
        meta: recipe, fold and seed of the run.
    """

    def __init__(
        self,
        encoder: Backbone,
        features: Fbank,
        head: nn.Module | None,
        *,
        labels: tuple[str, ...],
        multilabel: bool,
        clip_duration_s: float,
        pad: str,
        meta: Mapping[str, Any],
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.encoder = encoder.to(self.device).eval()
        self.features = features.to(self.device).eval()
        self.head = None if head is None else head.to(self.device).eval()
        self.labels, self.multilabel, self.pad, self.meta = labels, multilabel, pad, dict(meta)
        self.sample_rate, self.clip_duration_s = features.sample_rate, clip_duration_s
        self.num_samples = round(clip_duration_s * self.sample_rate)
        self.said: set[str] = set()

    def __repr__(self) -> str:
        head = (
            f"{len(self.labels)} classes{', several a clip' if self.multilabel else ''}"
            if self.head
            else "no classifier"
        )
        sizes = sum(value.numel() for value in self.encoder.parameters()) / 1e6
        run = ", ".join(f"{key} {self.meta[key]}" for key in ("recipe", "fold", "seed") if key in self.meta)
        return (
            f"vcrast.Model({type(self.encoder).__name__} of {sizes:.1f} M weights, {self.embed_dim} numbers a clip, "
            f"{head}; clips of {self.clip_duration_s:g} s at {self.sample_rate} Hz; "
            f"{run or 'of no run'}; on {self.device})"
        )

    @property
    def embed_dim(self) -> int:
        """D: length of an embedding."""
        return int(self.encoder.embed_dim)

    def embed(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: int | None = None,
        *,
        batch_size: int = 32,
        layout: str | None = None,
        pad: str | None = None,
    ) -> Tensor:
        """A clip's vector, as the backbone pools its tokens.

        Args:
            wav: one sound, or several (see the class).
            sample_rate: of samples given as an array, Hz; None means the model's. Files know theirs.
            batch_size: windows that are computed at once.
            layout: of arrays, see the class.
            pad: of clips shorter than the model's, see the class; None is the model's own.

        Returns:
            (D,), or (B, D) for several sounds; float32 on the CPU.

        Raises:
            ValueError: an unreadable file, or samples that are no sound or whose layout cannot be told.
        """
        clips, several = self.read(wav, sample_rate, layout)
        windows = self._per_window(clips, self.encoder.pool, batch_size, pad)
        vectors = torch.stack([each.mean(dim=0) for each in windows])
        return vectors if several else vectors[0]

    def tokens(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: int | None = None,
        *,
        batch_size: int = 32,
        layout: str | None = None,
        pad: str | None = None,
    ) -> Tensor:
        """Every token of every window; arguments and errors as in `embed`.

        Returns:
            (W, N, D) for one sound of W windows (1 up to the training length), (B, W, N, D) for several equally long
            ones. Token n lies at time n // f and frequency n % f of `encoder.grid`, which gives (t, f).
        """
        clips, several = self.read(wav, sample_rate, layout)
        windows = self._per_window(clips, lambda tokens: tokens.values, batch_size, pad)
        if len({len(each) for each in windows}) > 1:
            raise ValueError(
                "tokens of sounds with different numbers of windows cannot be stacked; call once per sound"
            )
        stacked = torch.stack(windows)
        return stacked if several else stacked[0]

    def predict(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: int | None = None,
        *,
        top: int | None = None,
        batch_size: int = 32,
        layout: str | None = None,
        pad: str | None = None,
    ) -> Any:
        """Class probabilities, averaged over the windows; arguments and errors as in `embed`.

        Returns:
            {label: probability} from the likeliest down, the `top` first ones if given; a list of them for several
            sounds. The probabilities add up to 1, unless a clip may have several labels.

        Raises:
            ValueError: also if the model has no classifier.
        """
        self.require_head()
        clips, several = self.read(wav, sample_rate, layout)
        windows = self._per_window(clips, self._probabilities, batch_size, pad)
        found = [self._named(each.mean(dim=0), top) for each in windows]
        return found if several else found[0]

    def require_head(self) -> nn.Module:
        """The classifier.

        Raises:
            ValueError: the model has none.
        """
        if self.head is None:
            raise ValueError(
                "this model was only pretrained and has no classifier; finetune it "
                "(vcrast run run.resume=RUN stages=[pretrain,finetune]), or embed instead of predict"
            )
        return self.head

    def predict_windows(
        self,
        wav: Clip,
        sample_rate: int | None = None,
        *,
        hop_s: float | None = None,
        top: int | None = None,
        batch_size: int = 32,
        layout: str | None = None,
        pad: str | None = None,
    ) -> list[Window]:
        """Class probabilities of every window of one recording; errors as in `predict`.

        Args:
            wav: one sound.
            sample_rate: as in `embed`.
            hop_s: seconds from one window to the next, from the beginning to the end, the last one padded if need be;
                None: the windows that `predict` averages.
            top: as in `predict`.
            batch_size: as in `embed`.
            layout: as in `embed`.
            pad: as in `embed`.
        """
        self.require_head()
        clip, spans = self._spans(wav, sample_rate, layout, hop_s)
        chances = torch.cat(
            self._per_window([clip], self._probabilities, batch_size, pad, [[start for start, _ in spans]])
        )
        return [
            Window(start / self.sample_rate, end / self.sample_rate, self._named(each, top))
            for (start, end), each in zip(spans, chances, strict=True)
        ]

    def embed_windows(
        self,
        wav: Clip,
        sample_rate: int | None = None,
        *,
        hop_s: float | None = None,
        batch_size: int = 32,
        layout: str | None = None,
        pad: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Every window's vector of one recording; arguments and errors as in `predict_windows`.

        Returns:
            (W, D) vectors, and (W, 2) starts and ends in seconds.
        """
        clip, spans = self._spans(wav, sample_rate, layout, hop_s)
        vectors = torch.cat(
            self._per_window([clip], self.encoder.pool, batch_size, pad, [[start for start, _ in spans]])
        )
        return vectors, torch.tensor(spans, dtype=torch.float64) / self.sample_rate

    def read(
        self, wav: Clip | Sequence[Clip], sample_rate: int | None = None, layout: str | None = None
    ) -> tuple[list[Tensor], bool]:
        """Sounds as mono float32 (S,) at the model's rate on the CPU, and whether several were given."""
        if isinstance(wav, str | Path):
            keep_silent = bool(self.meta.get("keep_silent"))
            return [torch.from_numpy(read_wav(str(wav), sample_rate=self.sample_rate, keep_silent=keep_silent))], False
        if isinstance(wav, np.ndarray | Tensor):
            return self._samples(wav, sample_rate, layout)
        clips = [self.read(each, sample_rate, layout) for each in wav]
        if not clips or any(several for _, several in clips):
            raise ValueError("a list of sounds must hold at least one, each a path or the samples of one clip")
        return [samples for each, _ in clips for samples in each], True

    def windows(self, clip: Tensor, pad: str | None = None) -> Tensor:
        """(S,) -> (W, num_samples): padded, or cut into windows spread evenly from beginning to end."""
        return torch.stack([self._window(clip, start, pad) for start in window_starts(len(clip), self.num_samples)])

    def _window(self, clip: Tensor, start: int, pad: str | None) -> Tensor:
        piece = clip[start : start + self.num_samples]
        return (
            piece
            if len(piece) == self.num_samples
            else torch.from_numpy(fit(piece.numpy(), self.num_samples, pad or self.pad))
        )

    def _spans(
        self, wav: Clip, sample_rate: int | None, layout: str | None, hop_s: float | None
    ) -> tuple[Tensor, list[tuple[int, int]]]:
        """One recording, and the first sample and the one after the last of each of its windows."""
        clips, several = self.read(wav, sample_rate, layout)
        if several:
            raise ValueError("windows with their times are those of one recording; call once per sound")
        length = len(clips[0])
        starts = window_starts(length, self.num_samples)
        if hop_s is not None:
            hop = round(hop_s * self.sample_rate)
            if hop < 1:
                raise ValueError(f"hop_s={hop_s:g}: must be at least a sample; give seconds above 0")
            count = 1 + max(0, math.ceil((length - self.num_samples) / hop))
            starts = [number * hop for number in range(count) if number * hop < length]
        return clips[0], [(start, min(length, start + self.num_samples)) for start in starts]

    def _samples(
        self, wav: np.ndarray | Tensor, sample_rate: int | None, layout: str | None
    ) -> tuple[list[Tensor], bool]:
        samples = wav.detach().cpu().numpy() if isinstance(wav, Tensor) else np.asarray(wav)
        clips, several, scale = mono_clips(samples, layout)
        if scale != 1.0:
            self._say(f"samples reach beyond 1 and were divided by {scale:.0f}")
        if sample_rate is None:
            self._say(f"no sample_rate was given with samples: {self.sample_rate} Hz assumed")
        elif sample_rate <= 0:
            raise ValueError(f"sample_rate={sample_rate}: must be positive, in Hz")
        # As files are read: a clip has the same numbers as a path and as samples.
        read = [resample(clip, sample_rate or self.sample_rate, self.sample_rate).clip(-1.0, 1.0) for clip in clips]
        return [torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32)) for clip in read], several

    def _say(self, text: str) -> None:
        """Warn once."""
        if text not in self.said:
            self.said.add(text)
            log.warning("%s", text)

    @torch.no_grad()
    def _per_window(
        self,
        clips: Sequence[Tensor],
        of_tokens: Callable[[Tokens], Tensor],
        batch_size: int,
        pad: str | None,
        starts: Sequence[Sequence[int]] | None = None,
    ) -> list[Tensor]:
        """`of_tokens` of every window, (W, ...) per clip; windows of different clips share a batch."""
        if pad not in (None, "repeat", "silence"):
            raise ValueError(f"pad={pad!r}: choose from repeat, silence")
        where = starts or [window_starts(len(clip), self.num_samples) for clip in clips]
        missing = sum(max(0, self.num_samples - len(clip)) for clip in clips) / (len(clips) * self.num_samples)
        if missing > 0.5:
            self._say(
                f"{100 * missing:.0f} % of what the model hears is padding: it was trained on clips of "
                f"{self.clip_duration_s:g} s, and these sounds are shorter"
            )
        windows = (self._window(clip, start, pad) for clip, own in zip(clips, where, strict=True) for start in own)
        results = [
            of_tokens(self.encoder(self.features(batch.to(self.device)))).float().cpu()
            for batch in in_batches(windows, batch_size)
        ]
        return list(torch.cat(results).split([len(own) for own in where]))

    def _probabilities(self, tokens: Tokens) -> Tensor:
        logits = self.require_head()(self.encoder.pool(tokens).float())
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=-1)

    def _named(self, probabilities: Tensor, top: int | None) -> dict[str, float]:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return {self.labels[number]: float(probabilities[number]) for number in order[:top]}


def in_batches(windows: Iterator[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Stack windows (S,) to (b, S), without holding all of a long recording's twice."""
    while some := list(itertools.islice(windows, batch_size)):
        yield torch.stack(some)
