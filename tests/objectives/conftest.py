import pytest
import torch
from parts import make_ast
from torch import nn

from vcrast.features.draws import Draws
from vcrast.features.dropping import Dropping


class PlainViews(nn.Module):
    """A stand-in for the real views: the waveform, reshaped, plus noise; half of it in local ones."""

    def __init__(self, num_frames=8, patch_drop=0.0, patch_drop_mode="drop", num=2, num_local=0, drop="random"):
        super().__init__()
        self.num_frames, self.patch_drop_mode, self.num = num_frames, patch_drop_mode, num
        self.dropping = Dropping(drop=drop, patch_drop=patch_drop, crop_frequency=1.0)
        self.local_names = tuple(f"local{number}" for number in range(num_local))
        self.names = (*"abcdefgh"[:num], *self.local_names)
        self.drops_by = self.dropping.setting

    def make(self, wavs, draws, view):
        noise = draws.normal(f"{view}/noise", wavs.shape[1]).to(wavs)
        found = (wavs + 0.5 * noise).unflatten(1, (self.num_frames, -1))
        return found[:, : self.num_frames // 2] if view in self.local_names else found

    def keep(self, draws, view, grid):
        return self.dropping.keep(draws, view, grid, self.names.index(view) if view in self.names else 0)


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
