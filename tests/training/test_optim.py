import copy

import numpy as np
import pytest
import timm
import timm.optim
import torch
from parts import make_adamw, make_ast, make_lars
from torch import nn

from vcrast.config.registry import OPTIMS
from vcrast.models.backbone import Backbone
from vcrast.training.lars import Lars
from vcrast.training.optim import parameter_groups, set_rates

OPTIONS = {
    "adamw": {
        "name": "adamw", "weight_decay": 0.05, "betas": [0.9, 0.95], "eps": 1e-8, "layer_decay": 1.0,
        "final_weight_decay": None,
    },
    "lars": {"name": "lars", "weight_decay": 1e-6, "momentum": 0.9, "trust_coeff": 1e-3, "layer_decay": 1.0},
}  # fmt: skip


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = make_ast(
            embed_dim=8, depth=3, patch_size=[4, 4], positions="learned", num_mel_bins=8, num_frames=8
        )
        self.encoder.enable_mask_token()
        self.head = nn.Linear(8, 3)


def authors_lars_step(weights, momenta, lr, wd=1e-6, momentum=0.9, eta=0.001):
    """The VICReg release's LARS, tensor by tensor."""
    for number, p in enumerate(weights):
        dp = p.grad
        if p.ndim != 1:
            dp = dp + wd * p
            param_norm, update_norm = p.norm(), dp.norm()
            if param_norm > 0 and update_norm > 0:
                dp = dp * (eta * param_norm / update_norm)
        momenta[number] = momenta.get(number, torch.zeros_like(p)) * momentum + dp
        p.data -= lr * momenta[number]


def small_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5, bias=False), nn.Linear(5, 4))
    nn.init.zeros_(model[4].weight)  # a zero matrix takes an unscaled step
    return model.double()


def train(model, step, num_steps=20):
    for number in range(num_steps):
        x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        (model(x) - x[:, :4]).square().mean().backward()
        step(0.3 * (number + 1) / num_steps)
        model.zero_grad()
    return list(model.parameters())


@pytest.mark.parametrize("weight_decay", [1e-6, 1e-2, 0.0])
def test_lars_equals_the_authors_for_20_steps(weight_decay):
    ours, theirs = small_model(), small_model()
    optimizer, momenta = make_lars(ours, lr=1.0, weight_decay=weight_decay), {}

    def our_step(lr):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()

    start = [weight.detach().clone() for weight in ours.parameters()]
    found = train(ours, our_step)
    expected = train(theirs, lambda lr: authors_lars_step(list(theirs.parameters()), momenta, lr, wd=weight_decay))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    assert all(not torch.equal(a, b) for a, b in zip(found, start, strict=True))


def test_lars_agrees_with_timm():
    ours, theirs = small_model(), small_model()
    for model in (ours, theirs):  # where a gradient is 0, timm does not adapt the decay; the authors do
        nn.init.constant_(model[4].weight, 0.1)
    optimizer = make_lars(ours, lr=0.3)
    matrices = [weight for weight in theirs.parameters() if weight.ndim > 1]
    vectors = [weight for weight in theirs.parameters() if weight.ndim == 1]
    oracle = timm.optim.Lars(
        [{"params": matrices, "weight_decay": 1e-6}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.3, momentum=0.9, trust_coeff=1e-3, always_adapt=False,
    )  # fmt: skip
    found = train(ours, lambda lr: optimizer.step())
    expected = train(theirs, lambda lr: oracle.step())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)  # the denominators differ by the decay


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lars_with_found_inf_zero_is_the_plain_step(dtype):
    one = small_model().to(dtype)
    other = copy.deepcopy(one)
    for model, flag in ((one, None), (other, torch.zeros(()))):
        optimizer = make_lars(model, lr=0.3)
        for number in range(3):
            x = torch.randn(7, 6, dtype=dtype, generator=torch.Generator().manual_seed(number))
            model(x).square().mean().backward()
            if flag is not None:
                optimizer.found_inf = flag
            optimizer.step()
            model.zero_grad()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_decay_spares_vectors():
    model = Model()
    for name in ("adamw", "lars"):
        optimizer = OPTIMS.build({**OPTIONS[name], "weight_decay": 0.1}, module=model, lr=0.1)
        decays = {id(w): group["weight_decay"] for group in optimizer.param_groups for w in group["params"]}
        assert len(decays) == len(list(model.parameters()))
        for weight in model.parameters():
            assert decays[id(weight)] == (0.1 if weight.ndim > 1 else 0.0)
        assert decays[id(model.encoder.mask_token)] == 0.0


