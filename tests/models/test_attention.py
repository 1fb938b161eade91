import logging

import pytest
import torch
from shipped import shipped, shipped_options
from torch.nn.functional import scaled_dot_product_attention

from vcrast.config.registry import ATTENTIONS
from vcrast.models import attention_memory_efficient as efficient
from vcrast.models.attention import Attention, SoftmaxAttention
from vcrast.models.attention_memory_efficient import MemoryEfficientAttention

LINEAR = {"name": "real"}


def heads(num_tokens, dtype=torch.float64):
    torch.manual_seed(num_tokens)
    return [torch.randn(2, 3, num_tokens, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


def slow(q, k, v):
    out = torch.zeros_like(v)
    for b, h, n in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        weights = torch.exp((k[b, h] * q[b, h, n]).sum(dim=1) / 8**0.5)
        out[b, h, n] = (weights[:, None] * v[b, h]).sum(dim=0) / weights.sum()
    return out


@pytest.mark.parametrize("num_tokens", [1, 7, 65])
@pytest.mark.parametrize("backend", ["softmax", "memory_efficient", None])
def test_backends_equal_the_definition_with_gradients(num_tokens, backend):
    run = scaled_dot_product_attention
    if backend is not None:
        run = ATTENTIONS.build(shipped_options(f"attention/{backend}"), num_heads=3, head_dim=8)
    qkv = heads(num_tokens)
    fast, reference = run(*qkv), slow(*qkv)
    torch.testing.assert_close(fast, reference)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), qkv) for out in (fast, reference)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-7)


def test_softmax_is_fp32_for_half_inputs():
    q, k, v = (x.detach() for x in heads(33, torch.bfloat16))
    out = SoftmaxAttention(num_heads=3, head_dim=8)(q, k, v)
    exact = slow(q.double(), k.double(), v.double())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, atol=0.02, rtol=0.02)


def test_scale_before_product_keeps_fp16_finite():
    # 64 channels of 40 and 40: the raw logit 102,400 overflows fp16, the scaled one 12,800 does not.
    q = torch.full((1, 1, 2, 64), 40.0, dtype=torch.float16)
    assert SoftmaxAttention(num_heads=1, head_dim=64)(q, q, q).isfinite().all()


def test_heads_split_adjacent_channels():
    layer = Attention(embed_dim=12, num_heads=3, attention={"name": "softmax"}, linear=LINEAR)
    values = torch.arange(2 * 5 * 12.0).reshape(2, 5, 12)
    split = layer.split(values)
    assert split.shape == (2, 3, 5, 4)
    assert torch.equal(split[1, 2, 3], values[1, 3, 8:12])


def test_weights_fit_every_backend():
    torch.manual_seed(0)
    options = [shipped_options(f"attention/{name}") for name in ("softmax", "memory_efficient")]
    one, other = (Attention(embed_dim=16, num_heads=2, attention=x, linear=LINEAR) for x in options)
    other.load_state_dict(one.state_dict())
    tokens = torch.randn(2, 9, 16)
    torch.testing.assert_close(one(tokens), other(tokens))


def test_width_must_fit_heads():
    with pytest.raises(ValueError, match=r"embed_dim=10 is not a multiple of model\.num_heads=4"):
        Attention(embed_dim=10, num_heads=4, attention={"name": "softmax"}, linear=LINEAR)


@pytest.mark.parametrize("num_tokens", [1, 7, 124, 257, 512, 513])
def test_bf16_on_a_cpu_agrees_with_the_definition_whichever_way_it_goes(num_tokens):
    exact = [torch.randn(2, 3, num_tokens, 16, dtype=torch.float64).bfloat16().double() for _ in range(3)]
    found = [x.bfloat16().requires_grad_() for x in exact]
    exact = [x.requires_grad_() for x in exact]
    reference, gradient = scaled_dot_product_attention(*exact), torch.randn(2, 3, num_tokens, 16)
    mixed = MemoryEfficientAttention(num_heads=3, head_dim=16, kernel="auto")(*found)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.double(), reference, atol=0.02, rtol=0.02)
    expected = torch.autograd.grad(reference, exact, gradient.double())
    for a, b in zip(torch.autograd.grad(mixed, found, gradient.bfloat16()), expected, strict=True):
        assert (a.double() - b).norm() < 0.02 * b.norm() + 1e-6


@pytest.mark.parametrize(
    ("dtype", "num_tokens", "kernel", "name"),
    [
        (torch.bfloat16, 512, "auto", "written out"),
        (torch.bfloat16, 513, "auto", "PyTorch scaled_dot_product"),
        (torch.bfloat16, 64, "sdpa", "PyTorch scaled_dot_product"),
        (torch.float32, 64, "auto", "PyTorch scaled_dot_product"),
        (torch.float16, 64, "auto", "PyTorch scaled_dot_product"),
    ],
)
def test_the_way_on_a_cpu_follows_from_type_and_tokens(dtype, num_tokens, kernel, name):
    q = torch.zeros(1, 1, num_tokens, 8, dtype=dtype)
    assert MemoryEfficientAttention(num_heads=1, head_dim=8, kernel=kernel).kernel_name(q) == name


def test_fp32_on_a_cpu_is_pytorchs_to_the_bit():
    q, k, v = (torch.randn(2, 3, 40, 16) for _ in range(3))
    found = MemoryEfficientAttention(num_heads=3, head_dim=16, kernel="auto")(q, k, v)
    assert torch.equal(found, scaled_dot_product_attention(q, k, v))


def test_xformers_on_cpu_is_refused_not_ignored():
    with pytest.raises(ValueError, match="no CPU kernels"):
        MemoryEfficientAttention(**shipped("attention/memory_efficient", num_heads=3, head_dim=8, kernel="xformers"))(
            *heads(4)
        )
    with pytest.raises(ValueError, match="choose from auto, sdpa, xformers"):
        MemoryEfficientAttention(**shipped("attention/memory_efficient", num_heads=3, head_dim=8, kernel="flash"))


def test_missing_xformers_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(efficient.importlib.util, "find_spec", lambda name: None)
    efficient.xformers_missing.cache_clear()
    with caplog.at_level(logging.INFO):
        reasons = {efficient.xformers_missing() for _ in range(3)}
    efficient.xformers_missing.cache_clear()
    assert reasons == {"xformers is not installed"}
    assert len(caplog.records) == 1


def test_registered_by_name():
    assert ATTENTIONS.get("memory_efficient") is MemoryEfficientAttention


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_never_builds_the_square_matrix():
    run = MemoryEfficientAttention(
        **shipped("attention/memory_efficient", num_heads=3, head_dim=8, kernel="sdpa")
    ).cuda()
    q, k, v = (x.detach().cuda() for x in heads(33, torch.float16))
    torch.testing.assert_close(run(q, k, v).double(), slow(q.double(), k.double(), v.double()), atol=2e-3, rtol=2e-3)
    with pytest.raises(ValueError, match=r"no fused kernel for torch\.float64"):
        run(q.double(), k.double(), v.double())
