"""A trained model in three lines.

model = vcrast.load("runs/esc50/2026-11-02_10-00-00")
vector = model.embed("dog.wav")               # (768,)
scores = model.predict("dog.wav")            # {"dog": 0.93, "rooster": 0.02, ...}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vcrast.data.audio import read_wav, resample
from vcrast.data.dataset import fit
from vcrast.features.fbank import Fbank
from vcrast.models.backbone import Backbone, Tokens, build_backbone
from vcrast.models.export import (
    build_head,
    fill,
    find_export,
    read_description,
    read_weights,
)

__all__ = ["Model", "load"]

Clip = str | Path | np.ndarray | Tensor


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
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device}: torch {torch.__version__} sees no CUDA device; use cpu, or see `vcrast doctor`"
        )
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

    A sound is a path, or samples (S,) or (B, S) in [-1, 1] as a NumPy array or a tensor, or a list of those. Clips
    longer than the training clips are cut into windows of that length, spread evenly from beginning to end and
    overlapping as little as possible, and the windows' results are averaged; shorter ones are padded as in training.

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

    @property
    def embed_dim(self) -> int:
        """D: length of an embedding."""
        return int(self.encoder.embed_dim)

    def embed(self, wav: Clip | Sequence[Clip], sample_rate: int | None = None, *, batch_size: int = 32) -> Tensor:
        """A clip's vector, as the backbone pools its tokens.

        Args:
            wav: one sound, or several (see the class).
            sample_rate: of samples given as an array, Hz; None means the model's. Files know theirs.
            batch_size: windows that are computed at once.

        Returns:
            (D,), or (B, D) for several sounds; float32 on the CPU.

        Raises:
            ValueError: an unreadable file, or samples that are empty, not finite, not floating or not mono.
        """
        clips, several = self.read(wav, sample_rate)
        windows = self._per_window(clips, self.encoder.pool, batch_size)
        vectors = torch.stack([each.mean(dim=0) for each in windows])
        return vectors if several else vectors[0]

    def tokens(self, wav: Clip | Sequence[Clip], sample_rate: int | None = None, *, batch_size: int = 32) -> Tensor:
        """Every token of every window; arguments and errors as in `embed`.

        Returns:
            (W, N, D) for one sound of W windows (1 up to the training length), (B, W, N, D) for several equally long
            ones. Token n lies at time n // f and frequency n % f of `encoder.grid`, which gives (t, f).
        """
        clips, several = self.read(wav, sample_rate)
        windows = self._per_window(clips, lambda tokens: tokens.values, batch_size)
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
    ) -> Any:
        """Class probabilities, averaged over the windows; arguments and errors as in `embed`.

        Returns:
            {label: probability} from the likeliest down, the `top` first ones if given; a list of them for several
            sounds. The probabilities add up to 1, unless a clip may have several labels.

        Raises:
            ValueError: also if the model has no classifier.
        """
        self.require_head()
        clips, several = self.read(wav, sample_rate)
        windows = self._per_window(clips, self._probabilities, batch_size)
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

    def read(self, wav: Clip | Sequence[Clip], sample_rate: int | None = None) -> tuple[list[Tensor], bool]:
        """Sounds as mono float32 (S,) at the model's rate on the CPU, and whether several were given."""
        if isinstance(wav, str | Path):
            return [torch.from_numpy(self._read_file(str(wav)))], False
        if isinstance(wav, np.ndarray | Tensor):
            samples = self._samples(torch.as_tensor(wav), sample_rate)
            return list(samples.reshape(-1, samples.shape[-1])), samples.ndim == 2
        clips = [self.read(each, sample_rate) for each in wav]
        if not clips or any(several for _, several in clips):
            raise ValueError("a list of sounds must hold at least one, each a path or mono samples (S,)")
        return [samples for each, _ in clips for samples in each], True

    def _read_file(self, path: str) -> np.ndarray:
        return read_wav(path, sample_rate=self.sample_rate, keep_silent=bool(self.meta.get("keep_silent")))

    def windows(self, clip: Tensor) -> Tensor:
        """(S,) -> (W, num_samples): padded, or cut into windows spread evenly from beginning to end."""
        if len(clip) <= self.num_samples:
            return torch.from_numpy(fit(clip.numpy(), self.num_samples, self.pad))[None]
        count = math.ceil(len(clip) / self.num_samples)
        last = len(clip) - self.num_samples
        starts = [round(number * last / (count - 1)) for number in range(count)]
        return torch.stack([clip[start : start + self.num_samples] for start in starts])

    def _samples(self, wav: Tensor, sample_rate: int | None) -> Tensor:
        if not wav.is_floating_point():
            raise ValueError(f"samples are {wav.dtype}: give floats in [-1, 1], for 16-bit integers divide by 32768")
        if wav.ndim not in (1, 2) or wav.shape[-1] == 0 or wav.shape[0] == 0:
            raise ValueError(f"samples have shape {tuple(wav.shape)}: give (S,) or (B, S), mono and not empty")
        if not torch.isfinite(wav).all():
            raise ValueError("samples hold NaN or infinite values; repair the recording")
        wav = wav.detach().to("cpu", torch.float32)
        if sample_rate is None or sample_rate == self.sample_rate:
            return wav
        if sample_rate <= 0:
            raise ValueError(f"sample_rate={sample_rate}: must be positive, in Hz")
        # As files are: one clip has the same numbers as a path and as samples.
        clips = wav.numpy().reshape(-1, wav.shape[-1])
        resampled = np.stack([resample(clip, sample_rate, self.sample_rate) for clip in clips])
        return torch.from_numpy(resampled).reshape(*wav.shape[:-1], -1)

    @torch.no_grad()
    def _per_window(
        self, clips: Sequence[Tensor], of_tokens: Callable[[Tokens], Tensor], batch_size: int
    ) -> list[Tensor]:
        """`of_tokens` of every window, (W, ...) per clip; windows of different clips share a batch."""
        cut = [self.windows(clip) for clip in clips]
        batches = torch.cat(cut).split(batch_size)
        results = [of_tokens(self.encoder(self.features(batch.to(self.device)))).float().cpu() for batch in batches]
        return list(torch.cat(results).split([len(each) for each in cut]))

    def _probabilities(self, tokens: Tokens) -> Tensor:
        logits = self.require_head()(self.encoder.pool(tokens).float())
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=-1)

    def _named(self, probabilities: Tensor, top: int | None) -> dict[str, float]:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return {self.labels[number]: float(probabilities[number]) for number in order[:top]}
