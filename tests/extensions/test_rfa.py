"""Compare the linear form of RFA with the quadratic one; precision, options, resuming."""

import copy
import itertools

import pytest
import torch
from parts import make_ast
from shipped import shipped, shipped_options
from torch import nn

from extensions.rfa.attention import RandomFeatureAttention
from extensions.rfa.features import draw_directions
from extensions.rfa.gate import CHUNK
from extensions.rfa.naive import attend, exact_attention, fourier_kernel, gate_weights, positive_kernel
from vcrast.config.registry import ATTENTIONS

RFA = shipped_options("attention/rfa")
KERNELS = {"fourier": fourier_kernel, "positive": positive_kernel}


def backend(dtype=torch.float64, **options):
    torch.manual_seed(3)
    attention = RandomFeatureAttention(
        **shipped("attention/rfa", num_heads=3, head_dim=8, **{"num_features": 20, **options})
    ).to(dtype)
    for weight in attention.parameters():  # away from the start, where a wrong gradient could hide
        nn.init.uniform_(weight, 0.5, 1.5)
    return attention


def heads(num_tokens, dtype=torch.float64, batch=2):
    torch.manual_seed(num_tokens)
    return [torch.randn(batch, 3, num_tokens, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


def quadratic(attention, q, k, v):
    """The same attention with every matrix written out, from naive.py and the module's weights alone."""
    x, y = q, k
    if attention.normalize:
        x, y = (z / z.norm(dim=-1, keepdim=True) for z in (q, k))
    if attention.centre_keys:
        y = y - y.detach().mean(dim=2, keepdim=True)
    x, y = (z * attention.scale.view(3, 1, 8) / attention.sigma for z in (x, y))
    kernel = KERNELS[attention.features](x, y, attention.directions.values)
    if attention.centre_keys:  # from the Gaussian of x - y to exp(x y), but for factors that cancel
        kernel = kernel * ((y * y).sum(dim=-1) / 2).exp().unsqueeze(2)
    if attention.gate != "none":
        raw = (k * attention.gate_weight.view(3, 1, 8)).sum(dim=-1) + attention.gate_bias[:, None]
        kernel = kernel * gate_weights(1 / (1 + (-raw).exp()), two_sided=attention.gate == "two_sided")
    return attend(kernel, v)


def assert_same_with_gradients(attention, qkv, **tolerance):
    fast, slow = attention(*qkv), quadratic(attention, *qkv)
    torch.testing.assert_close(fast, slow, **tolerance)
    wanted = [*qkv, *attention.parameters()]
    weights = torch.randn_like(fast)  # a plain sum would hide a gradient that adds up to 0 over the tokens
    found, expected = (torch.autograd.grad((out * weights).sum(), wanted) for out in (fast, slow))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("num_tokens", [1, 7, 257])
@pytest.mark.parametrize("features", ["fourier", "positive"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("centre_keys", [True, False])
def test_linear_equals_quadratic(num_tokens, features, normalize, centre_keys):
    attention = backend(
        features=features,
        normalize=normalize,
        sigma=1.2 if normalize else 3.0,
        num_features=40,
        centre_keys=centre_keys,
    )
    assert_same_with_gradients(attention, heads(num_tokens), atol=1e-9, rtol=1e-7)
    assert attention.num_clamped == 0


@pytest.mark.parametrize("num_tokens", [1, 7, 33])
@pytest.mark.parametrize("features", ["fourier", "positive"])
@pytest.mark.parametrize("gate", ["causal", "two_sided"])
def test_gated_sums_equal_explicit_decay_weights(num_tokens, features, gate, monkeypatch):
    monkeypatch.setattr("extensions.rfa.gate.CHUNK", 8)  # so that few tokens make several chunks, the last one short
    attention = backend(features=features, gate=gate)
    nn.init.uniform_(attention.gate_bias, -1.0, 1.0)
    assert_same_with_gradients(attention, heads(num_tokens, batch=1), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("gate", ["causal", "two_sided"])
def test_the_chunk_length_does_not_matter(gate, monkeypatch):
    attention, qkv = backend(gate=gate), heads(2 * CHUNK + 1)
    whole = attention(*qkv)
    monkeypatch.setattr("extensions.rfa.gate.CHUNK", 50)
    torch.testing.assert_close(attention(*qkv), whole)


def test_a_causal_gate_sees_no_later_token_and_a_two_sided_one_no_direction():
    causal, two_sided, (q, k, v) = backend(gate="causal"), backend(gate="two_sided"), heads(21)
    changed = [torch.cat([x[:, :, :10], torch.randn_like(x[:, :, 10:])], dim=2) for x in (q, k, v)]
    torch.testing.assert_close(causal(*changed)[:, :, :10], causal(q, k, v)[:, :, :10])
    assert (two_sided(*changed)[:, :, :10] - two_sided(q, k, v)[:, :, :10]).abs().max() > 1e-3
    turned = two_sided(*(x.flip(2) for x in (q, k, v)))
    torch.testing.assert_close(turned.flip(2), two_sided(q, k, v))
    assert (causal(*(x.flip(2) for x in (q, k, v))).flip(2) - causal(q, k, v)).abs().max() > 1e-3


def test_a_wide_open_gate_in_both_directions_is_no_gate():
    # With g -> 1 every token weighs all alike: 1 - g cancels.
    ungated, gated, qkv = backend(), backend(gate="two_sided"), heads(15)
    nn.init.zeros_(gated.gate_weight)
    nn.init.constant_(gated.gate_bias, 25.0)
    torch.testing.assert_close(gated(*qkv), ungated(*qkv), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("gate", ["none", "causal", "two_sided"])
@pytest.mark.parametrize("features", ["fourier", "positive"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_and_close_to_fp32(dtype, features, gate):
    # Of 20,000 tokens: a sum of features in fp16 would stall long before.
    attention = RandomFeatureAttention(
        **shipped("attention/rfa", num_heads=3, head_dim=8, features=features, gate=gate)
    )
    qkv = [x.detach() for x in heads(20_000, torch.float32, batch=1)]
    half = [x.to(dtype).requires_grad_() for x in qkv]
    with torch.autocast("cpu", dtype=dtype):
        out = attention(*half)
    assert out.dtype == dtype
    exact = attention(*(x.detach().float() for x in half))
    size = exact.abs().max().item()
    torch.testing.assert_close(out.float(), exact, atol=2 * torch.finfo(dtype).eps * size, rtol=torch.finfo(dtype).eps)
    out.float().square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.dtype == dtype for x in half)


def test_a_denominator_near_zero_is_clamped_with_its_sign_and_counted():
    attention = RandomFeatureAttention(**shipped("attention/rfa", num_heads=1, head_dim=2, learn_scale=False))
    for value, expected in ((3e-4, 1e-3), (-3e-4, -1e-3), (0.0, 1e-3), (0.5, 0.5), (-0.5, -0.5)):
        sums = torch.tensor([[[[2.0, value]]]], requires_grad=True)
        out = attention.divide(sums, torch.ones(1, 1, 1, 1))
        assert out.item() == pytest.approx(2.0 / expected)
        out.sum().backward()
        assert sums.grad.isfinite().all()
    assert attention.num_clamped == 3
    attention.eval().divide(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 1))
    assert attention.num_clamped == 3


def apart(num_tokens=33, dtype=torch.float64):
    """Queries on one side of the origin and keys on the other, as trained ones are."""
    q, k, v = (x.detach() for x in heads(num_tokens, dtype))
    return q - 1.5, k + 1.5, v


def test_centred_keys_are_the_same_attention_estimated_better():
    q, k, v = apart()
    exact = exact_attention(q, k, v)

    def error(**options):
        attention = RandomFeatureAttention(**shipped("attention/rfa", num_heads=3, head_dim=8, **options)).double()
        return ((attention(q, k, v) - exact).norm(dim=-1) / exact.norm(dim=-1)).median().item(), attention.num_clamped

    (centred, clamped), (plain, _) = error(), error(centre_keys=False)
    assert clamped == 0
    assert centred < plain / 4
    assert error(num_features=30_000)[0] < 0.01
    # Without unit norm as well, where the temperature is that of softmax attention.
    many = RandomFeatureAttention(
        **shipped("attention/rfa", num_heads=3, head_dim=8, num_features=30_000, normalize=False, sigma=8**0.25)
    ).double()
    q, k = q / 2, k / 2
    softmax = (q @ k.transpose(-2, -1) / 8**0.5).softmax(dim=-1) @ v
    torch.testing.assert_close(many(q, k, v), softmax, atol=0.05, rtol=0.05)


def test_a_common_shift_of_the_keys_changes_nothing():
    q, k, v = apart()
    attention = backend(normalize=False, sigma=3.0)
    torch.testing.assert_close(attention(q, k + torch.randn(8, dtype=torch.float64), v), attention(q, k, v))
    plain = backend(normalize=False, sigma=3.0, centre_keys=False)
    assert (plain(q, k + 1.0, v) - plain(q, k, v)).abs().max() > 0.01


def test_denominators_of_centred_keys_stay_away_from_zero():
    # Their mean of exp(x y) is at least 1 (Jensen), so the denominator is at least exp(-1/2) over the mean weight.
    q, k, v = apart(257)
    attention = RandomFeatureAttention(**shipped("attention/rfa", num_heads=3, head_dim=8, num_features=512)).double()
    seen = []
    divide = attention.divide
    attention.divide = lambda sums, total: seen.append(sums[..., -1]) or divide(sums, total)
    attention(q, k, v)
    y = k / k.norm(dim=-1, keepdim=True)
    y = y - y.mean(dim=2, keepdim=True)
    least = (-0.5 - (y.square().sum(dim=-1) / 2).exp().mean(dim=-1).log()).exp()
    assert (seen[0] > 0.8 * least.unsqueeze(-1)).all()


def test_positive_features_and_causal_gates_keep_their_keys():
    assert not RandomFeatureAttention(
        **shipped("attention/rfa", num_heads=3, head_dim=8, features="positive")
    ).centre_keys
    assert not RandomFeatureAttention(**shipped("attention/rfa", num_heads=3, head_dim=8, gate="causal")).centre_keys
    assert RandomFeatureAttention(**shipped("attention/rfa", num_heads=3, head_dim=8, gate="two_sided")).centre_keys


def test_zero_vectors_have_bounded_gradients():
    attention, (q, k, v) = backend(torch.float32), heads(5, torch.float32)
    q, k = torch.zeros_like(q, requires_grad=True), torch.zeros_like(k, requires_grad=True)
    attention(q, k, v).square().sum().backward()
    assert q.grad.isfinite().all()
    assert q.grad.abs().max() < 1e4


def test_every_layer_and_head_has_its_own_directions_and_the_other_weights_stay():
    encoders = []
    for attention in (RFA, RFA, {"name": "softmax"}, {**RFA, "seed": 1}):
        torch.manual_seed(5)
        encoders.append(tiny(attention))
    one, again, softmax, other = encoders
    drawn = [block.attn.mix.directions.values for block in one.blocks]
    flat = torch.cat(drawn)
    assert len(torch.unique(flat[:, 0, 0])) == len(flat) == 4  # two layers of two heads
    for name, value in one.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    for name, value in softmax.state_dict().items():
        assert torch.equal(value, one.state_dict()[name]), name
    assert not torch.equal(other.blocks[0].attn.mix.directions.values, drawn[0])


def tiny(attention):
    return make_ast(embed_dim=32, attention=attention)


@pytest.mark.parametrize("masked", ["drop", "mask"])
def test_dropped_and_masked_tokens(masked):
    encoder = tiny(RFA)
    encoder.enable_mask_token()
    fbank, keep = torch.randn(2, 18, 16), torch.tensor([[0, 2, 5], [1, 2, 7]])
    chosen = keep
    if masked == "mask":
        chosen = torch.ones(2, encoder.num_tokens(18), dtype=torch.bool).scatter_(1, keep, False)
    name = "keep" if masked == "drop" else "mask"
    tokens = encoder(fbank, **{name: chosen}).values
    assert tokens.shape == ((2, 3, 32) if masked == "drop" else (2, encoder.num_tokens(18), 32))
    alone = encoder(fbank[1:], **{name: chosen[1:]}).values
    torch.testing.assert_close(tokens[1:], alone, atol=1e-5, rtol=1e-4)


def step(attention, optimizer, qkv):
    attention(*qkv).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_redraws_are_a_function_of_seed_and_count_and_survive_a_resume():
    qkv = [x.detach() for x in heads(6, torch.float32)]
    attention = backend(torch.float32, redraw=3)
    optimizer = torch.optim.SGD(attention.parameters(), lr=1e-3)
    seen, saved = [], None
    for number in range(1, 8):
        attention(*qkv)  # micro-batches and views: forwards do not count
        step(attention, optimizer, qkv)
        seen.append(attention.directions.values.clone())
        if number == 4:
            saved = copy.deepcopy(attention.state_dict())
    changes = [not torch.equal(one, other) for one, other in itertools.pairwise(seen)]
    assert changes == [False, True, False, False, True, False]
    assert torch.equal(seen[5], attention.directions.draw(int(attention.directions.key), 2))
    resumed = RandomFeatureAttention(**shipped("attention/rfa", num_heads=3, head_dim=8, num_features=20, redraw=3))
    step(resumed, torch.optim.SGD(resumed.parameters(), lr=1e-3), qkv)  # what the host remembers must be forgotten
    resumed.load_state_dict(saved)
    optimizer = torch.optim.SGD(resumed.parameters(), lr=1e-3)
    for _ in range(3):
        step(resumed, optimizer, qkv)
    for name, value in attention.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_neither_evaluation_nor_another_optimiser_redraws():
    qkv = [x.detach() for x in heads(6, torch.float32)]
    attention = backend(torch.float32, redraw=1)
    before = attention.directions.values.clone()
    attention.eval()
    attention(*qkv)
    with torch.no_grad():
        attention.train()(*qkv)
    probe = nn.Linear(2, 2)
    probe(torch.ones(2)).sum().backward()
    torch.optim.SGD(probe.parameters(), lr=0.1).step()
    assert torch.equal(attention.directions.values, before)
    step(attention, torch.optim.SGD(attention.parameters(), lr=0.1), qkv)
    assert not torch.equal(attention.directions.values, before)


def test_fixed_directions_stay_and_no_learned_scale_means_no_parameter():
    qkv = heads(6, torch.float32)
    attention = RandomFeatureAttention(**shipped("attention/rfa", num_heads=3, head_dim=8, learn_scale=False))
    assert list(attention.parameters()) == []
    before = attention.directions.values.clone()
    step(attention, torch.optim.SGD(qkv, lr=0.1), qkv)
    assert torch.equal(attention.directions.values, before)


@pytest.mark.parametrize(("num_features", "head_dim"), [(8, 8), (20, 8), (5, 8), (64, 16)])
def test_orthogonal_blocks_and_lengths(num_features, head_dim):
    draw = draw_directions(
        400, num_features, head_dim, orthogonal=True, generator=torch.Generator().manual_seed(0)
    ).double()
    assert draw.shape == (400, num_features, head_dim)
    for start in range(0, num_features, head_dim):
        block = draw[:, start : start + head_dim]
        gram = block @ block.transpose(1, 2)
        assert (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4
    # Length chi(head_dim), whatever the number of features: the mean square is head_dim, and no direction is preferred.
    squares = draw.square().sum(dim=2)
    assert squares.mean().item() == pytest.approx(head_dim, rel=0.05)
    assert squares.var().item() == pytest.approx(2 * head_dim, rel=0.25)
    assert draw.mean().abs() < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "relu"}, "attention.features=relu: choose from fourier, positive"),
        ({"gate": "both"}, "attention.gate=both: choose from none, causal, two_sided"),
        ({"implementation": "cuda"}, "choose from auto, plain, triton"),
        ({"num_features": 0}, "num_features=0: must be 1 or more"),
        ({"sigma": 0.0}, "sigma=0.0: must be above 0"),
        ({"redraw": "often"}, "redraw=often: must be fixed, or"),
        ({"redraw": 0}, "redraw=0: must be fixed, or"),
        ({"num_feature": 3}, "did you mean num_features"),
    ],
)
def test_bad_options_say_what_is_right(options, message):
    with pytest.raises(ValueError, match=message):
        ATTENTIONS.build({**RFA, **options}, num_heads=3, head_dim=8)


@pytest.mark.parametrize("options", [{}, {"features": "positive"}, {"gate": "causal"}])
def test_the_kernel_on_request_is_refused_where_it_cannot_run(options):
    attention = RandomFeatureAttention(
        **shipped("attention/rfa", num_heads=3, head_dim=16, implementation="triton", **options)
    )
    q = torch.randn(1, 3, 4, 16)
    with pytest.raises(ValueError, match=r"implementation=triton: .*; set attention\.implementation=plain"):
        attention(q, q, q)
