"""A trained model in three lines, and the export that makes it.

model = vcrast.load("runs/esc50/2026-11-02_10-00-00")
vector = model.embed("dog.wav")               # (768,)
chances = model.predict("dog.wav")            # {"dog": 0.93, "rooster": 0.02, ...}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchaudio.functional import resample

from vcrast.data.audio import read_wav
from vcrast.data.dataset import fit
from vcrast.features.fbank import Fbank
from vcrast.models.ast import Encoder
from vcrast.models.export import (
    build_head,
    describe_head,
    fill,
    find_export,
    load_head,
    read_description,
    read_weights,
    write_export,
)

__all__ = ["Model", "export", "load", "load_head"]

Clip = str | Path | np.ndarray | Tensor


def export(
    folder: Path,
    *,
    encoder: Encoder,
    model: Mapping[str, Any] | None = None,
    features: Mapping[str, Any],
    labels: Sequence[str],
    multilabel: bool,
    head: nn.Module | None,
    sample_rate: int,
    clip_duration_s: float,
    pad: str,
    meta: Mapping[str, Any],
) -> None:
    """Write a model that `load` can rebuild: `weights.safetensors` and `model.json`.

    Args:
        folder: created if missing; an export in it is replaced.
        encoder: the trained encoder.
        model: the keywords it was built with; None takes them from `encoder.options`.
        features: the keywords of `Fbank`, mean and std included.
        labels: class names in the order of the head's outputs.
        multilabel: scores are sigmoids of their own rather than one softmax.
        head: the classifier on the clip vector; None after pretraining alone.
        sample_rate: of the waveforms, Hz.
        clip_duration_s: what the model was trained on.
        pad: how shorter clips are filled, `silence` or `repeat`.
        meta: whatever else a reader may want to know; plain data.

    Raises:
        ValueError: options that are not plain data, or a head that cannot be described by its layers.
    """
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    if head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    description = {
        "model": encoder.options if model is None else model,
        "features": {"sample_rate": sample_rate, **features},
        "labels": list(labels),
        "multilabel": multilabel,
        "head": None if head is None else describe_head(head),
        "sample_rate": sample_rate,
        "clip_duration_s": clip_duration_s,
        "pad": pad,
        "meta": meta,
    }
    write_export(Path(folder), tensors, description)


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
        encoder = Encoder(**found["model"])
        features = Fbank(**found["features"])
        head = None if found["head"] is None else build_head(found["head"])
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'model.json'}: does not describe a model ({error}); export it again") from None
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
        encoder: (B, T, F) -> (B, N, D).
        features: (B, S) -> (B, T, F), normalised.
        labels: class names, in the order of the scores.
        sample_rate: of the waveforms, Hz.
        meta: recipe, fold and seed of the run.
    """

    def __init__(
        self,
        encoder: Encoder,
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
        """The mean of a clip's tokens.

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
        windows = self._per_window(clips, lambda tokens: tokens.mean(dim=1), batch_size)
        vectors = torch.stack([each.mean(dim=0) for each in windows])
        return vectors if several else vectors[0]

    def tokens(self, wav: Clip | Sequence[Clip], sample_rate: int | None = None, *, batch_size: int = 32) -> Tensor:
        """Every token of every window; arguments and errors as in `embed`.

        Returns:
            (W, N, D) for one sound of W windows (1 up to the training length), (B, W, N, D) for several equally long
            ones. Token n lies at time n // f and frequency n % f of `encoder.grid`, which gives (t, f).
        """
        clips, several = self.read(wav, sample_rate)
        windows = self._per_window(clips, lambda tokens: tokens, batch_size)
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
        windows = self._per_window(clips, self._chances, batch_size)
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
            return [torch.from_numpy(read_wav(str(wav), sample_rate=self.sample_rate))], False
        if isinstance(wav, np.ndarray | Tensor):
            samples = self._samples(torch.as_tensor(wav), sample_rate)
            return list(samples.reshape(-1, samples.shape[-1])), samples.ndim == 2
        clips = [self.read(each, sample_rate) for each in wav]
        if not clips or any(several for _, several in clips):
            raise ValueError("a list of sounds must hold at least one, each a path or mono samples (S,)")
        return [samples for each, _ in clips for samples in each], True

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
        return resample(wav, sample_rate, self.sample_rate, lowpass_filter_width=64)

    @torch.no_grad()
    def _per_window(
        self, clips: Sequence[Tensor], of_tokens: Callable[[Tensor], Tensor], batch_size: int
    ) -> list[Tensor]:
        """`of_tokens` of every window, (W, ...) per clip; windows of different clips share a batch."""
        cut = [self.windows(clip) for clip in clips]
        batches = torch.cat(cut).split(batch_size)
        results = [of_tokens(self.encoder(self.features(batch.to(self.device))).float()).cpu() for batch in batches]
        return list(torch.cat(results).split([len(each) for each in cut]))

    def _chances(self, tokens: Tensor) -> Tensor:
        logits = self.require_head()(tokens.mean(dim=1))
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=-1)

    def _named(self, chances: Tensor, top: int | None) -> dict[str, float]:
        order = chances.argsort(descending=True, stable=True).tolist()
        return {self.labels[number]: float(chances[number]) for number in order[:top]}
