"""The audio spectrogram transformer: patches, positions, blocks, norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vcrast.models.block import NORM_EPS, Block
from vcrast.models.patch_embed import PatchEmbed
from vcrast.models.pos_embed import LearnedPositions, SinCosPositions


class Encoder(nn.Module):
    """(B, T, F) normalised filterbanks -> (B, N, D) tokens.

    There is no cls token: a clip's vector is the mean of its tokens, as in SSAST, so the AST's distillation tokens and
    their head are gone.

    Args:
        embed_dim: D.
        depth: number of blocks.
        num_heads: H.
        mlp_ratio: hidden width of the MLPs over D.
        patch_size: (frames, mel bins).
        patch_stride: (frames, mel bins) between patch starts; None means patches that touch and do not overlap.
        positions: `sincos` (fixed) or `learned`.
        num_mel_bins: F.
        num_frames: T of the clips the model is built for: the reference grid of learned positions. Other lengths work.
        drop_path: probability for the last block; it rises linearly from 0 at the first.
        num_channels: C of the filterbanks; with several, they are (B, C, T, F).
        attention: options of the attention backend, at least `name`.
        linear: options of the linear layers, at least `name`.

    Raises:
        ValueError: sizes that do not go together.

    Source: Gong et al. 2021, arXiv:2104.01778; Gong et al. 2022, arXiv:2110.09784 (mean of the patch tokens).
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: Sequence[int],
        patch_stride: Sequence[int] | None = None,
        positions: str = "sincos",
        num_mel_bins: int = 128,
        num_frames: int,
        drop_path: float = 0.0,
        num_channels: int = 1,
        attention: Mapping[str, Any],
        linear: Mapping[str, Any],
    ) -> None:
        super().__init__()
        # What an export writes down, so that the encoder can be built again: plain data.
        self.options: dict[str, Any] = {
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "patch_size": list(patch_size),
            "patch_stride": None if patch_stride is None else list(patch_stride),
            "positions": positions,
            "num_mel_bins": num_mel_bins,
            "num_frames": num_frames,
            "drop_path": drop_path,
            "num_channels": num_channels,
            "attention": dict(attention),
            "linear": dict(linear),
        }
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path={drop_path}: must lie in [0, 1)")
        self.embed_dim, self.num_mel_bins, self.num_frames = embed_dim, num_mel_bins, num_frames
        self.drop_path, self.positions = drop_path, positions
        stride = patch_size if patch_stride is None else patch_stride
        self.patch_embed = PatchEmbed(
            embed_dim=embed_dim, patch_size=patch_size, patch_stride=stride, num_channels=num_channels
        )
        self.pos_embed = self.build_positions()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path * number / max(1, depth - 1),
                attention=attention,
                linear=linear,
            )
            for number in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.mask_token: nn.Parameter | None = None
        # Set by the engine: a matter of memory, not of the model. True: a block keeps its input only and runs again in
        # the backward.
        self.checkpoint_blocks = False
        self.grid(num_frames)  # refuses a clip smaller than one patch now rather than at the first step

    def build_positions(self) -> SinCosPositions | LearnedPositions:
        """The positions; learned ones refer to patches that touch, whatever the stride."""
        if self.positions == "sincos":
            return SinCosPositions(embed_dim=self.embed_dim)
        if self.positions == "learned":
            time, frequency = self.patch_embed.patch_size
            grid = (max(1, self.num_frames // time), max(1, self.num_mel_bins // frequency))
            return LearnedPositions(embed_dim=self.embed_dim, grid=grid)
        raise ValueError(f"model.positions={self.positions}: choose from sincos, learned")

    def enable_mask_token(self) -> None:
        """Create the learned token that stands for masked patches.

        Not made by default: a parameter that never gets a gradient stalls distributed training.
        """
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

    def num_tokens(self, num_frames: int) -> int:
        """N of a clip of `num_frames`."""
        time, frequency = self.grid(num_frames)
        return time * frequency

    @property
    def num_chances(self) -> int:
        """How many random numbers a clip needs for drop path: two a block, or none."""
        return 2 * len(self.blocks) if self.drop_path > 0 else 0

    def forward(
        self, fbank: Tensor, keep: Tensor | None = None, masked: str = "drop", chances: Tensor | None = None
    ) -> Tensor:
        """Encode clips.

        Args:
            fbank: (B, T, F), or (B, C, T, F).
            keep: (B, Nkeep) int64 tokens that stay; None keeps all.
            masked: what happens to the others: `drop` leaves them out, `mask` puts the mask token in their place.
            chances: (B, num_chances) uniform in [0, 1) for drop path; None draws them from torch's generator.

        Returns:
            (B, N, D) after the final norm, or (B, Nkeep, D) when tokens were dropped.

        Raises:
            ValueError: another number of mel bins than the model was built for, or a clip shorter than one patch.
        """
        tokens = self.select(self.embed(fbank, keep if masked == "mask" else None), keep if masked == "drop" else None)
        for number, block in enumerate(self.blocks):
            chance = None if chances is None else chances[:, 2 * number : 2 * number + 2]
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, chance, use_reentrant=False)
            else:
                tokens = block(tokens, chance)
        return self.norm(tokens)

    def embed(self, fbank: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, [C,] T, F) -> (B, N, D) patches, those not in `visible` (B, Nkeep) replaced, plus positions."""
        if fbank.shape[-1] != self.num_mel_bins:
            raise ValueError(f"filterbank of {fbank.shape[-1]} mel bins, the encoder was built for {self.num_mel_bins}")
        grid = self.grid(fbank.shape[-2])
        tokens = self.patch_embed(fbank)
        if visible is not None:
            if self.mask_token is None:
                raise ValueError(
                    "masked='mask' needs the mask token; call enable_mask_token() before the optimiser is made"
                )
            shown = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device).scatter_(1, visible, True)
            tokens = torch.where(shown.unsqueeze(2), tokens, self.mask_token.to(tokens.dtype))
        embed = self.patch_embed
        return tokens + self.pos_embed(grid, embed.patch_size, embed.patch_stride, like=tokens)

    def select(self, tokens: Tensor, keep: Tensor | None) -> Tensor:
        """(B, N, D) -> (B, Nkeep, D); positions are already inside the tokens."""
        if keep is None:
            return tokens
        return tokens.gather(1, keep.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
