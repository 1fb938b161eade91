import math
import re

import pytest
import torch
from parts import make_batch, make_masked, make_task
from torch.nn import functional as F

from vcrast.features.draws import Draws

TASK = make_task(num_frames=9, num_mel_bins=8)  # patches of [2, 4]: a grid of 4 x 2, and one frame left over


def make(make_encoder, plain_views, *, masks=None, encoder=None, **options):
    encoder = make_encoder(num_frames=9, **(encoder or {}))
    masks = {"sampler": "random", "count": 5, **(masks or {})}
    return make_masked("ssast", encoder, plain_views(num_frames=9), TASK, masks=masks, **options)


def inputs_of(objective, make_draws, num_clips=3):
    torch.manual_seed(1)
    return objective.prepare(make_batch(torch.randn(num_clips, 72, dtype=torch.float64)), make_draws(num_clips))


def slow_loss(objective, inputs, passes, over):
    """The paper's two losses, clip by clip and patch by patch, from the encoder's tokens."""
    fbank, total = inputs["fbank"], 0.0
    for clip in range(len(fbank)):
        # Patches along time first, each row by row.
        patches = [fbank[clip, 2 * t : 2 * t + 2, 4 * f : 4 * f + 4].reshape(-1) for t in range(4) for f in range(2)]
        for kind, name in zip(("match", "reconstruct"), passes, strict=True):
            places = inputs[f"{name}/hidden"][clip].tolist()
            mask = torch.tensor([[number in places for number in range(8)]])
            tokens = objective.encoder(fbank[clip : clip + 1], mask=mask).values[0]
            head = getattr(objective, kind)
            said = [head[2](F.relu(head[0](tokens[place]))) for place in places]
            for number, place in enumerate(places):
                if kind == "reconstruct":
                    error = sum((said[number][pixel] - patches[place][pixel]) ** 2 for pixel in range(8)) / 8
                    total = total + 10 * error / len(places) / len(fbank)
                    continue
                if over == "targets":
                    against = [(said[number] * patches[other]).sum().exp() for other in places]
                else:
                    against = [(other * patches[place]).sum().exp() for other in said]
                total = total - (against[number] / sum(against)).log() / len(places) / len(fbank)
    return total


