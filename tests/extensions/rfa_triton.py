"""Compare the fused kernels with PyTorch operations, for test_rfa_triton.py.

Prints one JSON line per case: sizes and, of each tensor, the largest difference over the largest value.
"""

import itertools
import json
import sys
from pathlib import Path

import torch

# Run as a script: the helpers of the tests lie one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shipped import shipped

from extensions.rfa.attention import RandomFeatureAttention

CASES = [(1, 16, 16), (7, 16, 64), (33, 32, 16), (257, 16, 16), (130, 64, 64)]


def compare(num_tokens, head_dim, num_features, *, normalize, centre_keys, device, dtype, sharp=False):
    torch.manual_seed(num_tokens)
    attention = RandomFeatureAttention(**shipped(
        "attention/rfa", num_heads=3, head_dim=head_dim, num_features=num_features, normalize=normalize,
        centre_keys=centre_keys, sigma=0.3 if sharp else 1.0 if normalize else 2 * head_dim**0.5,
    )).to(device)  # fmt: skip
    torch.nn.init.uniform_(attention.scale, 0.5, 1.5)
    # As the encoder hands them over: heads are cut from (B, N, D), so tokens are not adjacent in memory.
    qkv = [
        torch.randn(2, num_tokens, 3, head_dim, device=device, dtype=dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    ]
    if num_tokens > 1:  # whose gradients are 0, so that their rounding would be all
        qkv[0].data[0, 0, 0] = 0.0  # a vector without direction
    weights = torch.randn(2, 3, num_tokens, head_dim, device=device)
    results, clamped = [], []
    for implementation in ("plain", "triton"):
        attention.implementation = implementation
        out = attention(*qkv)
        assert out.dtype == dtype
        gradients = torch.autograd.grad((out.float() * weights).sum(), (*qkv, attention.scale))
        clamped.append(attention.num_clamped.item())
        results.append([x.double() for x in (out, *gradients)])
    # A single token's gradients of q and k are 0, and what is computed is rounding.
    smallest = 1.0 if num_tokens == 1 else 1e-6
    errors = {
        name: ((one - other).abs().max() / one.abs().max().clamp(min=smallest)).item()
        for name, one, other in zip(("out", "q", "k", "v", "scale"), *results, strict=True)
    }
    # Both calls count into the same number.
    return {"clamped": [clamped[0], clamped[1] - clamped[0]], "errors": errors}


if __name__ == "__main__":
    device, dtype = sys.argv[1], getattr(torch, sys.argv[2])
    # Interpreting takes minutes, and in half precision loads, stores and one cast differ: two sizes show those.
    for sizes in CASES if device == "cuda" or dtype == torch.float32 else CASES[1:3]:
        for normalize, centre_keys in itertools.product((True, False), repeat=2):
            found = compare(*sizes, normalize=normalize, centre_keys=centre_keys, device=device, dtype=dtype)
            print(json.dumps({"sizes": sizes, "sharp": False, "options": [normalize, centre_keys], **found}))
    if dtype == torch.float32:
        found = compare(257, 16, 16, normalize=True, centre_keys=False, device=device, dtype=dtype, sharp=True)
        print(json.dumps({"sizes": (257, 16, 16), "sharp": True, **found}))
