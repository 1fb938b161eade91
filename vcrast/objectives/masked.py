"""Hide patches and predict them: what SSAST, MAE-AST and the masked autoencoder share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from vcrast.features.draws import Draws
from vcrast.features.masks import Hidden, build_masks
from vcrast.models.backbone import Backbone
from vcrast.objectives.base import Batch, Clips, Objective, Task

VIEW = "a"


class Masked(Objective):
    """An objective that hides M patches of each clip.

    Args:
        encoder: tells what each token is made of (`patches`).
        views: makes one view of each waveform.
        task: tells the length of the filterbanks.
        masks: options of `vcrast.features.masks.Masks`.

    Attributes:
        passes: a mask, and a forward of the encoder, for each of these names.
        least: hidden patches that the loss needs.
        num_pixels: of a patch, all its channels.

    Raises:
        ValueError: patches that overlap or that the encoder does not tell, or more hidden ones than there can be.
    """

    masks_itself: ClassVar[bool] = True
    can_collapse: ClassVar[bool] = False
    remedy: ClassVar[str] = "lower optim.lr, or hide fewer patches (objective.masks.count)"
    least: ClassVar[int] = 1

    def __init__(self, *, encoder: Backbone, views: Any, task: Task, masks: Mapping[str, Any]) -> None:
        super().__init__(encoder=encoder, views=views, task=task)
        self.passes: tuple[str, ...] = ("masked",)
        self.masks = build_masks(masks)
        self.masks.num_hidden(encoder.grid(task.num_frames), least=self.least)
        places = pixel_places(encoder, task.num_frames, task.num_mel_bins)
        refuse_overlap(encoder, places)
        self.num_pixels = places.shape[1] * encoder.options["num_channels"]

    def hidden(self, draws: Draws, name: str, num_frames: int) -> Hidden:
        """The patches of each clip that are hidden in one pass."""
        return self.masks.draw(draws, f"{name}/mask", self.encoder.grid(num_frames), least=self.least)

    def prepare(self, batch: Batch, draws: Draws) -> Clips:
        """Make one view of each clip, of pairs the first sound's, and choose the patches to hide.

        Returns:
            `fbank` (b, [C,] T, F), and of each pass `NAME/hidden` (b, M), `NAME/visible` (b, N - M), and with drop path
            `NAME/noise`.
        """
        found = {"fbank": self.views.make(first_sound(batch.wav), draws, VIEW)}
        for name in self.passes:
            chosen = self.hidden(draws, name, found["fbank"].shape[-2])
            found |= {f"{name}/hidden": chosen.hidden, f"{name}/visible": chosen.visible}
            if self.encoder.num_drop_path_draws and self.encoder.training:
                found[f"{name}/noise"] = draws.uniform(f"{name}/drop_path", self.encoder.num_drop_path_draws)
        return found

    def targets(self, inputs: Clips, name: str) -> Tensor:
        """(b, M, pixels): the hidden patches of a pass as they are in the normalised filterbank, at least fp32."""
        return at(self.encoder.patches(inputs["fbank"]), inputs[f"{name}/hidden"])

    def examples(self, wavs: Tensor, draws: Draws) -> Clips:
        """See `Objective`: what is left of the clips, hidden patches NaN."""
        fbank = self.views.make(first_sound(wavs), draws, VIEW)
        found = {}
        for name in self.passes:
            title = "hidden" if len(self.passes) == 1 else f"hidden ({name})"
            found[title] = left_of(self.encoder, fbank, self.hidden(draws, name, fbank.shape[-2]).visible)
        return found


def first_sound(wavs: Tensor) -> Tensor:
    """(b, S) as they are; of pairs (b, 2, S) the first sounds."""
    return wavs if wavs.ndim == 2 else wavs[:, 0]


def at(values: Tensor, places: Tensor) -> Tensor:
    """(b, N, X) and places (b, M) -> (b, M, X)."""
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))


def pixel_places(encoder: Backbone, num_frames: int, num_mel_bins: int) -> Tensor:
    """(N, pixels) int64 on the CPU: the place t * F + f of every pixel of every patch, in one channel.

    Raises:
        ValueError: the encoder does not tell.
    """
    number = torch.arange(num_frames * num_mel_bins, dtype=torch.float64, device="cpu")
    return encoder.patches(number.reshape(1, num_frames, num_mel_bins))[0].long()


def refuse_overlap(encoder: Backbone, places: Tensor) -> None:
    """Refuse patches that share some of their `places` (N, pixels).

    Raises:
        ValueError: names the setting.
    """
    if places.unique().numel() < places.numel():
        raise ValueError(
            f"pretrain.patch_stride={encoder.options['patch_stride']}: patches that overlap show parts of the hidden "
            "ones; set pretrain.patch_stride=null (finetune.patch_stride may overlap)"
        )


def left_of(encoder: Backbone, fbank: Tensor, visible: Tensor) -> Tensor:
    """(b, [C,] T, F) filterbanks with NaN where none of the visible patches (b, Nvisible) lies.

    As they are where the encoder does not tell what its tokens are made of.
    """
    if type(encoder).patches is Backbone.patches:
        return fbank
    num_frames, num_mel_bins = fbank.shape[-2:]
    places = pixel_places(encoder, num_frames, num_mel_bins).to(fbank.device)[visible].flatten(1)
    gone = torch.ones(len(fbank), num_frames * num_mel_bins, dtype=torch.bool, device=fbank.device)
    gone = gone.scatter_(1, places, False).unflatten(1, (num_frames, num_mel_bins))
    return fbank.masked_fill(gone if fbank.ndim == 3 else gone.unsqueeze(1), torch.nan)


def matching(predicted: Tensor, target: Tensor, *, softmax_over: str) -> tuple[Tensor, Tensor]:
    """InfoNCE between predictions of hidden patches and the patches; negatives are the clip's other hidden ones.

    Args:
        predicted: (b, M, pixels).
        target: (b, M, pixels) patches, as they are: neither normalised to length 1 nor divided by a temperature.
        softmax_over: `predictions`, which of them is meant by a patch, or `targets`, which patch is meant by a
            prediction.

    Returns:
        The loss (b,), mean over the patches; the share of them (b,) for which their own is the likeliest.

    Source: van den Oord et al. 2018, arXiv:1807.03748; as used by Gong et al. 2022, arXiv:2110.09784.
    """
    logits = target @ predicted.mT  # (b, patches, predictions)
    if softmax_over == "targets":
        logits = logits.mT
    own = torch.arange(logits.shape[1], device=logits.device)
    loss = logits.logsumexp(dim=2) - logits.diagonal(dim1=1, dim2=2)
    return loss.mean(dim=1), (logits.argmax(dim=2) == own).to(logits.dtype).mean(dim=1)


def pixel_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(b, M, pixels) each -> (b,): the mean squared error over a clip's hidden patches."""
    return (predicted - target).square().mean(dim=(1, 2))
