"""Embed and predict with a trained encoder, its front end, labels and classifier."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vcrast.data.arrays import one_sound, split_sounds, to_mono
from vcrast.data.audio import Decoded, read_scaled
from vcrast.features.fbank import Fbank
from vcrast.inference.pieces import SHORTER, Cutter, Heard, Piece, frames_of
from vcrast.inference.sounds import as_array, called, is_array
from vcrast.models.backbone import Backbone, Tokens
from vcrast.models.classifier import classify, classify_frames

log = logging.getLogger(__name__)

NO_CLASSIFIER = (
    "this model was only pretrained and has no classifier; finetune it "
    "(vcrast run run.resume=RUN 'stages=[pretrain,finetune]'), or embed instead of predict"
)
TWO_ARGUMENTS = "samples and their rate are two arguments: embed(samples, sample_rate)"
Clip = str | Path | np.ndarray | Tensor
Result = tuple[float, float, Tensor]
"""Begin and end of a piece in s, and what its windows gave, (W, ...)."""


class Model:
    """A trained encoder with its front end, its labels and, once finetuned, its classifier.

    A sound is a path or an array (NumPy or tensor): floats in [-1, 1], or int16, int32 or uint8 as files hold them.

    - (S,) is one sound, (S, C) with at most 32 columns is one of C channels, as `soundfile.read` gives it. Channels are
      averaged.
    - (B, S) with one row, or more than 8, is B sounds. Two to eight rows may be either: `layout="batch"` says that they
      are sounds, `layout="channels"` that they are the channels of one, as `torchaudio.load` gives them.
    - A list holds sounds, one in each of its paths and arrays.

    The same samples give the same numbers whether they come from a file or an array: floats beyond 1 are divided by
    their full scale (2, 4, 8, 16, 32, 2^15, 2^23, 2^31), other rates are resampled. Clips longer than the training
    clips are cut into windows of that length, spread evenly from beginning to end and overlapping as little as
    possible, and the windows' results are averaged, as `evaluate` does; shorter ones are padded as in training.

    Attributes:
        encoder: the backbone.
        features: (B, S) -> (B, T, F), normalised.
        labels: class names, in the order of the scores.
        sample_rate: of the waveforms, Hz.
        num_samples: that the model hears at once; `clip_duration_s` is the same in s.
        pad: what fills shorter clips: `silence` behind them, `repeat`, or `zeros`: in the filterbank, as the AST does.
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
        self._said: set[str] = set()

    def __repr__(self) -> str:
        options, meta = self.encoder.options, self.meta
        depth = f"{options['depth']} layers of " if isinstance(options.get("depth"), int) else ""
        count = sum(weight.numel() for weight in self.encoder.parameters())
        weights = f"{count / 1e6:.1f} M" if count >= 1e5 else str(count)
        origin = ", ".join(f"{key} {meta[key]}" for key in ("recipe", "fold", "seed", "stage") if key in meta)
        origin += f", the mean of {len(meta['averaged'])} models" if "averaged" in meta else ""
        shorter = SHORTER.get(self.pad, self.pad)
        names = ", ".join(self.labels[:4]) + (", ..." if len(self.labels) > 4 else "")
        classes = f"{len(self.labels)} classes, {'any number' if self.multilabel else 'one'} a sound: {names}"
        lines = [
            f"<vcrast.Model {options.get('name', type(self.encoder).__name__)}, {depth}{self.embed_dim}, "
            f"{weights} weights, on {self.device}",
            f"from {origin}" if origin else "",
            f"hears {self.clip_duration_s:g} s at {self.sample_rate} Hz, {self.features.num_mel_bins} mel bins; "
            f"longer sounds are cut into windows, shorter ones {shorter}",
            "no classifier: embeds, cannot predict" if self.head is None else classes,
        ]
        return "\n  ".join(filter(None, lines)) + ">"

    @property
    def embed_dim(self) -> int:
        """D: length of an embedding."""
        return int(self.encoder.embed_dim)

    def embed(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: float | None = None,
        *,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """A clip's vector, as the backbone pools its tokens.

        Args:
            wav: one sound, or several (see the class).
            sample_rate: of samples given as an array, Hz; None takes the model's, and says so. Files know theirs.
            layout: of a 2-D array: `channels` or `batch` (see the class).
            pad: what fills short clips: `silence`, `repeat`, `zeros`, or `model`, which is what None means.
            batch_size: windows that are computed at once.

        Returns:
            (D,), or (B, D) for several sounds; float32 on the CPU.

        Raises:
            ValueError: an unreadable file, samples that are empty, not finite or of another type, a shape that may be
                two things, or an argument out of its range.
        """
        found, several = self._results(wav, sample_rate, layout, pad, batch_size, self.vectors)
        vectors = torch.stack([rows.mean(dim=0) for _, _, rows in found])
        return vectors if several else vectors[0]

    def tokens(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: float | None = None,
        *,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """Every token of every window; arguments and errors as in `embed`.

        Returns:
            (W, N, D) for one sound of W windows (1 up to the training length), (B, W, N, D) for several equally long
            ones. Token n lies at time n // f and frequency n % f of `encoder.grid`, which gives (t, f).
        """
        found, several = self._results(wav, sample_rate, layout, pad, batch_size, lambda tokens: tokens.values)
        if len({len(rows) for _, _, rows in found}) > 1:
            raise ValueError(
                "tokens of sounds with different numbers of windows cannot be stacked; call once per sound"
            )
        stacked = torch.stack([rows for _, _, rows in found])
        return stacked if several else stacked[0]

    def predict(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: float | None = None,
        *,
        top: int | None = None,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> Any:
        """Class probabilities, averaged over the windows; arguments and errors as in `embed`.

        Returns:
            {label: probability} from the likeliest down, the `top` first ones if given; a list of them for several
            sounds. The probabilities add up to 1, unless a clip may have several labels.

        Raises:
            ValueError: also if the model has no classifier.
        """
        self._check_top(top)
        found, several = self._results(wav, sample_rate, layout, pad, batch_size, self.probabilities)
        named = [self.named(rows.mean(dim=0), top) for _, _, rows in found]
        return named if several else named[0]

    def embed_windows(
        self,
        wav: Clip,
        sample_rate: float | None = None,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> tuple[np.ndarray, Tensor]:
        """Vectors along one sound; the arguments that are not said here as in `embed`.

        Args:
            wav: one sound.
            sample_rate: as in `embed`.
            window_s: how much gets one result; None is what the model hears. A shorter stretch is padded, a longer one
                is averaged over windows, as if it were a sound of its own.
            hop_s: from one window to the next, from the beginning on until the end is heard; None is `window_s`. With
                neither, the windows are those that `embed` averages.
            layout: as in `embed`.
            pad: as in `embed`.
            batch_size: as in `embed`.

        Returns:
            (W, 2) begin and end of each window in s, and (W, D).
        """
        cut = partial(Cutter.along, window_s=window_s, hop_s=hop_s)
        found, _ = self._results([wav], sample_rate, layout, pad, batch_size, self.vectors, cut)
        times = np.array([(start_s, end_s) for start_s, end_s, _ in found])
        return times, torch.stack([rows.mean(dim=0) for _, _, rows in found])

    def predict_windows(
        self,
        wav: Clip,
        sample_rate: float | None = None,
        *,
        top: int | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> list[Heard]:
        """Class probabilities along one sound; arguments as in `embed_windows` and `predict`."""
        self._check_top(top)
        cut = partial(Cutter.along, window_s=window_s, hop_s=hop_s)
        found, _ = self._results([wav], sample_rate, layout, pad, batch_size, self.probabilities, cut)
        return [Heard(start_s, end_s, self.named(rows.mean(dim=0), top)) for start_s, end_s, rows in found]

    def frame_scores(
        self,
        wav: Clip,
        sample_rate: float | None = None,
        *,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> tuple[np.ndarray, Tensor]:
        """Class probabilities of every frame of one sound; arguments and errors as in `embed`.

        Windows of the model's length follow each other; the last one ends with the sound.

        Returns:
            (T', 2) begin and end of each frame in s, without gaps, and (T', C) in the order of `labels`.

        Raises:
            ValueError: also if the model has no classifier, or one that knows no times within a clip.
        """
        of_tokens, cut = self.frame_probabilities, Cutter.consecutive
        found, _ = self._results([wav], sample_rate, layout, pad, batch_size, of_tokens, cut)
        pieces = ((Piece("", start_s, end_s, torch.empty(0)), rows[0]) for start_s, end_s, rows in found)
        frames = list(frames_of(pieces, self.clip_duration_s))
        times = np.array([(frame.start_s, frame.end_s) for frame, _ in frames])
        return times, torch.stack([row for _, row in frames])

    def require_head(self) -> nn.Module:
        """The classifier.

        Raises:
            ValueError: the model has none.
        """
        if self.head is None:
            raise ValueError(NO_CLASSIFIER)
        return self.head

    def read(
        self, wav: Clip | Sequence[Clip], sample_rate: float | None = None, *, layout: str | None = None
    ) -> tuple[list[Tensor], bool]:
        """Sounds as mono float32 (S,) at the model's rate on the CPU, and whether several were given."""
        sounds, several = self._sounds(wav, sample_rate, layout)
        return list(sounds), several

    def read_file(self, path: str) -> Decoded:
        """A file's samples at the model's rate, and the full scale that they were divided by; errors as `read_wav`."""
        return read_scaled(
            path, sample_rate=self.sample_rate, keep_silent=bool(self.meta.get("keep_silent")),
            time_expansion=self.meta.get("time_expansion") or 1.0,
        )  # fmt: skip

    def windows(self, clip: Tensor, *, pad: str | None = None) -> Tensor:
        """(S,) -> (W, num_samples): padded (`zeros`: by NaN), or cut into windows spread evenly over its length."""
        return torch.stack(list(self.cutter(pad).windows(clip)))

    def cutter(self, pad: str | None = None) -> Cutter:
        """How the model's windows lie in sounds; `pad` as in `embed`."""
        return Cutter(self.num_samples, self.sample_rate, self.pad if pad in (None, "model") else str(pad))

    def hear(
        self, pieces: Iterable[Piece], of_tokens: Callable[[Tokens], Tensor], *, cutter: Cutter, batch_size: int
    ) -> Iterator[tuple[Piece, Tensor]]:
        """Yield each piece with `of_tokens` of its windows, (W, ...) on the CPU; see `Cutter.heard`."""

        @torch.no_grad()
        def batch_result(windows: Tensor) -> Tensor:
            return of_tokens(self.encoder(cutter.fbank(self.features, windows.to(self.device)))).float().cpu()

        return cutter.heard(pieces, batch_result, batch_size=batch_size)

    def vectors(self, tokens: Tokens) -> Tensor:
        """(B, D): what `embed` gives for B windows."""
        return self.encoder.pool(tokens)

    def probabilities(self, tokens: Tokens) -> Tensor:
        """(B, C): what `predict` gives for B windows, in the order of `labels`."""
        return self.chances(classify(self.encoder, self.require_head(), tokens))

    def frame_probabilities(self, tokens: Tokens) -> Tensor:
        """(B, T', C): what `frame_scores` gives for the T' frames of B windows; errors as there."""
        return self.chances(classify_frames(self.require_head(), tokens))

    def chances(self, logits: Tensor) -> Tensor:
        """Logits as probabilities: of any number of labels, or of one."""
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=-1)

    def named(self, probabilities: Tensor, top: int | None = None) -> dict[str, float]:
        """(C,) -> {label: probability} from the likeliest down."""
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return {self.labels[number]: float(probabilities[number]) for number in order[:top]}

    def _check_top(self, top: int | None) -> None:
        self.require_head()
        if top is not None and top < 1:
            raise ValueError(f"top={top}: must be at least 1; leave it out for all labels")

    def _results(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: float | None,
        layout: str | None,
        pad: str | None,
        batch_size: int,
        of_tokens: Callable[[Tokens], Tensor],
        cut: Callable[[Cutter, str, Tensor], Iterable[Piece]] = Cutter.whole,
    ) -> tuple[list[Result], bool]:
        """`of_tokens` of the windows of all pieces of the sounds, and whether several sounds were given."""
        cutter = self.cutter(pad)
        sounds, several = self._sounds(wav, sample_rate, layout)
        lengths: list[int] = []

        def pieces() -> Iterator[Piece]:
            for sound in sounds:
                for piece in cut(cutter, "", sound):
                    lengths.append(len(piece.wav))
                    yield piece

        heard = self.hear(pieces(), of_tokens, cutter=cutter, batch_size=batch_size)
        found = [(piece.start_s, piece.end_s, rows) for piece, rows in heard]  # samples are not kept
        self._say_once(cutter.padding_note(lengths), about="padding")
        return found, several

    def _sounds(
        self, wav: Clip | Sequence[Clip], sample_rate: float | None, layout: str | None
    ) -> tuple[Iterator[Tensor], bool]:
        """Sounds as mono (S,) at the model's rate, read when they are asked for, and whether they are several."""
        if isinstance(wav, str | Path):
            return map(self._file, [wav]), False
        if is_array(wav):
            arrays, several = split_sounds(as_array(wav), layout=layout, shortest=self.features.window_samples)
            return (self._samples(array, sample_rate) for array in arrays), several
        if not isinstance(wav, Sequence) or not len(wav):
            raise ValueError(
                f"a sound is a path or an array, or a list of at least one of them; not {called(wav)}; {TWO_ARGUMENTS}"
            )
        for each in wav:
            if not isinstance(each, str | Path) and not is_array(each):
                raise ValueError(f"a list of sounds must hold paths and arrays, not {called(each)}; {TWO_ARGUMENTS}")
        return (self._one(each, sample_rate, layout) for each in wav), True

    def _one(self, wav: Clip, sample_rate: float | None, layout: str | None) -> Tensor:
        if isinstance(wav, str | Path):
            return self._file(wav)
        return self._samples(one_sound(as_array(wav), layout=layout), sample_rate)

    def _file(self, path: str | Path) -> Tensor:
        if Path(path).is_dir():
            raise ValueError(f"{path}: a folder; give a list of its sounds, or use `vcrast predict` and `vcrast embed`")
        found = self.read_file(str(path))
        self._say_scale(found.scale, str(path))
        return torch.from_numpy(found.wav)

    def _samples(self, sound: np.ndarray, sample_rate: float | None) -> Tensor:
        """One sound (S,) or (S, C) as what a file with these samples is read as."""
        if sample_rate is None:
            self._say_once(f"no sample_rate given: {self.sample_rate} Hz assumed, the model's", about="rate")
        wav, scale = to_mono(sound, self.sample_rate if sample_rate is None else sample_rate, self.sample_rate)
        self._say_scale(scale, "an array")
        return torch.from_numpy(wav)

    def _say_scale(self, scale: float, where: str) -> None:
        if scale != 1.0:
            self._say_once(f"{where}: samples beyond 1, divided by their full scale {scale:g}", about="full scale")

    def _say_once(self, text: str | None, *, about: str) -> None:
        if text is not None and about not in self._said:
            self._said.add(about)
            log.warning(text)