def test_frozen_parameters_are_left_out():
    model = Model()
    model.encoder.requires_grad_(False)
    assert {n for g in parameter_groups(model, weight_decay=0.1) for n in g["names"]} == {"head.weight", "head.bias"}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        make_adamw(model)


def test_layer_decay_scales():
    groups = parameter_groups(Model(), weight_decay=0.1, layer_decay=0.5)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    expected = {
        "encoder.patch_embed.proj.weight": 1 / 16,
        "encoder.pos_embed.table": 1 / 16,
        "encoder.mask_token": 1 / 16,
        "encoder.blocks.0.attn.q.weight": 1 / 8,
        "encoder.blocks.1.norm1.bias": 1 / 4,
        "encoder.blocks.2.fc2.weight": 1 / 2,
        "encoder.norm.weight": 1.0,
        "head.bias": 1.0,
    }
    assert {name: scale[name] for name in expected} == expected
    assert len(groups) == 2 * 5  # four layers and the top, each decayed or not


def test_layer_decay_asks_the_backbone_as_timm_does():
    vit = timm.create_model("vit_tiny_patch16_224", depth=3)
    objective = nn.Module()
    objective.encoder, objective.head = vit, nn.Linear(2, 2)
    ours = {
        name: group["lr_scale"]
        for group in parameter_groups(objective, weight_decay=0.1, layer_decay=0.5)
        for name in group["names"]
    }
    theirs = {}
    for group in timm.optim.param_groups_layer_decay(vit, layer_decay=0.5, min_scale=0.0):
        theirs |= {id(weight): group["lr_scale"] for weight in group["params"]}
    for name, weight in vit.named_parameters():
        assert ours[f"encoder.{name}"] == theirs[id(weight)], name
    assert ours["head.weight"] == 1.0


def test_a_model_that_does_not_tell_its_layers_is_refused():
    module = nn.Module()
    module.encoder = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="set layer_decay=1"):
        parameter_groups(module, weight_decay=0.1, layer_decay=0.5)
    module.encoder = Silent()
    with pytest.raises(ValueError, match="Silent has no group_matcher, which layer_decay needs"):
        parameter_groups(module, weight_decay=0.1, layer_decay=0.5)
    assert parameter_groups(module, weight_decay=0.1)[0]["lr_scale"] == 1.0


class Silent(Backbone):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def grid(self, num_frames):
        return 1, 1

    def forward(self, fbank, **options):
        raise AssertionError("never run")


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_mistakes_are_named(name):
    with pytest.raises(ValueError, match="no such option; did you mean weight_decay"):
        OPTIMS.build({**OPTIONS[name], "weight_decy": 0.1}, module=Model(), lr=0.1)
    with pytest.raises(ValueError, match="layer_decay=0"):
        OPTIMS.build({**OPTIONS[name], "layer_decay": 0.0}, module=Model(), lr=0.1)


def test_lars_at_rate_zero_is_refused():
    with pytest.raises(ValueError, match="learns nothing at rate 0"):
        make_lars(Model(), lr=0)
    assert isinstance(make_lars(Model()), Lars)


def test_a_decay_that_changes_is_dinos_cosine_and_spares_vectors():
    mine, theirs = small_model(), small_model()
    optimizer = make_adamw(mine, lr=0.1, weight_decay=0.04, final_weight_decay=0.4)
    others = [p for p in theirs.parameters() if p.ndim < 2]
    plain = torch.optim.AdamW(
        [{"params": [p for p in theirs.parameters() if p.ndim > 1]}, {"params": others, "weight_decay": 0.0}],
        lr=0.1, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    for step in range(7):
        plain.param_groups[0]["weight_decay"] = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * step / 7))
        for model, its in ((mine, optimizer), (theirs, plain)):
            x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
            (model(x) - x[:, :4]).square().mean().backward()
            if its is optimizer:
                set_rates(optimizer, 0.1, step / 7)
            its.step()
            its.zero_grad()
    for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_a_negative_decay_at_the_end_is_refused():
    with pytest.raises(ValueError, match=r"optim\.final_weight_decay=-0\.1: must not be negative"):
        make_adamw(small_model(), final_weight_decay=-0.1)
