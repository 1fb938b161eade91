import pytest
import torch
from parts import make_ast
from torch import nn

from vcrast.features.draws import Draws


class PlainViews(nn.Module):
    """A stand-in for the real views: the waveform, reshaped, plus noise; keeps `keep_tokens` random tokens."""

    def __init__(self, num_frames=8, patch_drop=0.0, patch_drop_mode="drop"):
        super().__init__()
        self.num_frames, self.patch_drop, self.patch_drop_mode = num_frames, patch_drop, patch_drop_mode

    def make(self, wavs, draws, view):
        noise = draws.normal(f"{view}/noise", wavs.shape[1]).to(wavs)
        return (wavs + 0.5 * noise).unflatten(1, (self.num_frames, -1))

    def keep(self, draws, view, num_tokens):
        if self.patch_drop == 0:
            return None
        order = draws.uniform(f"{view}/keep", num_tokens).argsort(dim=1)
        return order[:, : num_tokens - round(self.patch_drop * num_tokens)].sort(dim=1).values


@pytest.fixture
def plain_views():
    return PlainViews


@pytest.fixture
def make_encoder():
    def make(**options):
        torch.manual_seed(0)
        return make_ast(**{"patch_size": [2, 4], "num_mel_bins": 8, "num_frames": 8, **options}).train()

    return make


@pytest.fixture
def make_draws():
    return lambda batch_size, step=0: Draws(7, step, batch_size)
