"""ASiT: a student of corrupted crops follows a teacher of clean ones, and restores them.

Source: Ahmed et al. 2022, arXiv:2211.13189; self-distillation of Caron et al. 2021, arXiv:2104.14294 (DINO).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.metric import Metric
from vcrast.config.registry import OBJECTIVES
from vcrast.features.corruption import Corruption
from vcrast.features.draws import Draws
from vcrast.models.backbone import Backbone, Tokens, upcast
from vcrast.objectives.base import Batch, Clips, Losses, Objective, Task, prepare_views
from vcrast.objectives.ema import Teacher, rising
from vcrast.training.dist import average

VIEWS = ("a", "b")


@OBJECTIVES.register("asit")
class ASiT(Objective):
    """Three losses on two crops of a clip: of its vectors across crops, of tokens within one, and of pixels.

    Args:
        encoder: as in `Objective`; a clip's vector is what its `pool` says, in the paper a class token's.
        views: makes the two crops; drops no tokens.
        task: as in `Objective`.
        corruption: options of `vcrast.features.corruption.Corruption`.
        reconstruction_weight: of the mean absolute error of corrupted pixels; 0 leaves the decoder out.
        head_dims: widths of the projection heads; the last is normalised to length 1 before it is compared.
        num_prototypes: outputs for a clip's vector.
        num_token_prototypes: outputs for a token.
        student_temperature: of the student's softmax.
        teacher_temperature: [first, later] of the teacher's.
        temperature_warmup: share of the steps over which the teacher's rises.
        centre_momentum: of the running mean of the teacher's outputs that is subtracted from them.
        momentum: of the teacher at the first step; it rises to 1 along a half cosine.

    The teacher's centre is that of the steps before, and its update needs only sums over clips: every clip has a loss
    of its own, and the step is the same for any micro-batch. We leave the paper in: constant weight decay instead of a
    rising one, no frozen last layer (the authors' code freezes none either), clipping of the gradient's whole norm.
    Partners of rectangles lie among this process's clips, as those of mixup do.

    Raises:
        ValueError: an option out of its range.
    """

    parts: ClassVar[dict[str, Metric]] = {
        "clip": Metric("Cross-entropy of clips across crops"),
        "token": Metric("Cross-entropy of tokens"),
        "reconstruction": Metric("Error of corrupted pixels", better="lower"),
        "teacher_entropy": Metric("Entropy of the teacher, of its most", "fixed"),
    }
    note: ClassVar[str] = (
        "Both cross-entropies fall towards the teacher's entropy, which moves with its temperature. An entropy near 1, "
        "its most, says that the teacher tells no clip from another; near 0 from the start, that all share one answer."
    )
    masks_itself: ClassVar[bool] = True
    remedy: ClassVar[str] = "lower objective.teacher_temperature, raise objective.momentum, or lower optim.lr"

    clip_centre: Tensor
    token_centre: Tensor
    temperature: Tensor
    clip_sum: Tensor
    token_sum: Tensor
    num_seen: Tensor

    def __init__(
        self,
        *,
        encoder: Backbone,
        views: Any,
        task: Task,
        corruption: dict[str, Any],
        reconstruction_weight: float,
        head_dims: list[int],
        num_prototypes: int,
        num_token_prototypes: int,
        student_temperature: float,
        teacher_temperature: list[float],
        temperature_warmup: float,
        centre_momentum: float,
        momentum: float,
    ) -> None:
        super().__init__(encoder=encoder, views=views, task=task)
        self.corruption = read_corruption(corruption)
        self.reconstruction_weight = reconstruction_weight
        self.student_temperature, self.teacher_temperature = student_temperature, list(teacher_temperature)
        self.temperature_warmup, self.centre_momentum, self.momentum = temperature_warmup, centre_momentum, momentum
        self._check()
        self.clip_head = Head(encoder.embed_dim, head_dims, num_prototypes)
        self.token_head = Head(encoder.embed_dim, head_dims, num_token_prototypes)
        self.teacher = nn.ModuleDict(
            {"encoder": Teacher(encoder), "clip": Teacher(self.clip_head), "token": Teacher(self.token_head)}
        )
        self.decoder: nn.Sequential | None = None
        if reconstruction_weight:
            dim = encoder.embed_dim
            try:
                channels = encoder.options.get("num_channels", 1)
                silence = torch.zeros(1, channels, task.num_frames, task.num_mel_bins)
                pixels = encoder.patches(silence).shape[2]
            except ValueError as error:
                raise ValueError(f"{error}, or set objective.reconstruction_weight=0") from None
            self.decoder = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, pixels))
        self.register_buffer("clip_centre", torch.zeros(num_prototypes))
        self.register_buffer("token_centre", torch.zeros(num_token_prototypes))
        self.register_buffer("temperature", torch.tensor(self.teacher_temperature[0]))
        # Of the step that runs: `prepare` sets them to 0, so that a step which is repeated counts no clip twice.
        self.register_buffer("clip_sum", torch.zeros(num_prototypes), persistent=False)
        self.register_buffer("token_sum", torch.zeros(num_token_prototypes), persistent=False)
        self.register_buffer("num_seen", torch.zeros(()), persistent=False)

    def _check(self) -> None:
        temperatures = {
            "student_temperature": self.student_temperature,
            "teacher_temperature": min(self.teacher_temperature, default=0.0),
        }
        for name, value in temperatures.items():
            if not value > 0:
                raise ValueError(f"objective.{name}={value}: must be above 0")
        if len(self.teacher_temperature) != 2:
            raise ValueError(f"objective.teacher_temperature={self.teacher_temperature}: give [first, later]")
        for name in ("centre_momentum", "momentum", "temperature_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must lie in [0, 1]")
        if self.reconstruction_weight < 0:
            raise ValueError(f"objective.reconstruction_weight={self.reconstruction_weight}: must not be negative")

    def prepare(self, batch: Batch, draws: Draws) -> Clips:
        """Make two crops of each clip, `a` and `b`, and corrupt each: `a/seen` (b, [C,] T, F) and `a/hidden`."""
        for total in (self.clip_sum, self.token_sum, self.num_seen):
            total.zero_()
        inputs = prepare_views(self.encoder, self.views, batch.wav, draws, VIEWS)
        for view in VIEWS:
            inputs[f"{view}/seen"], inputs[f"{view}/hidden"] = self.corruption.apply(inputs[view], draws, view)
        return inputs

    def represent(self, inputs: Clips) -> Clips:
        """Run student and teacher: outputs (b, 2, ...) of both crops, in the order of the views."""
        joined = {
            part: torch.cat([inputs[f"{view}{part}"] for view in VIEWS])
            for part in ("", "/seen", "/hidden", "/noise")
            if f"a{part}" in inputs
        }
        tokens = self.encoder(joined["/seen"], drop_path_noise=joined.get("/noise"))
        clean = self.teacher["encoder"](joined[""])
        found = {
            "student_clip": self.clip_head(self.encoder.pool(tokens)),
            "student_token": self.token_head(tokens.values),
            "teacher_clip": self.teacher["clip"](self.encoder.pool(clean)),
            "teacher_token": self.teacher["token"](clean.values),
        }
        if self.decoder is not None:
            found["error"] = self.pixel_error(tokens, joined[""], joined["/hidden"])
        return {name: torch.stack(value.chunk(len(VIEWS)), dim=1) for name, value in found.items()}

    def pixel_error(self, tokens: Tokens, clean: Tensor, hidden: Tensor) -> Tensor:
        """(b,) mean absolute error of a clip's corrupted pixels."""
        assert self.decoder is not None
        target = self.encoder.patches(clean)
        mask = hidden if clean.ndim == 3 else hidden.unsqueeze(1).expand(clean.shape)
        weight = self.encoder.patches(mask.to(target.dtype))
        error = (upcast(self.decoder(tokens.values)) - target).abs() * weight
        return error.sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1.0)

    def clip_losses(self, outputs: Clips) -> Losses:
        """(b,) each, see `parts`; also adds up what the next centre needs.

        Args:
            outputs: `student_clip` and `teacher_clip` (b, 2, P), `student_token` and `teacher_token` (b, 2, N, P'),
                and `error` (b, 2) where there is a decoder.
        """
        self.clip_sum += outputs["teacher_clip"].detach().sum(dim=(0, 1)) / 2
        self.token_sum += outputs["teacher_token"].detach().mean(dim=2).sum(dim=(0, 1)) / 2
        self.num_seen += len(outputs["teacher_clip"])
        clip_target = self.target(outputs["teacher_clip"], self.clip_centre)
        token_target = self.target(outputs["teacher_token"], self.token_centre)
        # Across crops: the student of one is compared with the teacher of the other.
        clip = cross_entropy(outputs["student_clip"] / self.student_temperature, clip_target.flip(1)).mean(dim=1)
        token = cross_entropy(outputs["student_token"] / self.student_temperature, token_target).mean(dim=(1, 2))
        losses = {"clip": clip, "token": token}
        loss = clip + token
        if "error" in outputs:
            losses["reconstruction"] = outputs["error"].mean(dim=1)
            loss = loss + self.reconstruction_weight * losses["reconstruction"]
        entropy = torch.special.entr(clip_target).sum(dim=2).mean(dim=1) / math.log(clip_target.shape[2])
        return {"loss": loss, **losses, "teacher_entropy": entropy}

    def target(self, logits: Tensor, centre: Tensor) -> Tensor:
        """The teacher's answer: (..., P) probabilities without gradient."""
        return ((logits.detach() - centre) / self.temperature).softmax(dim=-1)

    def examples(self, wavs: Tensor, draws: Draws) -> Clips:
        """See `Objective`: the two crops, and the first as the student hears it."""
        first, second = (wavs, wavs) if wavs.ndim == 2 else wavs.unbind(1)
        crop = self.views.make(first, draws, "a")
        seen, _ = self.corruption.apply(crop, draws, "a")
        return {"crop 1, corrupted": seen, "crop 1": crop, "crop 2": self.views.make(second, draws, "b")}

    def after_step(self, progress: float, skipped: Tensor) -> None:
        """Move the teacher, its centres and its temperature."""
        momentum = rising(self.momentum, progress)
        for name, student in (("encoder", self.encoder), ("clip", self.clip_head), ("token", self.token_head)):
            teacher = self.teacher[name]
            assert isinstance(teacher, Teacher)
            teacher.follow(student, momentum, skipped)
        keep = torch.where(skipped, 1.0, self.centre_momentum)
        for centre, total in ((self.clip_centre, self.clip_sum), (self.token_centre, self.token_sum)):
            centre.lerp_(average(total / self.num_seen.clamp_min(1)), 1 - keep)
        first, later = self.teacher_temperature
        risen = min(1.0, progress / self.temperature_warmup) if self.temperature_warmup else 1.0
        self.temperature.fill_(first + (later - first) * risen)


