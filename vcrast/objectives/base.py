"""OBJECTIVES: the contract of what is learnt, and views that most objectives share.

A step of any objective is `prepare` (random choices, whole batch, no gradient), `represent` (the expensive part, in
micro-batches, perhaps twice), then losses of single clips and losses of the whole batch (`vcrast.training.exact`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from vcrast.config.metric import Metric
from vcrast.features.draws import Draws
from vcrast.models.backbone import Backbone, Tokens, require

Clips = dict[str, Tensor]
"""Tensors by name whose first axis is the clips: they are cut into micro-batches, joined, and gathered over ranks."""

Losses = dict[str, Tensor]
"""`loss` is what is minimised; every other entry is a part that is shown (see `Objective.parts`)."""

WEIGHT = "weight"


class Batch(Protocol):
    """What the loop hands to `prepare`: this rank's clips of a step, on the device."""

    @property
    def wav(self) -> Tensor:
        """(b, S) waveforms in [-1, 1], or (b, 2, S) pairs of sounds."""

    @property
    def label(self) -> Tensor:
        """(b, C) multi-hot; C is 0 where clips have no labels."""


@dataclass(frozen=True)
class Task:
    """What the data asks of an objective.

    Attributes:
        num_classes: C; 0 without labels.
        multilabel: a clip may have several labels, or none.
        num_frames: T of the filterbanks.
        num_mel_bins: F.
        classes: C names; empty where nobody knows them.
        class_clips: training clips that carry each class, C numbers; empty where nobody has counted.
        num_clips: all training clips.
    """

    num_classes: int
    multilabel: bool
    num_frames: int
    num_mel_bins: int
    classes: tuple[str, ...] = ()
    class_clips: tuple[int, ...] = ()
    num_clips: int = 0


class Objective(nn.Module, ABC):
    """Base of all objectives; registered in OBJECTIVES, its own options are its keywords.

    Args:
        encoder: what is trained.
        views: makes random views of waveforms.
        task: what the data asks.

    Attributes:
        parts: how each entry of the losses but `loss` is shown. Two names mean the same for all objectives: `floor`,
            the least value that the loss can take for this batch, and `above_floor`, how far it is above.
        note: how to read the curves of the loss and its parts, for the report.
        gathered: outputs of `represent` that `batch_losses` reads: all clips of all ranks. Empty: there is no loss of
            the batch, and micro-batches run forward and backward one after the other.
        needs_labels: refused for clips without labels.
        smallest_batch: fewer clips have no loss.
        compiled: submodules that `engine.compile=true` compiles.
        many_views: compares views of a clip, `views.num` and `views.local` of them.
        masks_itself: chooses the tokens that are hidden, so views may drop none.
        can_collapse: the loss may be low while all clips are represented alike. Where it may not, embeddings along few
            directions are no alarm: those of masked patches are mostly told apart by their loudness.
        remedy: what a user may change where `collapsed` says so.
    """

    parts: ClassVar[dict[str, Metric]] = {}
    note: ClassVar[str] = ""
    gathered: tuple[str, ...] = ()
    needs_labels: ClassVar[bool] = False
    smallest_batch: ClassVar[int] = 1
    compiled: ClassVar[tuple[str, ...]] = ("encoder",)
    many_views: ClassVar[bool] = False
    masks_itself: ClassVar[bool] = False
    can_collapse: ClassVar[bool] = True
    remedy: ClassVar[str] = "lower optim.lr, or weaken the views"

    def __init__(self, *, encoder: Backbone, views: Any, task: Task) -> None:
        super().__init__()
        self.encoder, self.views, self.task = encoder, views, task
        dropping = bool(views.drops_by)
        if dropping and self.masks_itself:
            raise ValueError(
                f"{views.drops_by}: this objective chooses the hidden patches itself; set views.patch_drop=0"
            )
        if not self.many_views and (views.num != 2 or views.local_names):
            setting = "views.local" if views.local_names else f"views.num={views.num}"
            raise ValueError(
                f"{setting}: this objective does not compare views; leave it out, or choose one that does, such as vcr"
            )
        masking = dropping and views.patch_drop_mode == "mask"
        require(encoder, drop=dropping and not masking, mask=masking, by=views.drops_by)
        if masking:
            encoder.enable_mask_token()

    @property
    def moves_weights(self) -> bool:
        """Whether `after_step` does anything."""
        return type(self).after_step is not Objective.after_step

    @abstractmethod
    def prepare(self, batch: Batch, draws: Draws) -> Clips:
        """Make everything random of a step, for this rank's whole batch at once; called without gradient.

        An entry `weight` (b,) says what each clip counts in the mean of `clip_losses`, 1 in all over the *global* batch
        (draws are of the global batch, so counts of masked tokens are known everywhere); without it all count alike.
        """

    @abstractmethod
    def represent(self, inputs: Clips) -> Clips:
        """Encode some clips, under autocast: what the losses need, clips first; may run again in the backward."""

    def clip_losses(self, outputs: Clips) -> Losses:  # noqa: ARG002 - none by default
        """(b,) each, of single clips: summed exactly under every cut, never gathered; outside of autocast."""
        return {}

    def batch_losses(self, outputs: Clips) -> Losses:  # noqa: ARG002 - none by default
        """0-d each, of the `gathered` outputs of all clips of all ranks, alike on every rank; outside of autocast."""
        return {}

    def collapsed(self, parts: Mapping[str, float | None], num_clips: int) -> str | None:  # noqa: ARG002 - for others
        """Say what of the losses' parts shows that all clips are represented alike; None where nothing does.

        Args:
            parts: of the last step that was logged.
            num_clips: the batch.
        """
        return None

    def examples(self, wavs: Tensor, draws: Draws) -> Clips:
        """What the report shows beside some clips, by name: (b, [C,] T, F) each; two views, unless told otherwise.

        Args:
            wavs: (b, S), or (b, 2, S) pairs of sounds.
            draws: of these clips.
        """
        first, second = (wavs, wavs) if wavs.ndim == 2 else wavs.unbind(1)
        return {"view 1": self.views.make(first, draws, "a"), "view 2": self.views.make(second, draws, "b")}

    def after_step(self, progress: float, skipped: Tensor) -> None:
        """Update what no gradient moves (a teacher, a schedule), after every optimiser step.

        Args:
            progress: share of the stage's steps that are done, in (0, 1].
            skipped: 0-d bool on the device: the step was not finite and changed no weight; then nothing may move here.
        """


