import pytest
import torch
from parts import make_batch, make_masked, make_task
from torch import nn

from vcrast.objectives.mae import normalised

TASK = make_task(num_frames=9, num_mel_bins=8)  # patches of [2, 4]: a grid of 4 x 2, and one frame left over


def make(name, make_encoder, plain_views, *, encoder=None, **options):
    encoder = make_encoder(num_frames=9, **(encoder or {}))
    return make_masked(name, encoder, plain_views(num_frames=9), TASK, **options).double()


def inputs_of(objective, make_draws):
    torch.manual_seed(1)
    return objective.prepare(make_batch(torch.randn(3, 72, dtype=torch.float64)), make_draws(3))


def slow(objective, inputs):
    """Of each clip its hidden patches and the decoder's tokens there: the encoder sees nothing of these patches."""
    fbank = inputs["fbank"]
    for clip in range(len(fbank)):
        hidden, visible = (inputs[f"masked/{name}"][clip].tolist() for name in ("hidden", "visible"))
        assert sorted(hidden + visible) == list(range(8))
        heard = fbank[clip].clone()
        patches = {}
        for place in hidden:
            rows, columns = slice(2 * (place // 2), 2 * (place // 2) + 2), slice(4 * (place % 2), 4 * (place % 2) + 4)
            patches[place] = fbank[clip, rows, columns].reshape(-1)
            heard[rows, columns] = 1e3
        tokens = objective.encoder(heard[None], keep=torch.tensor([visible])).values
        decoded = objective.decoder(tokens, torch.tensor([visible]), torch.tensor([hidden]), (4, 2))[0]
        yield [patches[place] for place in hidden], decoded


@pytest.mark.parametrize("window", [None, [2, 2]])
@pytest.mark.parametrize("norm_patches", [True, False])
@pytest.mark.parametrize("encoder", [{}, {"positions": "learned", "class_tokens": 1}])
def test_the_autoencoders_loss_with_gradients(window, norm_patches, encoder, make_encoder, plain_views, make_draws):
    decoder = {"width": 0.5, "depth": 2, "head_dim": 8, "mlp_ratio": 2.0, "window": window}
    objective = make("mae", make_encoder, plain_views, encoder=encoder, decoder=decoder, norm_patches=norm_patches)
    inputs = inputs_of(objective, make_draws)
    assert inputs["masked/hidden"].shape == (3, 6)  # 80 % of 8
    expected = 0.0
    for patches, decoded in slow(objective, inputs):
        for patch, token in zip(patches, decoded, strict=True):
            if norm_patches:
                mean = sum(patch) / 8
                patch = (patch - mean) / (sum((pixel - mean) ** 2 for pixel in patch) / 7 + 1e-6).sqrt()
            expected = expected + (objective.reconstruct(token) - patch).square().sum() / 8 / 6 / 3
    found = objective.clip_losses(objective.represent(inputs))["loss"].mean()
    assert_same(found, expected, objective)


@pytest.mark.parametrize("over", ["predictions", "targets"])
def test_mae_asts_loss_with_gradients(over, make_encoder, plain_views, make_draws):
    objective = make("mae_ast", make_encoder, plain_views, softmax_over=over)
    inputs = inputs_of(objective, make_draws)
    expected = 0.0
    for patches, decoded in slow(objective, inputs):
        said = [objective.match(token) for token in decoded]
        for number, patch in enumerate(patches):
            if over == "targets":
                logits = torch.stack([said[number] @ other for other in patches])
            else:
                logits = torch.stack([other @ patch for other in said])
            expected = expected - logits.log_softmax(dim=0)[number] / 6 / 3
            error = (objective.reconstruct(decoded[number]) - patch).square().sum() / 8
            expected = expected + 10 * error / 6 / 3
    losses = objective.clip_losses(objective.represent(inputs))
    assert_same(losses["loss"].mean(), expected, objective)
    assert set(losses) == {"loss", *objective.parts}


def assert_same(found, expected, objective):
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    weights = list(objective.parameters())
    for one, other in zip(*(torch.autograd.grad(each, weights) for each in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


def test_a_patch_without_sound_is_no_nan():
    patches = torch.zeros(2, 8, requires_grad=True)
    assert normalised(patches).eq(0).all()
    torch.testing.assert_close(normalised(torch.arange(4.0)), (torch.arange(4.0) - 1.5) / (5 / 3) ** 0.5)


@pytest.mark.parametrize("name", ["mae", "mae_ast"])
def test_the_encoder_reads_the_visible_patches_alone(name, make_encoder, plain_views, make_draws):
    objective = make(name, make_encoder, plain_views, encoder={"drop_path": 0.5})
    inputs = inputs_of(objective, make_draws)
    seen = []
    objective.encoder.blocks[0].register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    objective.represent(inputs)
    assert seen == [2]
    assert inputs["masked/noise"].shape == (3, 4)


@pytest.mark.parametrize("name", ["mae", "mae_ast"])
def test_what_it_cannot_use_is_refused(name, make_encoder, plain_views):
    encoder = make_encoder()
    encoder.can_drop = False
    with pytest.raises(ValueError, match=f"objective={name}: AST cannot leave tokens out"):
        make_masked(name, encoder, plain_views(), make_task(num_frames=8, num_mel_bins=8))
    with pytest.raises(ValueError, match=r"views\.patch_drop=0\.5: this objective chooses"):
        make(name, make_encoder, lambda **given: plain_views(patch_drop=0.5, **given))
    with pytest.raises(ValueError, match=r"pretrain\.patch_stride=\[1, 4\]"):
        make(name, make_encoder, plain_views, encoder={"patch_stride": [1, 4]})


@pytest.mark.parametrize("name", ["ssast", "mae", "mae_ast"])
@pytest.mark.parametrize("patch_size", [[2, 4], [1, 8]])
def test_the_loss_falls(name, patch_size, make_encoder, plain_views, make_draws):
    """Of clips that are one of three, alike up to noise, so that what is hidden follows from what is seen."""
    encoder = make_encoder(patch_size=patch_size, num_frames=9, embed_dim=32)
    objective = make_masked(name, encoder, plain_views(num_frames=9), TASK, masks={"count": 0.6})
    nn.init.normal_(objective.encoder.patch_embed.proj.weight, std=0.2)
    kinds = 3 * torch.randn(3, 72)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    losses = []
    for step in range(120):
        inputs = objective.prepare(make_batch(kinds.repeat(4, 1)), make_draws(12, step))
        loss = objective.clip_losses(objective.represent(inputs))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