class Head(nn.Module):
    """A projection to prototypes: an MLP, a vector of length 1, and its products with prototypes of length 1.

    Args:
        dim_in: D.
        dims: widths of the MLP, GELU between them; the last is compared with the prototypes.
        num_prototypes: P.

    Source: Caron et al. 2021, arXiv:2104.14294, Sec. 3.1 and App. C.
    """

    def __init__(self, dim_in: int, dims: list[int], num_prototypes: int) -> None:
        super().__init__()
        if not dims or min(dims) < 1 or num_prototypes < 2:
            raise ValueError(
                f"objective.head_dims={list(dims)} with {num_prototypes} prototypes: give positive widths and at least "
                "two prototypes"
            )
        widths = [dim_in, *dims]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths[:-1]):
            layers += [nn.Linear(narrow, wide), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, widths[-1]))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., D) -> (..., P) cosines, at least fp32."""
        vectors = self.layers(vectors)
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = upcast(vectors)
            prototypes = F.normalize(self.prototypes.to(vectors.dtype), dim=-1)
            return F.linear(F.normalize(vectors, dim=-1), prototypes)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(..., P) logits and probabilities -> (...) cross-entropy."""
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1)


def read_corruption(options: dict[str, Any]) -> Corruption:
    """The corruption that options describe.

    Raises:
        ValueError: an option that is missing, unknown or out of its range.
    """
    known = Corruption._fields
    if set(options) != set(known):
        wrong = sorted(set(options) ^ set(known))
        raise ValueError(f"objective.corruption: {', '.join(wrong)}: give each of {', '.join(known)}")
    if len(options["share"]) != 2 or len(options["align"]) != 2:
        raise ValueError("objective.corruption: share and align are pairs of numbers")
    share, align = (options["share"][0], options["share"][1]), (options["align"][0], options["align"][1])
    found = Corruption(**{**options, "share": share, "align": align})
    found.check("objective.corruption")
    return found
