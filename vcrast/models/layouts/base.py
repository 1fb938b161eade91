"""What a checkpoint of another project is read as, and what the user may say of it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from vcrast.models.timm_weights import ImageGrid, Weights

Pair = tuple[int, int]
STRIDES = (10, 16, *(size for size in range(1, 33) if size not in (10, 16)))
"""Distances of square patches in the order in which they are tried: the AST's, SSAST's and AudioMAE's, any other."""


class Normalisation(NamedTuple):
    """Mean and std of log-mel energies, and of which data."""

    mean: float
    std: float
    data: str


KNOWN = {
    1024: Normalisation(-4.2677393, 4.5689974, "AudioSet"),
    512: Normalisation(-6.6268077, 5.358466, "ESC-50"),
    128: Normalisation(-6.845978, 5.5654526, "Speech Commands"),
}
"""The AST's front ends by their number of frames, which SSAST, AudioMAE and Hugging Face took over."""
SAMPLE_RATE, NUM_MEL_BINS = 16000, 128
MULTILABEL = (527,)
"""Numbers of classes, AudioSet's, of which a clip may have several."""

KERNEL = "patch_embed.proj.weight"
SHAPES = {
    r"(cls|dist)_token": (1, 1, "width"),
    "pos_embed": (1, "N", "width"),
    r"patch_embed\.proj\.weight": ("width", "C", "h", "w"),
    r"blocks\.\d+\.(attn\.(qkv|q|k|v|proj|out)|(mlp\.)?fc[12])\.weight": ("rows", "columns"),
    r"(blocks|norm)\..*|.*\.bias": ("numbers",),
}
"""Shapes by patterns of names; a word is a number above 0 that is not known, `width` is the encoder's."""


@dataclass(frozen=True)
class Wishes:
    """What the user says of a checkpoint; None is what the file tells, or what is usual.

    Attributes:
        kind: of the layout.
        num_frames: T of a clip.
        patch_size: (frames, mel bins), where no tensor tells it.
        patch_stride: (frames, mel bins).
        num_heads: H.
        num_mel_bins: F.
        sample_rate: Hz.
        mean: of the log-mel energies.
        std: likewise.
        labels: class names, in the order of the outputs.
        multilabel: scores are sigmoids of their own.
    """

    kind: str | None = None
    num_frames: int | None = None
    patch_size: Pair | None = None
    patch_stride: Pair | None = None
    num_heads: int | None = None
    num_mel_bins: int | None = None
    sample_rate: int | None = None
    mean: float | None = None
    std: float | None = None
    labels: Sequence[str] | None = None
    multilabel: bool | None = None


@dataclass
class Foreign:
    """A checkpoint of another project, in the terms of this one.

    Attributes:
        kind: of the layout.
        options: of the AST that computes the same, besides attention and linear layers.
        weights: of the encoder, by timm's names or, with no grid, by the encoder's own.
        grid: how the positions lie; None: the weights have the encoder's own names.
        head: the classifier on the clip's vector, filled; None where the file has none.
        labels: class names that the file tells.
        multilabel: scores are sigmoids of their own, if the file tells.
        front: keywords of the front end that the file tells: `sample_rate`, `mean`, `std`, `window`.
        mask_token: (D,), what pretraining put in place of hidden patches.
        beside: tensors that are left out.
        zero_filled: short clips were filled with zeros in the filterbank.
        notes: what the user must know.
    """

    kind: str
    options: dict[str, Any]
    weights: Weights
    grid: ImageGrid | None
    head: nn.Module | None = None
    labels: Sequence[str] | None = None
    multilabel: bool | None = None
    front: dict[str, Any] = field(default_factory=dict)
    mask_token: Tensor | None = None
    beside: Weights = field(default_factory=dict)
    zero_filled: bool = True
    notes: list[str] = field(default_factory=list)


class Patches(NamedTuple):
    """How patches lie on a clip of `num_frames` x `num_mel_bins`: (t, f) of them, every `stride` (frames, mel bins)."""

    grid: Pair
    stride: Pair
    num_frames: int
    num_mel_bins: int


