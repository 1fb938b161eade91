"""HTS-AT: a Swin transformer (timm's) on a filterbank that is folded to an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vcrast.config.registry import MODELS
from vcrast.models.backbone import Backbone, Tokens
from vcrast.models.block import drop_path
from vcrast.models.classifier import TokenSemanticHead
from vcrast.models.swin_weights import fit_windows, join_colours, read_swin


@MODELS.register("htsat")
class HTSAT(Backbone):
    """(B, [C,] T, F) normalised filterbanks -> (B, N, D) tokens of the last stage, in time order.

    The clip is cut into chunks in time, which are stacked on the frequency axis: of 1024 frames and 64 bins, four
    chunks make 256 x 256 pixels. Patches and shifted windows with relative biases follow; each stage but the first
    joins 2 x 2 tokens. T is stretched by bicubic interpolation, ends on ends, to the next multiple of `num_chunks`
    times the frames that a token of the last stage stands for: 997 frames become 1024, as the authors' code makes of
    its 1001. Windows are no larger than the grid of the clips that the model is built for; clips of other lengths are
    padded to whole windows, as in Swin.

    Where the authors normalise each mel bin over the batch (BatchNorm), bins have a scale and a shift that are learnt,
    after the data's fixed mean and std: statistics of a micro-batch are not those of the batch.

    Args:
        embed_dim: width of the first stage; that of each later one is twice the one before, and D is the last one's.
        depths: blocks of each stage.
        num_heads: of each stage.
        mlp_ratio: hidden width of the MLPs over that of their stage.
        patch_size: (frames, mel bins).
        window_size: tokens along each side of a window.
        num_chunks: pieces in time that are stacked on frequency; 1 folds nothing.
        drop_path: probability for the last block; it rises linearly from 0 at the first.
        patch_stride: None; patches do not overlap.
        num_mel_bins: F.
        num_frames: T of the clips the model is built for.
        num_channels: C of the filterbanks.

    Raises:
        ValueError: sizes that do not go together.

    Source: Chen et al. 2022, arXiv:2202.00874; Liu et al. 2021, arXiv:2103.14030 (Swin).
    """

    patch_embed: Any
    layers: Any

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: float,
        patch_size: Sequence[int],
        window_size: int,
        num_chunks: int,
        drop_path: float,
        patch_stride: Sequence[int] | None,
        num_mel_bins: int,
        num_frames: int,
        num_channels: int,
    ) -> None:
        super().__init__()
        from timm.models.swin_transformer import SwinTransformer  # seconds to import, for those alone who choose it

        if patch_stride is not None:
            raise ValueError(
                f"patch_stride={list(patch_stride)}: patches of model=htsat do not overlap; set it to null"
            )
        check_stages(embed_dim, depths, num_heads, drop_path)
        if len(patch_size) != 2 or min(patch_size) < 1:
            raise ValueError(f"model.patch_size={list(patch_size)}: give two sizes, [frames, mel bins]")
        for name, value in (("window_size", window_size), ("num_chunks", num_chunks)):
            if value < 1:
                raise ValueError(f"model.{name}={value}: must be at least 1")
        self.num_mel_bins, self.num_chunks, self.drop_path = num_mel_bins, num_chunks, drop_path
        self.embed_dim = embed_dim * 2 ** (len(depths) - 1)
        self.token_size = (patch_size[0] * 2 ** (len(depths) - 1), patch_size[1] * 2 ** (len(depths) - 1))
        if num_mel_bins % self.token_size[1]:
            raise ValueError(
                f"features.num_mel_bins={num_mel_bins}: model=htsat needs a multiple of {self.token_size[1]}, the bins "
                "of a token of its last stage; choose features=htsat, which has 64, or set features.num_mel_bins"
            )
        image = (num_chunks * num_mel_bins, self.folded_frames(num_frames) // num_chunks)
        size: Any = (patch_size[1], patch_size[0])  # timm's declares an int, and takes two
        swin = SwinTransformer(
            img_size=image, patch_size=size, in_chans=num_channels, num_classes=0,
            embed_dim=embed_dim, depths=tuple(depths), num_heads=tuple(num_heads), window_size=window_size,
            mlp_ratio=mlp_ratio, drop_path_rate=0.0, strict_img_size=False,
        )  # fmt: skip
        self.mel_scale = nn.Parameter(torch.full((num_mel_bins,), 2.0))  # the front end divides by two std, not by one
        self.mel_shift = nn.Parameter(torch.zeros(num_mel_bins))
        self.patch_embed, self.layers, self.norm = swin.patch_embed, swin.layers, swin.norm
        self.num_blocks = sum(depths)
        blocks: list[Any] = [block for stage in self.layers for block in stage.blocks]
        for number, block in enumerate(blocks):
            rate = drop_path * number / max(1, self.num_blocks - 1)
            block.drop_path1, block.drop_path2 = DropBranch(rate), DropBranch(rate)

    def folded_frames(self, num_frames: int) -> int:
        """What a clip of `num_frames` is stretched to before it is folded.

        Raises:
            ValueError: the clip would become twice as long or longer.
        """
        unit = self.num_chunks * self.token_size[0]
        if 2 * num_frames <= unit:
            raise ValueError(
                f"model.num_chunks={self.num_chunks}: a clip of {num_frames} frames is too short to be folded; it "
                f"must have more than {unit // 2} (best are multiples of {unit}, or slightly fewer): set "
                "data.clip_duration_s higher, or model.num_chunks lower"
            )
        return -(-num_frames // unit) * unit

    def grid(self, num_frames: int) -> tuple[int, int]:
        """Tokens of the last stage along time and along frequency of a clip of `num_frames`."""
        return self.folded_frames(num_frames) // self.token_size[0], self.num_mel_bins // self.token_size[1]

    @property
    def num_drop_path_draws(self) -> int:
        """Two a block, or none."""
        return 2 * self.num_blocks if self.drop_path > 0 else 0

    def build_head(self, num_classes: int) -> TokenSemanticHead:
        """The paper's classifier, which tells scores of frames, too."""
        return TokenSemanticHead(self.embed_dim, self.num_mel_bins // self.token_size[1], num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - timm's signature
        """What makes tokens, then each block, the joining of tokens with the one behind it; as timm's Swin."""
        blocks = [(r"^layers\.(\d+)\.downsample", (0,)), (r"^layers\.(\d+)\.blocks\.(\d+)", None)]
        return {"stem": r"^(?:patch_embed|mel_)", "blocks": blocks}

    def from_timm(self, name: str, file: Path | None, where: str, *, kernels: str | None) -> dict[str, Tensor]:
        """Weights of a Swin transformer made for images; see `Backbone`."""
        swin = read_swin(name, file, where, image=tuple(self.patch_embed.img_size), options=self.options)
        own = {name: value for name, value in self.state_dict().items() if name.startswith("mel_")}
        return {**join_colours(swin, kernels or "mean"), **own}

    def fit_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Windows are smaller where the clips are short; see `fit_windows`."""
        windows = {
            f"layers.{place}.blocks.{number}.attn.relative_position_bias_table": block.window_size
            for place, stage in enumerate(self.layers)
            for number, block in enumerate(stage.blocks)
        }
        return {
            name: fit_windows(value, windows[name]) if name in windows else value for name, value in weights.items()
        }

    def fold(self, fbank: Tensor) -> Tensor:
        """(B, [C,] T, F) -> (B, C, num_chunks * F, T' / num_chunks) pixels, each mel bin scaled and shifted.

        Raises:
            ValueError: another number of mel bins than the model was built for, or a clip too short.
        """
        if fbank.shape[-1] != self.num_mel_bins:
            raise ValueError(f"filterbank of {fbank.shape[-1]} mel bins, the encoder was built for {self.num_mel_bins}")
        image = fbank if fbank.ndim == 4 else fbank.unsqueeze(1)
        num_frames = self.folded_frames(image.shape[2])
        if num_frames != image.shape[2]:
            # Before anything that has a gradient: on a GPU that of the interpolation is not reproducible.
            image = F.interpolate(image, (num_frames, self.num_mel_bins), mode="bicubic", align_corners=True)
        return rearrange(image * self.mel_scale + self.mel_shift, "b c (n t) f -> b c (n f) t", n=self.num_chunks)

    def unfold(self, tokens: Tensor) -> Tensor:
        """(B, num_chunks * f, t / num_chunks, D) -> (B, t * f, D), time-major over the whole clip."""
        return rearrange(tokens, "b (n f) t d -> b (n t f) d", n=self.num_chunks)

    def forward(
        self,
        fbank: Tensor,
        *,
        keep: Tensor | None = None,
        mask: Tensor | None = None,
        drop_path_noise: Tensor | None = None,
        hidden: bool = False,
    ) -> Tokens:
        """Encode clips; see `Backbone`.

        `hidden` has the tokens that enter the last stage and the output of each of its blocks: earlier ones are
        narrower and lie on another grid.

        Raises:
            ValueError: as in `fold`, or `keep` or `mask`.
        """
        if keep is not None or mask is not None:
            raise ValueError("HTSAT joins neighbouring tokens and needs the whole grid: none can be left out or masked")
        if drop_path_noise is None and self.training and self.drop_path > 0:
            drop_path_noise = torch.rand(len(fbank), self.num_drop_path_draws, device=fbank.device)
        values, number, layers = self.patch_embed(self.fold(fbank)), 0, []
        for place, stage in enumerate(self.layers):
            values = stage.downsample(values)
            kept = hidden and place == len(self.layers) - 1
            layers += [values] if kept else []
            for block in stage.blocks:
                noise = None if drop_path_noise is None else drop_path_noise[:, 2 * number : 2 * number + 2]
                if self.checkpoint_blocks and torch.is_grad_enabled():
                    values = checkpoint(run_block, block, values, noise, use_reentrant=False)
                else:
                    values = run_block(block, values, noise)
                number += 1
                layers += [values] if kept else []
        grid = self.grid(fbank.shape[-2])
        return Tokens(self.unfold(self.norm(values)), grid, None, tuple(self.unfold(layer) for layer in layers))


class DropBranch(nn.Module):
    """Zeroes a branch for some clips by numbers that it is handed, where timm's draws them from torch's generator.

    Attributes:
        noise: (B,) uniform in [0, 1) for the next call; see `run_block`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.noise: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ..., D) -> the same shape."""
        return drop_path(branch, self.noise, self.rate) if self.training else branch


def run_block(block: Any, values: Tensor, noise: Tensor | None) -> Tensor:
    """(B, h, w, D) -> the same shape; a block that runs again in the backward is handed the same `noise` (B, 2)."""
    for column, branch in enumerate((block.drop_path1, block.drop_path2)):
        branch.noise = None if noise is None else noise[:, column]
    found: Tensor = block(values)
    return found


def check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int], drop_path: float) -> None:
    """Refuse stages that cannot be built.

    Raises:
        ValueError: names the option.
    """
    if not depths or min(depths) < 1:
        raise ValueError(f"model.depths={list(depths)}: give the number of blocks of each stage, at least one each")
    if len(num_heads) != len(depths):
        raise ValueError(f"model.num_heads={list(num_heads)}: give one number for each of the {len(depths)} stages")
    for stage, heads in enumerate(num_heads):
        width = embed_dim * 2**stage
        if heads < 1 or width % heads:
            raise ValueError(
                f"model.num_heads={list(num_heads)}: stage {stage + 1} is {width} wide, which is no multiple of {heads}"
            )
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path={drop_path}: must lie in [0, 1)")
