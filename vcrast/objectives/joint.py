"""Embed views of clips jointly: what all losses of projections of several views share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vcrast.config.metric import Metric
from vcrast.features.draws import Draws
from vcrast.features.views import titles_of
from vcrast.models.backbone import Backbone
from vcrast.models.projector import Projector
from vcrast.objectives.base import (
    Batch,
    Clips,
    Losses,
    Objective,
    Task,
    prepare_views,
    represent_views,
)
from vcrast.objectives.ema import Teacher, rising
from vcrast.objectives.masked import left_of
from vcrast.objectives.terms import std_of

STD = Metric("Mean std of the projections", "fixed")
COLLAPSED = 0.1  # of the reachable std; untrained projections have 0.35


class Projections(NamedTuple):
    """What a loss compares, of all clips of the global batch.

    Attributes:
        views: V of them, (B, P) each, the whole views before the local ones.
        num_whole: how many are whole: local views are compared with these, not with each other.
        targets: what the teacher makes of the whole views, without gradient; None: there is no teacher.
    """

    views: tuple[Tensor, ...]
    num_whole: int
    targets: tuple[Tensor, ...] | None = None

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Two views each that are compared: of the student, or one of the student and another one of the teacher."""
        whole = self.views[: self.num_whole]
        if self.targets is not None:
            return [
                (own, target)
                for number, own in enumerate(self.views)
                for other, target in enumerate(self.targets)
                if other != number
            ]
        return [
            (first, second) for number, second in enumerate(self.views) for first in whole[: min(number, len(whole))]
        ]

    @property
    def centre(self) -> Tensor:
        """(B, P): the mean of the whole views, the teacher's where there is one."""
        return torch.stack(self.targets or self.views[: self.num_whole]).mean(dim=0)


