"""Check the attentive probe: PyTorch's attention, what a mean cannot see, mistakes."""

import pytest
import torch
from shipped import shipped_options
from torch import nn

from vcrast.evaluation.attentive_probe import AttentiveClassifier, AttentiveProbe, token_statistics
from vcrast.evaluation.base import Features
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.linear_probe import LinearProbe


def options_of(name, **changes):
    found = shipped_options(f"evaluation/{name}")[name]
    return {**{key: value for key, value in found.items() if key != "module"}, **changes}


def probe(**options):
    return AttentiveProbe(**options_of("attentive_probe", **options))


def test_it_is_pytorchs_attention_with_a_learned_query():
    torch.manual_seed(0)
    own = AttentiveClassifier(torch.randn(12), torch.rand(12) + 0.5, num_heads=3, num_classes=5).double()
    theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True, dtype=torch.float64)
    query = torch.randn(12, dtype=torch.float64)
    with torch.no_grad():
        in_query, in_key, in_value = theirs.in_proj_weight.chunk(3)
        projected = (in_query @ query).unflatten(0, (3, 4))
        own.query.copy_(torch.einsum("hk,hkd->hd", projected, in_key.unflatten(0, (3, 4))) / 4**0.5)
        own.value.copy_(in_value.unflatten(0, (3, 4)))
        theirs.out_proj.weight.copy_(torch.eye(12))
    tokens = torch.randn(7, 9, 12, dtype=torch.float64, requires_grad=True)
    standard = (tokens - own.mean) / own.std
    attended, _ = theirs(query.expand(7, 1, -1), standard, standard)
    expected = torch.nn.functional.linear(own.norm(attended[:, 0]), own.weight, own.bias)
    torch.testing.assert_close(own(tokens), expected)
    mine, other = (
        torch.autograd.grad(out.square().sum(), tokens, retain_graph=True)[0] for out in (own(tokens), expected)
    )
    torch.testing.assert_close(mine, other)


def test_statistics_are_those_of_all_tokens():
    tokens = torch.randn(600, 3, 5).half()
    mean, std = token_statistics(tokens)
    flat = tokens.double().flatten(0, 1)
    torch.testing.assert_close(mean.double(), flat.mean(dim=0), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(std.double(), flat.std(dim=0, correction=0), atol=1e-6, rtol=1e-6)


def one_token_tells(count, draws):
    """Tokens whose marked one carries the class; another carries as much of the wrong one, so the mean carries none."""
    label = torch.randint(2, (count,), generator=draws)
    tokens = 0.1 * torch.randn(count, 6, 4, generator=draws)
    marked = torch.randint(6, (count,), generator=draws)
    other = (marked + torch.randint(1, 6, (count,), generator=draws)) % 6
    sign = 2.0 * label - 1
    tokens[torch.arange(count), marked, 0] += sign
    tokens[torch.arange(count), marked, 1] += 3
    tokens[torch.arange(count), other, 0] -= sign
    return Embedded(tokens.half(), torch.nn.functional.one_hot(label, 2), torch.arange(count))


def test_it_finds_what_the_mean_does_not_show():
    draws = torch.Generator().manual_seed(0)
    train, test = one_token_tells(200, draws), one_token_tells(200, draws)
    linear = LinearProbe(**options_of("linear_probe"))
    means = [Embedded(part.embedding.float().mean(dim=1), part.label, part.index) for part in (train, test)]
    assert linear.measure(Features(*means, False))["probe_accuracy"] < 0.7
    found = probe().measure(Features(train, test, False))["attentive_accuracy"]
    assert found > 0.95
    assert probe().measure(Features(train, test, False))["attentive_accuracy"] == found
    many = probe(num_heads=3).measure(Features(train, test, True))
    assert many["attentive_mAP"] > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "num_heads=0: must be 1 or more"),
        ({"lr": 0.0}, "lr=0.0: must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: must not be negative"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=f"evaluation.attentive_probe.{message}"):
        probe(**options)