def prepare_views(encoder: Backbone, views: Any, wavs: Tensor, draws: Draws, names: Sequence[str]) -> Clips:
    """Make a view of every clip under each of `names`, with what the encoder needs beside it.

    Args:
        encoder: tells how many tokens and random numbers a clip has.
        views: `vcrast.features.views.Views`.
        wavs: (b, S), of which all views are made, or (b, 2, S), pairs of sounds that take turns.
        draws: of these clips.
        names: of the views.

    Returns:
        For a view `a`: `a` (b, [C,] T, F), and where they apply `a/keep` (b, Nkeep) tokens that stay, `a/mask` (b, N)
        True under the mask token, `a/noise` (b, num_drop_path_draws) for drop path.
    """
    sounds = [wavs] if wavs.ndim == 2 else list(wavs.unbind(1))
    found: Clips = {}
    for number, name in enumerate(names):
        found[name] = views.make(sounds[number % len(sounds)], draws, name)
        grid = encoder.grid(found[name].shape[-2])
        keep = views.keep(draws, name, grid)
        if keep is not None and views.patch_drop_mode == "mask":
            hidden = torch.ones(len(keep), grid[0] * grid[1], dtype=torch.bool, device=keep.device)
            found[f"{name}/mask"] = hidden.scatter_(1, keep, False)
        elif keep is not None:
            found[f"{name}/keep"] = keep
        if encoder.num_drop_path_draws and encoder.training:
            found[f"{name}/noise"] = draws.uniform(f"{name}/drop_path", encoder.num_drop_path_draws)
    return found


def represent_views(encoder: Backbone, inputs: Clips, names: Sequence[str]) -> Clips:
    """(b, D) vectors of the views `names` that `prepare_views` made; views of equal shape share one forward."""
    found: Clips = {}
    for same in equal_shapes(inputs, names):
        found |= zip(same, encoder.pool(encode_views(encoder, inputs, same)).chunk(len(same)), strict=True)
    return found


def encode_views(encoder: Backbone, inputs: Clips, names: Sequence[str]) -> Tokens:
    """Tokens of views of equal shape that `prepare_views` made, one view after the other along the clips."""
    joined = {part: torch.cat([inputs[f"{name}{part}"] for name in names]) for part in parts_of(inputs, names[0])}
    tokens: Tokens = encoder(
        joined[""], keep=joined.get("/keep"), mask=joined.get("/mask"), drop_path_noise=joined.get("/noise")
    )
    return tokens


def parts_of(inputs: Clips, name: str) -> list[str]:
    """What is there of a view: `""` is the filterbank itself."""
    return [part for part in ("", "/keep", "/mask", "/noise") if f"{name}{part}" in inputs]


def equal_shapes(inputs: Clips, names: Iterable[str]) -> list[list[str]]:
    """The names of views in groups that can be joined along the clips."""
    groups: dict[Any, list[str]] = {}
    for name in names:
        shapes = tuple((part, inputs[f"{name}{part}"].shape) for part in parts_of(inputs, name))
        groups.setdefault(shapes, []).append(name)
    return list(groups.values())
