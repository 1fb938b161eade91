"""The audio spectrogram transformer: patches, positions, blocks, norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vcrast.config.registry import MODELS
from vcrast.models.backbone import Backbone, Tokens, upcast
from vcrast.models.block import Block
from vcrast.models.patch_embed import PatchEmbed, whole_pair
from vcrast.models.pos_embed import LearnedPositions, SinCosPositions
from vcrast.models.readout import row_statistics


@MODELS.register("ast")
class AST(Backbone):
    """(B, T, F) normalised filterbanks -> (B, N, D) tokens.

    By default there is no class token: a clip's vector is the mean of its patch tokens, as SSAST takes it.

    Args:
        embed_dim: D.
        depth: number of blocks.
        num_heads: H.
        mlp_ratio: hidden width of the MLPs over D.
        patch_size: (frames, mel bins).
        positions: `sincos` (fixed) or `learned`.
        positions_stride: (frames, mel bins) between the patches that learned positions were made for; None means
            patches that touch. Others read positions off in between.
        class_tokens: K learned tokens beside the patches, which see them and are seen: 0, 1 (cls) or 2 (AST's and
            SSAST's cls and distillation token). Their positions are part of them.
        pool: a clip's vector: `mean` of its patch tokens, or of its `class` tokens, as in the AST.
        readout: what classifiers, probes and embeddings read: that vector (`pool`), or the `statistics` over time of
            each row of patches, see `vcrast.models.readout`.
        norms: `pre` (before each branch, and one at the end), `open` (the same without the one at the end), or `post`
            (behind each branch, and one of the embedded tokens).
        norm_eps: what norms add to the variance.
        drop_path: probability for the last block; it rises linearly from 0 at the first.
        patch_stride: (frames, mel bins) between patch starts; None means patches that touch and do not overlap.
        num_mel_bins: F.
        num_frames: T of the clips the model is built for: the reference grid of learned positions. Other lengths work.
        num_channels: C of the filterbanks; with several, they are (B, C, T, F).
        attention: options of the attention backend, at least `name`.
        linear: options of the linear layers, at least `name`.

    Raises:
        ValueError: sizes that do not go together.

    Source: Gong et al. 2021, arXiv:2104.01778; Gong et al. 2022, arXiv:2110.09784 (mean of the patch tokens).
    """

    can_drop = True
    can_mask = True

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: Sequence[int],
        positions: str,
        positions_stride: Sequence[int] | None,
        class_tokens: int,
        pool: str,
        readout: str,
        norms: str,
        norm_eps: float,
        drop_path: float,
        patch_stride: Sequence[int] | None,
        num_mel_bins: int,
        num_frames: int,
        num_channels: int,
        attention: Mapping[str, Any],
        linear: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path}: must lie in [0, 1)")
        check_norms(norms, norm_eps)
        self.embed_dim, self.num_mel_bins, self.num_frames = embed_dim, num_mel_bins, num_frames
        self.drop_path, self.positions = drop_path, positions
        self.pooled, self.readout = checked_pool(pool, class_tokens), checked_readout(readout, pool)
        stride = patch_size if patch_stride is None else patch_stride
        self.patch_embed = PatchEmbed(
            embed_dim=embed_dim, patch_size=patch_size, patch_stride=stride, num_channels=num_channels
        )
        self.pos_embed = self.build_positions(positions_stride)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path * number / max(1, depth - 1),
                attention=attention,
                linear=linear,
                norm_eps=norm_eps,
                post_norm=norms == "post",
            )
            for number in range(depth)
        )
        self.embed_norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norms == "post" else nn.Identity()
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norms == "pre" else nn.Identity()
        self.class_token: nn.Parameter | None = None
        if class_tokens:
            self.class_token = nn.Parameter(torch.zeros(class_tokens, embed_dim))
            nn.init.trunc_normal_(self.class_token, std=0.02)
        self.mask_token: nn.Parameter | None = None
        self.grid(num_frames)  # refuses a clip smaller than one patch now rather than at the first step

    def build_positions(self, stride: Sequence[int] | None) -> SinCosPositions | LearnedPositions:
        """The positions; learned ones refer to patches of this stride, None: that touch, whatever the model's own.

        Raises:
            ValueError: no such positions, or a stride of those that are not learned.
        """
        if self.positions == "sincos":
            if stride is not None:
                raise ValueError(f"model.positions_stride={list(stride)}: without effect under model.positions=sincos")
            return SinCosPositions(embed_dim=self.embed_dim)
        if self.positions == "learned":
            size = self.patch_embed.patch_size
            cell = size if stride is None else whole_pair("model.positions_stride", stride)
            sizes = zip((self.num_frames, self.num_mel_bins), size, cell, strict=True)
            grid = [max(1, (length - patch) // step + 1) for length, patch, step in sizes]
            return LearnedPositions(embed_dim=self.embed_dim, grid=grid, cell=cell)
        raise ValueError(f"model.positions={self.positions}: choose from sincos, learned")

    def enable_mask_token(self) -> None:
        """See `Backbone`."""
        if self.mask_token is None:
            self.mask_token = nn.Parameter(torch.zeros(self.embed_dim))
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def set_stride(self, patch_stride: Sequence[int]) -> None:
        """Change the distance between patches; positions follow, weights stay."""
        self.patch_embed.set_stride(patch_stride)
        self.options["patch_stride"] = list(patch_stride)

    def grid(self, num_frames: int) -> tuple[int, int]:
        """Patches along time and along frequency of a clip of `num_frames`."""
        return self.patch_embed.grid(num_frames, self.num_mel_bins)

    @property
    def num_drop_path_draws(self) -> int:
        """Two a block, or none."""
        return 2 * len(self.blocks) if self.drop_path > 0 else 0

    def patches(self, fbank: Tensor) -> Tensor:
        """See `Backbone`; pixels are time-major, of several channels one after the other."""
        (height, width), (down, right) = self.patch_embed.patch_size, self.patch_embed.patch_stride
        cut = fbank.unfold(-2, height, down).unfold(-2, width, right)
        if fbank.ndim == 3:
            return rearrange(cut, "b t f height width -> b (t f) (height width)")
        return rearrange(cut, "b c t f height width -> b (t f) (c height width)")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - timm's signature
        """What makes tokens, then each block; the final norm is not named and learns like the head."""
        return {
            "stem": r"^(?:patch_embed|pos_embed|class_token|mask_token|embed_norm)",
            "blocks": [(r"^blocks\.(\d+)", None)],
        }

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

        Raises:
            ValueError: another number of mel bins than the model was built for, a clip shorter than one patch, or a
                mask without `enable_mask_token`.
        """
        tokens = self.embed_norm(self.with_class_tokens(self.select(self.embed(fbank, mask), keep)))
        num_class = tokens.shape[1] - (self.num_tokens(fbank.shape[-2]) if keep is None else keep.shape[1])
        layers = [tokens[:, num_class:]] if hidden else []
        for number, block in enumerate(self.blocks):
            noise = None if drop_path_noise is None else drop_path_noise[:, 2 * number : 2 * number + 2]
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, noise, use_reentrant=False)
            else:
                tokens = block(tokens, noise)
            if hidden:
                layers.append(tokens[:, num_class:])
        tokens = self.norm(tokens)
        own = tokens[:, :num_class] if num_class else None
        return Tokens(tokens[:, num_class:], self.grid(fbank.shape[-2]), keep, tuple(layers), own)

    def pool(self, tokens: Tokens) -> Tensor:
        """See `Backbone`; of a layer before the last, which has no class tokens, the mean of the patches."""
        if self.pooled == "mean" or tokens.class_tokens is None:
            return super().pool(tokens)
        return upcast(tokens.class_tokens).mean(dim=1)

    def read_out(self, tokens: Tokens) -> Tensor:
        """See `Backbone`."""
        return self.pool(tokens) if self.readout == "pool" else row_statistics(tokens)

    @property
    def readout_dim(self) -> int:
        """See `Backbone`."""
        return self.embed_dim if self.readout == "pool" else 2 * self.embed_dim * self.grid(self.num_frames)[1]

    def embed(self, fbank: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, [C,] T, F) -> (B, N, D) patches, those under `mask` (B, N) replaced, plus positions."""
        if fbank.shape[-1] != self.num_mel_bins:
            raise ValueError(f"filterbank of {fbank.shape[-1]} mel bins, the encoder was built for {self.num_mel_bins}")
        grid = self.grid(fbank.shape[-2])
        tokens = self.patch_embed(fbank)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError("a mask needs the mask token; call enable_mask_token() before the optimiser is made")
            tokens = torch.where(mask.unsqueeze(2), self.mask_token.to(tokens.dtype), tokens)
        embed = self.patch_embed
        return tokens + self.pos_embed(grid, embed.patch_size, embed.patch_stride, like=tokens)

    def with_class_tokens(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, K + N, D), the class tokens first."""
        if self.class_token is None:
            return tokens
        return torch.cat([self.class_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)

    def select(self, tokens: Tensor, keep: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, Nkeep, D); positions are already inside the tokens."""
        if keep is None:
            return tokens
        return tokens.gather(1, keep.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def checked_pool(pool: str, class_tokens: int) -> str:
    """Refuse a way of pooling that there is not, or class tokens that it lacks.

    Raises:
        ValueError: names the setting.
    """
    if class_tokens not in (0, 1, 2):
        raise ValueError(f"model.class_tokens={class_tokens}: choose 0, 1 (cls) or 2 (cls and distillation token)")
    if pool not in ("mean", "class"):
        raise ValueError(f"model.pool={pool}: choose from mean, class")
    if pool == "class" and not class_tokens:
        raise ValueError("model.pool=class: there is no class token; set model.class_tokens=1")
    return pool


def checked_readout(readout: str, pool: str) -> str:
    """Refuse a read-out that there is not, or one that does not read what is pooled.

    Raises:
        ValueError: names the setting.
    """
    if readout not in ("pool", "statistics"):
        raise ValueError(f"model.readout={readout}: choose from pool, statistics")
    if readout == "statistics" and pool != "mean":
        raise ValueError(f"model.readout=statistics: reads the patches, not model.pool={pool}; set model.pool=mean")
    return readout


def check_norms(norms: str, norm_eps: float) -> None:
    """Refuse places of norms that there are not, or an epsilon that is none.

    Raises:
        ValueError: names the setting.
    """
    if norms not in ("pre", "open", "post"):
        raise ValueError(f"model.norms={norms}: choose from pre, open, post")
    if not 0 < norm_eps < 1:
        raise ValueError(f"model.norm_eps={norm_eps}: must lie between 0 and 1; the usual value is 1e-6")
