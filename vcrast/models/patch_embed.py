"""Cut (B, T, F) filterbanks into (B, N, D) tokens: one linear map of each patch."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cuts a filterbank into patches and maps each to a token.

    Args:
        embed_dim: D.
        patch_size: (frames, mel bins) of a patch.
        patch_stride: (frames, mel bins) between patch starts; less than the patch makes neighbours overlap.
        num_channels: C of the filterbanks; 1 stands for (B, T, F).

    Raises:
        ValueError: not two positive whole numbers.

    Source: Gong et al. 2021, arXiv:2104.01778, Sec. 2.1. Our tokens run time-major (all patches of the first frames
    come first), the AST's run frequency-major.
    """

    def __init__(
        self, *, embed_dim: int, patch_size: Sequence[int], patch_stride: Sequence[int], num_channels: int = 1
    ) -> None:
        super().__init__()
        self.patch_size = whole_pair("patch_size", patch_size)
        self.patch_stride = whole_pair("patch_stride", patch_stride)
        # PyTorch's own initialisation, as timm leaves it for the patch convolution; linear layers get 0.02.
        self.proj = nn.Conv2d(num_channels, embed_dim, kernel_size=self.patch_size, stride=self.patch_stride)

    def set_stride(self, patch_stride: Sequence[int]) -> None:
        """Change the distance between patches; the weights stay."""
        self.patch_stride = self.proj.stride = whole_pair("patch_stride", patch_stride)

    def grid(self, num_frames: int, num_mel_bins: int) -> tuple[int, int]:
        """Patches along time and along frequency; what is left over at the ends is not read.

        Raises:
            ValueError: the filterbank is smaller than one patch.
        """
        for what, size, patch in zip(("frames", "mel bins"), (num_frames, num_mel_bins), self.patch_size, strict=True):
            if size < patch:
                raise ValueError(
                    f"a filterbank of {size} {what} is smaller than one patch of {patch} (model.patch_size="
                    f"{list(self.patch_size)}); use longer clips, more mel bins or a smaller patch"
                )
        sizes = zip((num_frames, num_mel_bins), self.patch_size, self.patch_stride, strict=True)
        time, frequency = ((size - patch) // stride + 1 for size, patch, stride in sizes)
        return time, frequency

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F), or (B, C, T, F) of several channels -> (B, N, D), time-major.

        Raises:
            ValueError: another number of channels than the layer was built for.
        """
        planes = fbank.unsqueeze(1) if fbank.ndim == 3 else fbank
        if planes.shape[1] != self.proj.in_channels:
            raise ValueError(
                f"filterbank of {planes.shape[1]} channels, the encoder was built for {self.proj.in_channels}; "
                "use the features it was made with"
            )
        return rearrange(self.proj(planes), "b d t f -> b (t f) d")


def whole_pair(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Check a (time, frequency) pair of positive whole numbers.

    Raises:
        ValueError: it is not.
    """
    if len(value) != 2 or not all(isinstance(number, int) and number > 0 for number in value):
        raise ValueError(f"{name}={list(value)}: give two positive whole numbers, [time frames, mel bins]")
    return value[0], value[1]
