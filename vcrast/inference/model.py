"""Embed and predict with a trained encoder, its front end, labels and classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vcrast.features.fbank import Fbank
from vcrast.inference.described import described
from vcrast.inference.explain import Explanation, explain
from vcrast.inference.pieces import Cutter, Heard, Piece, frames_of
from vcrast.inference.reading import Clip, Reading
from vcrast.models.backbone import Backbone, Tokens
from vcrast.models.classifier import classify, classify_frames

NO_CLASSIFIER = (
    "this model was only pretrained and has no classifier; finetune it "
    "(vcrast run run.resume=RUN 'stages=[pretrain,finetune]'), or embed instead of predict"
)
Result = tuple[float, float, Tensor]
"""Begin and end of a piece in s, and what its windows gave, (W, ...)."""


class Model(Reading):
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
        return described(self)

    @property
    def embed_dim(self) -> int:
        """D: length of an embedding."""
        return int(self.encoder.readout_dim)

    def embed(
        self,
        wav: Clip | Sequence[Clip],
        sample_rate: float | None = None,
        *,
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 32,
    ) -> Tensor:
        """A clip's vector, as the backbone reads it off its tokens (`model.readout`).

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

    def explain(
        self,
        wav: Clip,
        sample_rate: float | None = None,
        *,
        label: str | None = None,
        embedding: bool = False,
        method: str = "relevance",
        layout: str | None = None,
        pad: str | None = None,
        batch_size: int = 4,
    ) -> Explanation:
        """Where in the spectrogram of one sound its result comes from; arguments not said here as in `embed`.

        Args:
            wav: one sound.
            sample_rate: as in `embed`.
            label: the class to explain; None: the likeliest one, or the embedding where there is no classifier.
            embedding: explain that although there is a classifier.
            method: `relevance` (of gradients and attention) or `rollout` (of attention alone, the same for all labels).
            layout: as in `embed`.
            pad: as in `embed`.
            batch_size: windows at once; each holds the attention weights of all layers, twice.

        Raises:
            ValueError: also where there is no such class, or the model has no attention weights to show.
        """
        sounds, several = self._sounds(wav, sample_rate, layout)
        if several:
            raise ValueError("explain takes one sound at a time; call it once per sound")
        return explain(
            self, next(sounds), label=label, embedding=embedding, method=method, pad=pad, batch_size=batch_size
        )

    def require_head(self) -> nn.Module:
        """The classifier.

        Raises:
            ValueError: the model has none.
        """
        if self.head is None:
            raise ValueError(NO_CLASSIFIER)
        return self.head

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
        return self.encoder.read_out(tokens)

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
