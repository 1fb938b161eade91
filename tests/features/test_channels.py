"""features=quaternion: four channels from one filterbank, all the way to tokens."""

import math

import pytest
import torch
from parts import make_ast
from shipped import shipped

from vcrast.features.channels import FIRST_STD, SECOND_STD, differences, energy
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.models.backbone import build_backbone
from vcrast.models.patch_embed import PatchEmbed

OFF = shipped("views/none")  # fmt: skip


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def front_end(**options):
    return Fbank(**shipped("features/quaternion", sample_rate=16000, num_mel_bins=40, mean=-5.0, std=4.0, **options))


def plain():
    return Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=40, mean=-5.0, std=4.0))


def test_differences_by_hand():
    steps = torch.tensor([0.0, 0, 1, 4, 9, 9])[None, :, None]  # ends repeated: 0 0 | 0 0 1 4 9 9 | 9 9
    wanted = [0.2, (1 - 0 + 2 * (4 - 0)) / 10, (4 - 0 + 2 * (9 - 0)) / 10, (9 - 1 + 2 * (9 - 0)) / 10, 2.1, 1.0]
    torch.testing.assert_close(differences(steps).flatten(), torch.tensor(wanted))


def test_energy_by_hand():
    # Mel energies 1, 3, 8 and 2, 2, 2: means 4 and 2, whatever the normalisation.
    mel = torch.tensor([[[1.0, 3, 8], [2, 2, 2]]])
    torch.testing.assert_close(energy(mel.log(), 1.0), torch.tensor([[[math.log(4)], [math.log(2)]]]))
    mean, scale = -5.0, 8.0
    found = energy((mel.log() - mean) / scale, scale)
    torch.testing.assert_close(found, ((torch.tensor([4.0, 2.0]).log() - mean) / scale)[None, :, None])


def test_channels_are_the_filterbank_its_differences_and_its_energy():
    wavs = noise(3, 8000)
    fbank, channels = plain()(wavs), front_end()(wavs)
    assert channels.shape == (3, 4, *fbank.shape[1:])
    assert front_end().num_channels == 4
    assert torch.equal(channels[:, 0], fbank)
    torch.testing.assert_close(channels[:, 1] * math.sqrt(0.1), differences(fbank))
    torch.testing.assert_close(channels[:, 2] * math.sqrt(0.0198), differences(differences(fbank)))
    mel = plain().log_mel(plain().power(wavs)).exp().mean(dim=2, keepdim=True)
    torch.testing.assert_close(channels[:, 3], ((mel.log() + 5.0) / 8.0).expand_as(fbank))


def test_differences_of_independent_frames_have_their_std():
    frames = torch.randn(1, 20000, 4)
    first = differences(frames)
    assert (first / FIRST_STD).std().item() == pytest.approx(1.0, rel=0.02)
    assert (differences(first) / SECOND_STD).std().item() == pytest.approx(1.0, rel=0.02)


def test_without_normalisation_and_in_float64():
    raw = Fbank(**shipped("features/quaternion", sample_rate=16000, num_mel_bins=40)).double()
    channels = raw(noise(2, 4000).double())
    assert channels.dtype == torch.float64
    mel = channels[:, 0].exp().mean(dim=2)
    torch.testing.assert_close(channels[:, 3, :, 0], mel.log())


def test_autocast_does_not_change_the_channels():
    wavs = noise(2, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = front_end()(wavs)
    assert torch.equal(found, front_end()(wavs))


def test_a_view_with_all_off_is_the_front_end():
    wavs = noise(3, 8000)
    torch.testing.assert_close(Views(front_end(), **OFF).make(wavs, Draws(0, 0, 3), "a"), front_end()(wavs))


def test_masks_hide_every_channel_at_the_same_places():
    wavs = noise(4, 16000)
    masks = {"freq_mask_bins": 16, "time_mask_frames": 30, "num_masks": 1}
    draws = Draws(1, 2, 4)
    four, one = (Views(fbank, **{**OFF, **masks}).make(wavs, draws, "a") for fbank in (front_end(), plain()))
    hidden = one == 0
    assert 0 < hidden.sum() < hidden.numel()
    assert torch.equal(four[:, 0], one)
    untouched = front_end()(wavs)
    for channel in range(4):
        assert not four[:, channel][hidden].any()
        assert torch.equal(four[:, channel][~hidden], untouched[:, channel][~hidden])
    assert Views(front_end(), **{**OFF, **masks}).two(wavs, draws).shape == (2, *four.shape)


def test_patches_read_all_channels():
    embed = PatchEmbed(embed_dim=3, patch_size=(4, 8), patch_stride=(4, 8), num_channels=4).double()
    fbank = torch.randn(2, 4, 9, 16, dtype=torch.float64)
    patch = fbank[:, :, 4:8, 8:16].flatten(1)
    torch.testing.assert_close(embed(fbank)[:, 3], patch @ embed.proj.weight.flatten(1).T + embed.proj.bias)


def encoder(**options):
    return make_ast(depth=1, num_frames=20, **options)


def test_the_encoder_takes_the_channels_it_was_built_for():
    four = encoder(num_channels=4)
    assert four(torch.randn(2, 4, 20, 16)).values.shape == (2, 10, 16)
    twin = build_backbone(four.options)
    twin.load_state_dict(four.state_dict())
    for wrong, built, given in ((four, 4, torch.randn(2, 20, 16)), (encoder(), 1, torch.randn(2, 4, 20, 16))):
        with pytest.raises(ValueError, match=f"the encoder was built for {built}; use the features"):
            wrong(given)
    with pytest.raises(ValueError, match="24 mel bins, the encoder was built for 16"):
        four(torch.randn(2, 4, 20, 24))


def test_an_unknown_front_end_is_named():
    with pytest.raises(ValueError, match=r"features\.name=quaternions: .* did you mean quaternion\?"):
        Fbank(**shipped("features/fbank", sample_rate=16000, name="quaternions"))


@pytest.mark.parametrize("name", ["fbank", "quaternion"])
def test_the_shipped_configs_build(name):
    assert Fbank(**shipped(f"features/{name}", sample_rate=16000)).name == name
