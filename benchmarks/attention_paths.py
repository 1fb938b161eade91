"""Compare attention on a CPU: written out, PyTorch's flash kernel, its math path.

python benchmarks/attention_paths.py [--tokens 32 124 ...] [--widths 64] [--clips 16] [--json FILE]

What `attention=memory_efficient` chooses by (`use_written_out`). One thread; times are those of this process alone, so
that other work on the machine counts little; the ways take turns, the best round counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import Table, header
from vcrast.models.attention_memory_efficient import MemoryEfficientAttention, written_out_attention

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COLUMNS = ("precision", "heads x width", "clips", "tokens", "written out", "flash", "math", "chosen")


def fused(kernel: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """PyTorch's attention by one of its ways."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel([kernel]):
            return scaled_dot_product_attention(q, k, v)

    return attend


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "written out": written_out_attention,
    "flash": fused(SDPBackend.FLASH_ATTENTION),
    "math": fused(SDPBackend.MATH),
}


def measure(
    clips: int, num_heads: int, num_tokens: int, width: int, dtype: torch.dtype, rounds: int
) -> dict[str, float]:
    """Milliseconds of forward and backward by each way."""
    qkv = [torch.randn(clips, num_tokens, num_heads, width).to(dtype).transpose(1, 2) for _ in range(4)]
    gradient, inputs = qkv.pop(), [x.requires_grad_() for x in qkv]
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, attend in WAYS.items():
            started = time.process_time()
            torch.autograd.grad(attend(*inputs), inputs, gradient)
            best[name] = min(best[name], 1e3 * (time.process_time() - started))
    return best


def main(argv: list[str] | None = None) -> int:
    """Print the header and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 64, 124, 256, 512, 1024])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 32], help="of a head")
    parser.add_argument("--heads", type=int, nargs="+", default=[3, 12])
    parser.add_argument("--clips", type=int, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there, each as it is done")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    lines = header(torch.device("cpu"), "fp32 and bf16", "forward and backward, ms of one core; best round")
    for text in lines:
        print(f"# {text}", flush=True)
    table = Table(COLUMNS, arguments.json, lines)
    sizes = [
        (c, h, k, n)
        for k in arguments.widths
        for h in arguments.heads
        for c in arguments.clips
        for n in arguments.tokens
    ]
    for precision, dtype in DTYPES.items():
        for clips, heads, width, tokens in sizes:
            found = measure(clips, heads, tokens, width, dtype, arguments.rounds)
            chosen = MemoryEfficientAttention(num_heads=heads, head_dim=width, kernel="auto").kernel_name(
                torch.empty(1, 1, tokens, width, dtype=dtype)
            )
            times = [f"{found[name]:.1f}" for name in WAYS]
            table.add([precision, f"{heads} x {width}", str(clips), str(tokens), *times, chosen])
    return 0


if __name__ == "__main__":
    sys.exit(main())