@pytest.mark.parametrize("forwards", ["one", "two"])
@pytest.mark.parametrize("over", ["predictions", "targets"])
@pytest.mark.parametrize("encoder", [{}, {"positions": "learned", "class_tokens": 2}])
def test_the_loss_is_the_papers_with_gradients(forwards, over, encoder, make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views, encoder=encoder, forwards=forwards, softmax_over=over).double()
    inputs = inputs_of(objective, make_draws)
    passes = {"one": ("masked", "masked"), "two": ("match", "reconstruct")}[forwards]
    loss = objective.clip_losses(objective.represent(inputs))["loss"].mean()
    expected = slow_loss(objective, inputs, passes, over)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    weights = list(objective.parameters())
    for found, slow in zip(*(torch.autograd.grad(each, weights) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(found, slow, rtol=1e-8, atol=1e-13)


def test_two_forwards_have_masks_of_their_own(make_encoder, plain_views, make_draws):
    inputs = inputs_of(make(make_encoder, plain_views, forwards="two"), make_draws, 9)
    assert not inputs["match/hidden"].equal(inputs["reconstruct/hidden"])
    inputs = inputs_of(make(make_encoder, plain_views, forwards="two", encoder={"drop_path": 0.5}), make_draws, 9)
    assert not inputs["match/noise"].equal(inputs["reconstruct/noise"])


def test_the_share_matched_and_guessing(make_encoder, plain_views):
    objective = make(make_encoder, plain_views)
    patches = 3 * torch.eye(5, 8).repeat(2, 1, 1)
    exact = {f"{name}{end}": patches for name in ("matched", "reconstructed") for end in ("", "/target")}
    found = objective.clip_losses(exact)
    assert found["matched"].tolist() == [1, 1]
    assert found["reconstruction"].tolist() == [0, 0]
    swapped = objective.clip_losses({**exact, "matched": patches[:, [1, 0, 2, 3, 4]]})
    assert swapped["matched"].tolist() == pytest.approx([0.6, 0.6])
    guess = objective.clip_losses({**exact, "matched": torch.zeros(2, 5, 8)})
    assert guess["infonce"].tolist() == pytest.approx([math.log(5)] * 2)


def test_weights_switch_a_loss_off(make_encoder, plain_views, make_draws):
    both = make(make_encoder, plain_views).double()
    found = both.clip_losses(both.represent(inputs_of(both, make_draws)))
    for infonce, reconstruction in ((1, 0), (0, 10), (0.5, 2)):
        one = make(make_encoder, plain_views, infonce_weight=infonce, reconstruction_weight=reconstruction).double()
        one.load_state_dict(both.state_dict())
        loss = one.clip_losses(one.represent(inputs_of(one, make_draws)))["loss"]
        torch.testing.assert_close(loss, infonce * found["infonce"] + reconstruction * found["reconstruction"])
    with pytest.raises(ValueError, match=r"objective\.infonce_weight=0, objective\.reconstruction_weight=0: nothing"):
        make(make_encoder, plain_views, infonce_weight=0, reconstruction_weight=0)
    with pytest.raises(ValueError, match=r"objective\.infonce_weight=-1: must not be negative"):
        make(make_encoder, plain_views, infonce_weight=-1)


@pytest.mark.parametrize(("patch_size", "num_frames"), [([16, 16], 512), ([16, 16], 1024), ([2, 128], 512)])
@pytest.mark.parametrize("forwards", ["one", "two"])
def test_patches_and_frames_of_the_papers_lengths(patch_size, num_frames, forwards, plain_views, make_encoder):
    encoder = make_encoder(patch_size=patch_size, num_frames=num_frames, num_mel_bins=128)
    task = make_task(num_frames=num_frames, num_mel_bins=128)
    objective = make_masked("ssast", encoder, plain_views(num_frames=num_frames), task, forwards=forwards)
    inputs = objective.prepare(make_batch(torch.randn(2, num_frames * 128) * 0.5), Draws(0, 0, 2))
    name = objective.passes[0]
    assert inputs[f"{name}/hidden"].shape[1] == round(encoder.num_tokens(num_frames) * 400 / 512)
    losses = objective.clip_losses(objective.represent(inputs))
    losses["loss"].mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in objective.parameters())


def test_400_patches_of_five_seconds_are_refused(make_encoder, plain_views):
    encoder = make_encoder(patch_size=[16, 16], num_frames=512, num_mel_bins=128)
    task = make_task(num_frames=512, num_mel_bins=128)
    with pytest.raises(ValueError, match=r"^objective\.masks\.count=400: asks for 400 of the 256 patches of these"):
        make_masked("ssast", encoder, plain_views(num_frames=512), task, masks={"count": 400})


def test_what_it_cannot_use_is_refused(make_encoder, plain_views):
    with pytest.raises(ValueError, match=r"pretrain\.patch_stride=\[1, 4\]: patches that overlap show parts"):
        make(make_encoder, plain_views, encoder={"patch_stride": [1, 4]})
    with pytest.raises(ValueError, match=r"views\.patch_drop=0\.5: this objective chooses the hidden patches itself"):
        make_masked("ssast", make_encoder(), plain_views(patch_drop=0.5), masks={"count": 5})
    with pytest.raises(ValueError, match=re.escape("objective.masks.count=1: asks for 1 of the 8 patches")):
        make(make_encoder, plain_views, masks={"count": 1})
    encoder = make_encoder()
    encoder.can_mask = False
    with pytest.raises(ValueError, match="objective=ssast: AST has no mask token"):
        make_masked("ssast", encoder, plain_views(), make_task(num_frames=8, num_mel_bins=8))


def test_a_picture_shows_what_is_left(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views, forwards="two")
    wavs, draws = torch.randn(2, 72), make_draws(2)
    found = objective.examples(wavs, draws)
    assert list(found) == ["hidden (match)", "hidden (reconstruct)"]
    inputs = objective.prepare(make_batch(wavs), draws)
    for name, picture in zip(objective.passes, found.values(), strict=True):
        gone = picture.isnan()
        assert gone[:, 8:].all()  # the last frame is in no patch
        assert gone[:, :8].sum().item() == 2 * 5 * 8
        torch.testing.assert_close(picture[~gone], inputs["fbank"][~gone])
        whole = objective.encoder.patches(gone.float()).all(dim=2)
        assert [row.nonzero()[:, 0].tolist() for row in whole] == inputs[f"{name}/hidden"].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_several_channels_and_pairs_of_sounds(channels, make_encoder, plain_views, make_draws):
    class Several(plain_views):
        def make(self, wavs, draws, view):
            fbank = super().make(wavs, draws, view)
            return fbank if channels == 1 else torch.stack([fbank, 2 * fbank, 3 * fbank], dim=1)

    encoder = make_encoder(num_channels=channels)
    task = make_task(num_frames=8, num_mel_bins=8)
    objective = make_masked("ssast", encoder, Several(), task, masks={"count": 5})
    pairs = torch.randn(3, 2, 64)
    inputs = objective.prepare(make_batch(pairs), make_draws(3))
    assert objective.represent(inputs)["reconstructed/target"].shape == (3, 5, 8 * channels)
    alone = objective.prepare(make_batch(pairs[:, 0]), make_draws(3))
    torch.testing.assert_close(alone["fbank"], inputs["fbank"])
    picture = objective.examples(pairs, make_draws(3))["hidden"]
    assert picture.shape == inputs["fbank"].shape
    assert picture.isnan().sum().item() == 3 * 5 * 8 * channels


def test_predictions_are_fp32_under_autocast(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views).float()
    inputs = {name: value.float() if value.is_floating_point() else value for name, value in
              inputs_of(objective, make_draws).items()}  # fmt: skip
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective.represent(inputs)
    assert {value.dtype for value in found.values()} == {torch.float32}
