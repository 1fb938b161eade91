"""Check the probe of all layers: loops, the layer that tells, one layer, mistakes."""

import pytest
import torch
from shipped import shipped_options
from torch.nn import functional as F

from vcrast.evaluation.base import Features
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.layers_probe import LayersClassifier, LayersProbe
from vcrast.evaluation.linear_probe import LinearProbe, logits_of


def options_of(name, **changes):
    found = shipped_options(f"evaluation/{name}")[name]
    return {**{key: value for key, value in found.items() if key != "module"}, **changes}


def probe(**options):
    return LayersProbe(**options_of("layers_probe", **options))


def slow_logits(own, layers):
    """(n, C): clip by clip, frame by frame and prototype by prototype, from the text of the source."""
    shares = own.mix.exp() / own.mix.exp().sum()
    rows = []
    for clip in layers:
        frames = []
        for t in range(clip.shape[1]):
            mixed = torch.zeros(clip.shape[2], dtype=clip.dtype)
            for layer in range(len(clip)):
                vector = (clip[layer, t] - own.mean[layer]) / own.std[layer]
                mixed = mixed + shares[layer] * vector / vector.norm()
            frames.append(mixed)
        values = [
            [float(len(mixed)) ** 0.5 * mixed @ each / mixed.norm() / each.norm() for mixed in frames]
            for each in own.prototypes
        ]
        pooled = [torch.stack(cosines).max() for cosines in values] + [torch.stack(cosines).min() for cosines in values]
        rows.append(own.weight @ torch.stack(pooled) + own.bias)
    return torch.stack(rows)


def test_prototypes_by_loops_with_gradients():
    torch.manual_seed(0)
    mean, std = torch.randn(3, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64) + 0.5
    own = LayersClassifier(mean, std, prototypes=4, num_classes=2)
    with torch.no_grad():
        for each in own.parameters():
            each.normal_()
    layers = torch.randn(6, 3, 7, 5, dtype=torch.float64, requires_grad=True)
    found, expected = own(layers), slow_logits(own, layers)
    torch.testing.assert_close(found, expected)
    of = [layers, *own.parameters()]
    mine, other = (torch.autograd.grad(out.square().sum(), of, retain_graph=True) for out in (found, expected))
    torch.testing.assert_close(mine, other)


def parts_of(telling, *, num_clips=60, num_layers=4, dim=6, seed=0):
    """Training and test clips of two classes, of whose layers only one tells them apart."""
    draws, parts = torch.Generator().manual_seed(seed), []
    for _ in range(2):
        classes = torch.arange(num_clips) % 2
        layers = torch.randn(num_clips, num_layers, dim, generator=draws)
        layers[:, telling, 0] += 3.0 * (2 * classes - 1)
        parts.append(Embedded(layers, F.one_hot(classes, 2).float(), torch.arange(num_clips)))
    return parts


@pytest.mark.parametrize("telling", [0, 2])
@pytest.mark.parametrize("multilabel", [False, True])
def test_the_layer_that_tells_gets_the_weight(telling, multilabel):
    own, given = probe(), Features(*parts_of(telling), multilabel)
    found = own.measure(given)
    assert found["layers_mAP" if multilabel else "layers_accuracy"] > 0.95
    assert found["best_layer"] == telling
    weights = own.by_class(given, ("a", "b"))["layer_weights"]
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights[str(telling)] > 0.9
    assert probe().measure(given) == found


def test_of_a_single_layer_it_is_the_linear_probe():
    train, test = parts_of(0, num_layers=1, dim=9)
    own = probe().fit(train.embedding, train.label, multilabel=False)
    with torch.no_grad():
        found = own(test.embedding)
    expected = LinearProbe(**options_of("linear_probe"))
    flat = [part._replace(embedding=part.embedding[:, 0]) for part in (train, test)]
    accuracy = expected.measure(Features(*flat, False))["probe_accuracy"]
    assert probe().measure(Features(train, test, False))["layers_accuracy"] == accuracy
    # The two standardise by n and n - 1, so that their penalties differ by a sixtieth.
    torch.testing.assert_close(found, logits_of(expected.head, flat[1].embedding).double(), rtol=0.05, atol=0.05)


def brief_sounds(count, draws):
    """(n, 2, 9, 4) frames: class 1 has one loud frame in direction 0, class 0 the opposite; their means are alike."""
    classes = torch.randint(2, (count,), generator=draws)
    frames = 0.2 * torch.randn(count, 2, 9, 4, generator=draws)
    place = torch.randint(9, (count,), generator=draws)
    clip = torch.arange(count)
    frames[clip, 1, place, 0] += 2.0
    frames[clip, 1, (place + 1 + 3 * classes) % 9, 1 + classes] += 2.0
    frames -= frames.mean(dim=2, keepdim=True)
    return Embedded(frames.half(), F.one_hot(classes, 2).float(), clip)


def test_prototypes_find_what_the_means_do_not_show():
    draws = torch.Generator().manual_seed(0)
    train, test = brief_sounds(120, draws), brief_sounds(120, draws)
    means = [part._replace(embedding=part.embedding.float().mean(dim=2)) for part in (train, test)]
    assert probe().measure(Features(*means, False))["layers_accuracy"] < 0.7
    own = probe(prototypes=8, steps=40)
    assert (own.form, probe().form) == ("frames", "layers")
    found = own.measure(Features(train, test, False))
    assert found["layers_accuracy"] > 0.95
    assert found["best_layer"] == 1
    assert probe(prototypes=8, steps=40).measure(Features(train, test, False)) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": -1}, "prototypes=-1: must not be negative; 0 is none"),
        ({"steps": 0}, "steps=0: must be 1 or more"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: must not be negative"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=f"evaluation.layers_probe.{message}"):
        probe(**options)
