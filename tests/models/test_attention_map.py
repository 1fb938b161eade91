"""Maps of attention: the papers' loops, gradients by hand, overlapping patches."""

import itertools

import pytest
import torch
from parts import make_ast
from shipped import shipped_options
from torch import nn

from vcrast.models.attention_map import METHODS, attended, pooled_shares, spread, token_map

CLASS = {"class_tokens": 1, "pool": "class"}
BACKENDS = {
    "softmax": {}, "memory_efficient": {}, "rfa": {}, "positive": {"features": "positive"},
    "causal": {"gate": "causal"}, "two_sided": {"gate": "two_sided", "learn_scale": False},
}  # fmt: skip


def attention(name):
    return shipped_options(
        f"attention/{'rfa' if name not in ('softmax', 'memory_efficient') else name}", **BACKENDS[name]
    )


def encoder_of(**options):
    """A float64 encoder whose weights are far from 0, so that attention is uneven, and two clips for it."""
    encoder = make_ast(**{"depth": 3, "num_frames": 23, **options}).double().eval()
    for weight in encoder.parameters():
        nn.init.normal_(weight, std=0.3)
    return encoder, torch.randn(2, 23, 16, dtype=torch.float64)


def first_class(encoder):
    direction = torch.randn(encoder.embed_dim, dtype=torch.float64)
    return lambda tokens: encoder.pool(tokens) @ direction


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forward_of_written_out_weights_is_the_ordinary_one(backend):
    encoder, fbank = encoder_of(attention=attention(backend), **CLASS)
    ordinary = encoder(fbank)
    with attended(encoder) as weights:
        found = encoder(fbank)
    torch.testing.assert_close(found.values, ordinary.values)
    torch.testing.assert_close(found.class_tokens, ordinary.class_tokens)
    num_tokens = 1 + encoder.num_tokens(23)
    assert [tuple(each.shape) for each in weights] == [(2, 2, num_tokens, num_tokens)] * 3
    if backend in ("softmax", "memory_efficient", "rfa", "positive"):
        torch.testing.assert_close(weights[0].sum(dim=-1), torch.ones(2, 2, num_tokens, dtype=torch.float64))
    with attended(encoder) as later:
        pass
    encoder(fbank)
    assert not later  # nothing is left behind in the encoder


@pytest.mark.parametrize("backend", ["softmax", "rfa"])
def test_gradients_of_weights_by_hand(backend):
    """Of one layer: out = A v, so the gradient of A is that of out times v, whatever follows."""
    encoder, fbank = encoder_of(attention=attention(backend), depth=1)
    target, kept = first_class(encoder), {}

    def keep(_, inputs, output):
        output.retain_grad()
        kept.update(v=inputs[2], out=output)

    hook = encoder.blocks[0].attn.mix.register_forward_hook(keep)
    target(encoder(fbank)).sum().backward()
    hook.remove()
    with attended(encoder) as weights:
        tokens = encoder(fbank)
    (gradient,) = torch.autograd.grad(target(tokens).sum(), weights)
    torch.testing.assert_close(gradient, torch.einsum("bhik,bhjk->bhij", kept["out"].grad, kept["v"]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [{}, CLASS, {"class_tokens": 2, "pool": "class"}, {"class_tokens": 1}])
def test_maps_equal_the_papers_loops(kind, method):
    encoder, fbank = encoder_of(**kind)
    target = first_class(encoder)
    with attended(encoder) as weights:
        tokens = encoder(fbank)
    gradients = torch.autograd.grad(target(tokens).sum(), [*weights, tokens.values], allow_unused=True)
    own, size = kind.get("class_tokens", 0), weights[0].shape[-1]
    read = range(own) if "pool" in kind else range(own, size)
    expected = torch.zeros(2, size, dtype=torch.float64)
    for clip in range(2):
        matrix = torch.eye(size, dtype=torch.float64)
        for layer, gradient in zip(weights, gradients, strict=False):
            step = torch.zeros(size, size, dtype=torch.float64)
            for i, j in itertools.product(range(size), repeat=2):
                for head in range(2):
                    weight = layer[clip, head, i, j].item()
                    if method == "relevance":
                        step[i, j] += max(0.0, gradient[clip, head, i, j].item() * weight) / 2
                    else:
                        step[i, j] += 0.5 * weight / 2
                if method == "rollout" and i == j:
                    step[i, j] += 0.5
            matrix = matrix + step @ matrix if method == "relevance" else step @ matrix
        for i, j in itertools.product(read, range(size)):
            alone = float(i == j) if method == "relevance" else 0.0
            expected[clip, j] += (matrix[i, j] - alone) / (1 if method == "relevance" else len(read))
        for j in range(own, size) if method == "relevance" and "pool" not in kind else ():
            expected[clip, j] += max(0.0, (tokens.values[clip, j - own] @ gradients[-1][clip, j - own]).item())
    found = token_map(encoder, fbank, target, method)
    assert found.shape == (2, *tokens.grid)
    torch.testing.assert_close(found.flatten(1), expected[:, own:])


def test_tokens_that_are_pooled_count_and_no_other():
    encoder, fbank = encoder_of(class_tokens=2, pool="class")
    shares = pooled_shares(encoder, encoder(fbank))
    assert shares.tolist()[0] == pytest.approx([0.5, 0.5] + [0.0] * encoder.num_tokens(23))


def test_overlapping_patches_share_their_pixels():
    encoder = make_ast(patch_stride=[3, 5], num_mel_bins=19)
    patches = torch.rand(2, *encoder.grid(18), dtype=torch.float64)
    found = spread(patches, encoder, 18)
    for clip, frame, mel in itertools.product(range(2), range(18), range(19)):
        here = [
            patches[clip, t, f].item()
            for t, f in itertools.product(*map(range, patches.shape[1:]))
            if 3 * t <= frame < 3 * t + 4 and 5 * f <= mel < 5 * f + 8
        ]
        assert found[clip, frame, mel].item() == pytest.approx(sum(here) / max(1, len(here)))