def find_patches(
    count: int, size: Pair, wishes: Wishes, where: str, *, frames: Sequence[int] = tuple(KNOWN)
) -> Patches:
    """The grid of `count` patches of `size` (frames, mel bins), of which a file tells only the number.

    Args:
        count: N of the positions.
        size: of a patch.
        wishes: of the user: number of frames, stride, mel bins.
        where: beginning of messages.
        frames: numbers of frames that are tried.

    Raises:
        ValueError: nothing that is usual fits, or not what the user says.
    """
    num_mel_bins = wishes.num_mel_bins or NUM_MEL_BINS
    lengths = [wishes.num_frames] if wishes.num_frames else list(frames)
    if wishes.patch_stride:
        strides = [wishes.patch_stride]
    elif size[0] == size[1]:
        strides = [(step, step) for step in STRIDES]
    else:  # frame tokens are as high as the spectrum
        strides = [size, *((step, size[1]) for step in range(1, size[0]))]
    for stride in strides:
        for length in lengths:
            grid = tuple((n - p) // s + 1 for n, p, s in zip((length, num_mel_bins), size, stride, strict=True))
            if min(grid) > 0 and grid[0] * grid[1] == count:
                return Patches((grid[0], grid[1]), stride, length, num_mel_bins)
    tried = f"{' or '.join(map(str, lengths))} frames of {num_mel_bins} mel bins"
    raise ValueError(
        f"{where}: {count} positions of patches of {list(size)} fit no grid on {tried}; say --frames, --mel-bins "
        "or --patch-stride of the model"
    )


def heads_of(width: int, wishes: Wishes, where: str) -> int:
    """The number of heads, which no tensor tells: of 64 channels each, as in all ViTs of these sizes.

    Raises:
        ValueError: the width is no multiple of 64, or of the user's number.
    """
    if wishes.num_heads is not None:
        if width % wishes.num_heads:
            raise ValueError(f"{where}: {width} wide, no multiple of --heads {wishes.num_heads}")
        return wishes.num_heads
    if width % 64:
        raise ValueError(f"{where}: {width} wide, which tells no number of heads of 64 channels; say --heads")
    return width // 64


def make_head(layers: Sequence[tuple[Weights, Any]], width: int, where: str) -> nn.Module:
    """A classifier of norms and linear layers, one after the other.

    Args:
        layers: `weight` and `bias` of each, and what a norm adds to the variance; None is a linear layer.
        width: of the vector that it is given.
        where: beginning of messages.

    Raises:
        ValueError: layers that do not go together.
    """
    built: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (tensors, eps) in enumerate(layers):
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        outputs, inputs = (shapes.get("weight") or (0,))[0], (shapes.get("weight") or (0,))[-1]
        weight = (outputs, inputs) if eps is None else (inputs,)
        if shapes not in ({"weight": weight, "bias": (outputs,)}, {"weight": weight}) or inputs != width:
            raise ValueError(f"{where}: a layer of its classifier has {shapes}, the vector before it is {width} wide")
        bias = "bias" in tensors
        layer = nn.Linear(width, outputs, bias=bias) if eps is None else nn.LayerNorm(width, eps=eps, bias=bias)
        layer.load_state_dict(tensors)
        built[str(number)], width = layer, outputs
    return nn.Sequential(built)


def check_shapes(weights: Weights, needed: Sequence[str], where: str) -> int:
    """Refuse tensors of a rank that none of their name has, or a file without one that is needed.

    Args:
        weights: of the encoder, by timm's names or our own.
        needed: names without which no size can be told.
        where: beginning of messages.

    Returns:
        D, the width.

    Raises:
        ValueError: names the first such tensor.
    """
    for name in (KERNEL, *needed):
        if name not in weights:
            raise ValueError(f"{where}: no {name}; give the whole checkpoint of one model")
    width = weights[KERNEL].shape[0] if weights[KERNEL].ndim == 4 else 0
    for name, value in weights.items():
        expected = next((shape for pattern, shape in SHAPES.items() if re.fullmatch(pattern, name)), None)
        if expected is None:
            continue
        sizes = [width if size == "width" else size for size in expected]
        pairs = zip(sizes, value.shape, strict=False)
        if value.ndim != len(sizes) or any(n < 1 if isinstance(size, str) else n != size for size, n in pairs):
            shown = ", ".join(map(str, sizes)) + ("," if len(sizes) == 1 else "")
            raise ValueError(
                f"{where}: {name} is {tuple(value.shape)}, not ({shown}) as in the checkpoint of one model"
            )
    return width


def part(weights: Weights, prefix: str) -> Weights:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