class JointEmbedding(Objective):
    """An objective that compares the projections of V views of each clip, over the whole batch.

    Args:
        encoder: as in `Objective`.
        views: makes the views of each waveform (`names`, the first `num` of them whole), and chooses the tokens that
            stay.
        task: as in `Objective`.
        projector_dims: widths of the projector; the last is P.
        projector_last_norm: BatchNorm without scale and shift behind the projector.
        teacher: `none`, or `ema`: views are compared with what a moving average of encoder and projector makes of the
            whole views, the same tokens of them, without gradient.
        teacher_momentum: of that average at the first step; it rises to 1 along a half cosine.

    Attributes:
        num_directions: random directions of the projections' space that the loss asks for at every step.

    Raises:
        ValueError: one view only, or an option out of its range.

    Source: of the teacher Grill et al. 2020, arXiv:2006.07733 (BYOL); BatchNorm of its projector takes the statistics
        of the batch, as the student's does.
    """

    smallest_batch: ClassVar[int] = 2  # one clip has no variance and no negatives
    many_views: ClassVar[bool] = True
    num_directions: int = 0

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        projector_dims: list[int],
        projector_last_norm: bool,
        teacher: str,
        teacher_momentum: float,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task)
        if len(views.names) < 2:
            raise ValueError(f"views.num={views.num}: this objective compares views; set 2 or more, or views.local")
        if teacher not in ("none", "ema"):
            raise ValueError(f"objective.teacher={teacher}: choose from none, ema")
        if not 0 <= teacher_momentum <= 1:
            raise ValueError(f"objective.teacher_momentum={teacher_momentum}: must lie in [0, 1]")
        self.projector = Projector(encoder.embed_dim, projector_dims, last_norm=projector_last_norm)
        self.names: tuple[str, ...] = views.names
        self.teacher_momentum = teacher_momentum
        self.teacher: nn.ModuleDict | None = None
        self.gathered = self.names
        if teacher == "ema":
            # The encoder has its first weights by now: a run loads a checkpoint before it builds the objective.
            self.teacher = nn.ModuleDict({"encoder": Teacher(encoder), "projector": Teacher(self.projector)})
            use_statistics_of_the_batch(self.teacher["projector"])
            self.gathered = (*self.names, *(target_of(name) for name in self.whole))
        self.directions: Tensor | None = None

    @property
    def whole(self) -> tuple[str, ...]:
        """Names of the views that are not local."""
        return self.names[: self.views.num]

    @property
    def moves_weights(self) -> bool:
        """See `Objective`."""
        return self.teacher is not None

    def prepare(self, batch: Batch, draws: Draws) -> Clips:
        """Make the views of each clip; of a pair of sounds they take turns. Draws the directions of the step, too."""
        if self.num_directions:
            drawn = draws.shared_normal("directions", self.projector.dim_out, self.num_directions)
            self.directions = drawn / drawn.norm(dim=0)
        return prepare_views(self.encoder, self.views, batch.wav, draws, self.names)

    def directions_of_the_step(self, like: Tensor) -> Tensor:
        """(P, K) unit vectors that `prepare` has drawn, in the type of `like`."""
        assert self.directions is not None, "prepare draws them"
        return self.directions.to(like.dtype)

    def represent(self, inputs: Clips) -> Clips:
        """Encode all views of some clips: (b, D) each, and with a teacher `NAME/target` of the whole ones."""
        found = represent_views(self.encoder, inputs, self.names)
        if self.teacher is not None:
            plain = {name: value for name, value in inputs.items() if not name.endswith("/noise")}
            network = self.teacher["encoder"].network
            assert isinstance(network, Backbone)
            with torch.no_grad():
                targets = represent_views(network, plain, self.whole)
            found |= {target_of(name): value for name, value in targets.items()}
        return found

    def batch_losses(self, outputs: Clips) -> Losses:
        """Project the views and compare them, at least in fp32.

        Args:
            outputs: (B, D) of every view, and `NAME/target` with a teacher, of all clips of the global batch.

        Returns:
            See `compare`; `std`, the mean std of the projections, beside it.

        Raises:
            ValueError: fewer than two clips.
        """
        num_clips = len(outputs[self.names[0]])
        if num_clips < 2:
            raise ValueError(f"a batch of {num_clips} clip has no variance; set pretrain.batch_size to 2 or more")
        # One view at a time: BatchNorm sees B clips, not V * B, as in VICReg's authors' code.
        views = tuple(self.projector(outputs[name]) for name in self.names)
        targets = None
        if self.teacher is not None:
            targets = tuple(self.teacher["projector"](outputs[target_of(name)]) for name in self.whole)
        found = self.compare(Projections(views, len(self.whole), targets))
        seen = [self.spread_of(view.detach()) for view in views]
        return {**found, "std": torch.stack([std_of(view).mean() for view in seen]).mean()}

    @abstractmethod
    def compare(self, projections: Projections) -> Losses:
        """0-d `loss` and its parts of all clips, in the precision of the projections."""

    def spread_of(self, view: Tensor) -> Tensor:
        """(B, P) projections, scaled so that a std of 1 in every dimension is what the loss asks for."""
        return view

    def reachable_std(self, num_clips: int) -> float:  # noqa: ARG002 - for others
        """The std that the loss asks for, at a batch of this size."""
        return 1.0

    def collapsed(self, parts: Mapping[str, float | None], num_clips: int) -> str | None:
        """See `Objective`: a std far below the one that the loss asks for, whatever the embeddings look like."""
        std, reachable = parts.get("std"), self.reachable_std(num_clips)
        if std is None or std >= COLLAPSED * reachable:
            return None
        return f"the projections' std is {std:.2g}, where {reachable:.2g} can be reached"

    def examples(self, wavs: Tensor, draws: Draws) -> Clips:
        """See `Objective`: all views, the whole ones first; tokens that leave the encoder or are masked are NaN."""
        made = prepare_views(self.encoder, self.views, wavs, draws, self.names)
        shown = {}
        for name, title in titles_of(self.views).items():
            keep = self.views.keep(draws, name, self.encoder.grid(made[name].shape[-2]))
            shown[title] = made[name] if keep is None else left_of(self.encoder, made[name], keep)
        return shown

    def after_step(self, progress: float, skipped: Tensor) -> None:
        """Move the teacher."""
        if self.teacher is None:
            return
        momentum = rising(self.teacher_momentum, progress)
        for name, student in (("encoder", self.encoder), ("projector", self.projector)):
            teacher = self.teacher[name]
            assert isinstance(teacher, Teacher)
            teacher.follow(student, momentum, skipped)


def target_of(name: str) -> str:
    """The name of what the teacher makes of a view."""
    return f"{name}/target"


def use_statistics_of_the_batch(module: nn.Module) -> None:
    """Let BatchNorm normalise by the batch it is given, in evaluation mode, too."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """The mean of some 0-d tensors."""
    return torch.stack(list(values)).mean()
