import pytest
import torch
from parts import make_batch, make_task, make_vcr
from shipped import shipped_options
from torch.nn import functional as F

from vcrast.config.registry import OBJECTIVES


def make(make_encoder, plain_views, *, dims=(12, 12, 24), views=None, encoder=None, **options):
    return make_vcr(make_encoder(**(encoder or {})), plain_views(**(views or {})), dims, **options)


def loss_of(objective, vectors):
    """The loss of (2, B, D) vectors, and its parts."""
    losses = objective.batch_losses(dict(zip("ab", vectors, strict=True)))
    return losses.pop("loss"), {name: value.detach() for name, value in losses.items()}


def authors_loss(x, y):
    """The VICReg release's forward, its constants in place."""
    batch_size, num_features = x.shape
    repr_loss = F.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    std_x, std_y = torch.sqrt(x.var(dim=0) + 0.0001), torch.sqrt(y.var(dim=0) + 0.0001)
    std_loss = torch.mean(F.relu(1 - std_x)) / 2 + torch.mean(F.relu(1 - std_y)) / 2
    cov_x, cov_y = (x.T @ x) / (batch_size - 1), (y.T @ y) / (batch_size - 1)
    outside = ~torch.eye(num_features, dtype=torch.bool)
    cov_loss = cov_x[outside].pow(2).sum() / num_features + cov_y[outside].pow(2).sum() / num_features
    return 25.0 * repr_loss + 25.0 * std_loss + 1.0 * cov_loss


@pytest.mark.parametrize("batch_size", [5, 24, 31])
def test_loss_equals_the_authors_formula_with_gradients(batch_size, make_encoder, plain_views):
    objective = make(make_encoder, plain_views).double()
    vectors = torch.randn(2, batch_size, 16, dtype=torch.float64, requires_grad=True)
    loss, parts = loss_of(objective, vectors)
    expected = authors_loss(*(objective.projector(view) for view in vectors))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    a, b = (torch.autograd.grad(value, vectors)[0] for value in (loss, expected))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)
    weighted = 25 * parts["invariance"] + 25 * parts["variance"] + parts["covariance"]
    torch.testing.assert_close(weighted, loss.detach())
    torch.testing.assert_close(parts["floor"] + parts["above_floor"], loss.detach())


def test_std_part_is_that_of_the_projections(make_encoder, plain_views):
    objective = make(make_encoder, plain_views, dims=[24]).double()
    vectors = torch.randn(2, 9, 16, dtype=torch.float64)
    _, parts = loss_of(objective, vectors)
    expected = objective.projector.layers(vectors).std(dim=1).mean()
    torch.testing.assert_close(parts["std"], expected, rtol=1e-3, atol=0)  # 1e-4 under the root


def test_batch_norm_sees_one_view_at_a_time(make_encoder, plain_views):
    objective = make(make_encoder, plain_views)
    loss_of(objective, torch.randn(2, 9, 16))
    assert objective.projector.layers[1].num_batches_tracked == 2


def test_vectors_are_fp32_under_autocast(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views)
    inputs = objective.prepare(make_batch(torch.randn(9, 64)), make_draws(9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objective.represent(inputs)
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_represent_in_parts_is_represent_at_once(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views, views={"patch_drop": 0.5}, encoder={"drop_path": 0.5}).double()
    inputs = objective.prepare(make_batch(torch.randn(7, 64, dtype=torch.float64)), make_draws(7))
    assert inputs["a/keep"].shape == (7, 4)
    assert inputs["b/noise"].shape == (7, 4)
    whole = objective.represent(inputs)
    parts = [
        objective.represent({name: value[cut] for name, value in inputs.items()}) for cut in (slice(3), slice(3, 7))
    ]
    for view in "ab":
        assert whole[view].shape == (7, 16)
        torch.testing.assert_close(whole[view], torch.cat([part[view] for part in parts]))


def test_vectors_are_the_views_mean_tokens(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views)
    wavs, draws = torch.randn(3, 64), make_draws(3)
    found = objective.represent(objective.prepare(make_batch(wavs), draws))
    for view in "ab":
        tokens = objective.encoder(objective.views.make(wavs, draws, view)[2:]).values
        torch.testing.assert_close(found[view][2], tokens[0].mean(dim=0))


def test_views_of_two_lengths_are_encoded_each_by_itself(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views)
    inputs = objective.prepare(make_batch(torch.randn(3, 64)), make_draws(3))
    inputs["b"] = inputs["b"][:, :4]
    found = objective.represent(inputs)
    torch.testing.assert_close(found["b"], objective.encoder(inputs["b"]).values.mean(dim=1))


def test_mask_mode_trains_the_mask_token(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views, views={"patch_drop": 0.5, "patch_drop_mode": "mask"})
    found = objective.represent(objective.prepare(make_batch(torch.randn(5, 64)), make_draws(5)))
    objective.batch_losses(found)["loss"].backward()
    assert objective.encoder.mask_token.grad.abs().sum() > 0


def test_a_backbone_that_cannot_drop_or_mask_is_refused(make_encoder, plain_views):
    encoder = make_encoder()
    encoder.can_drop = encoder.can_mask = False
    with pytest.raises(ValueError, match=r"views\.patch_drop=0\.5: AST cannot leave tokens out"):
        make_vcr(encoder, plain_views(patch_drop=0.5))
    with pytest.raises(ValueError, match="AST has no mask token"):
        make_vcr(encoder, plain_views(patch_drop=0.5, patch_drop_mode="mask"))
    make_vcr(encoder, plain_views())


def test_auto_covariance_weight(make_encoder, plain_views):
    objective = make(make_encoder, plain_views, covariance_weight="auto").double()
    vectors = torch.randn(2, 4, 16, dtype=torch.float64)
    loss, parts = loss_of(objective, vectors)
    weight = 25 / (8 * (24 / 3 - 1))
    expected = 25 * parts["invariance"] + 25 * parts["variance"] + weight * parts["covariance"]
    torch.testing.assert_close(loss.detach(), expected)
    assert objective.weights(25, 24)["covariance"] == 1.0


def test_config_options_reach_the_objective_and_mistakes_are_named(make_encoder, plain_views):
    options = shipped_options("objective/vcr", projector_dims=[8], covariance_weight=0.1)
    objective = OBJECTIVES.build(options, encoder=make_encoder(), views=plain_views(), task=make_task())
    assert objective.weights(12, 8)["covariance"] == 0.1
    with pytest.raises(ValueError, match="give a number, or auto"):
        make(make_encoder, plain_views, covariance_weight="small")
    with pytest.raises(ValueError, match="variance_weight=-1"):
        make(make_encoder, plain_views, variance_weight=-1)
    with pytest.raises(ValueError, match="batch_size to 2 or more"):
        loss_of(objective, torch.randn(2, 1, 16))
