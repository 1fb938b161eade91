"""Measure attention backends against the number of tokens: time, memory, error.

python benchmarks/attention.py [--tokens 256 1024 ...] [--features 64 256] [--heads 12] [--out FOLDER] [--small]

On CUDA every call holds 65,536 tokens, in clips of N; on a CPU one clip. Cases that would take too long, going by the
case before, are left out and named.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import Table, header, seconds_each
from extensions.rfa.attention import RandomFeatureAttention
from extensions.rfa.naive import exact_attention
from vcrast.config.compose import read_option
from vcrast.config.registry import ATTENTIONS
from vcrast.models.attention import SoftmaxAttention
from vcrast.models.block import Block
from vcrast.training.device import AUTOCAST, resolve_precision

WIDTH = 64
TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
TOKENS_PER_CALL = 65536
QUERIES = 64  # whose error is measured: softmax over all keys for these alone needs little memory
COLUMNS = ("backend", "tokens", "clips", "ms", "peak MiB", "error")
KINDS: dict[str, dict[str, Any]] = {
    "independent directions": {"orthogonal": False},
    "orthogonal": {"orthogonal": True},
    "orthogonal, keys not centred": {"centre_keys": False},
    "positive, orthogonal": {"features": "positive"},
}
# (temperature, queries and keys apart by this length of what all have in common, of 8 that each has of its own)
CASES = ((1.0, 0.0), (1.0, 8.0), (0.25, 0.0), (0.125, 0.0))


@dataclass(frozen=True)
class Row:
    """One measurement; `ms` None where it was left out."""

    backend: str
    tokens: int
    clips: int
    ms: float | None = None
    peak_mib: float | None = None
    error: float | None = None

    def cells(self) -> list[str]:
        """As text, in the order of COLUMNS."""
        numbers = [(self.ms, ".1f"), (self.peak_mib, ".1f"), (self.error, ".2g")]
        shown = ["-" if value is None else format(value, form) for value, form in numbers]
        return [self.backend, str(self.tokens), str(self.clips), *shown]


class PeakMemory(TorchDispatchMode):
    """Largest number of bytes of tensors alive at once among those that operations made inside; any device."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.count(each.untyped_storage())
        return made

    def count(self, storage: Any) -> None:
        """Add a storage that was not there, until it is freed."""
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        """A storage was freed."""
        self.known.discard(key)
        self.now -= size


def backends(num_heads: int, features: list[int], device: torch.device) -> dict[str, torch.nn.Module]:
    """Every backend that this device can run, by the name in the table."""
    sizes: dict[str, Any] = {"num_heads": num_heads, "head_dim": WIDTH}
    found: dict[str, torch.nn.Module] = {
        "softmax": SoftmaxAttention(**sizes),
        "memory_efficient": ATTENTIONS.build(read_option("attention", "memory_efficient"), **sizes),
    }
    for number in features:
        options = {**read_option("attention", "rfa"), "num_features": number}
        found[f"rfa {number}"] = ATTENTIONS.build({**options, "implementation": "plain"}, **sizes)
        if device.type == "cuda" and number <= WIDTH:
            found[f"rfa {number} triton"] = ATTENTIONS.build({**options, "implementation": "triton"}, **sizes)
    return {name: backend.to(device) for name, backend in found.items()}


def heads(clips: int, num_heads: int, num_tokens: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v as an encoder hands them over: (B, H, N, K) cut from (B, N, H * K)."""
    shape = (clips, num_tokens, num_heads, WIDTH)
    generator = torch.Generator().manual_seed(num_tokens)
    drawn = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3)]
    return [each.transpose(1, 2).requires_grad_() for each in drawn]


def measure(
    name: str, backend: torch.nn.Module, clips: int, num_tokens: int, num_heads: int, device: torch.device,
    dtype: torch.dtype,
) -> Row:  # fmt: skip
    """Time, memory and error of one backend at one length."""
    qkv = heads(clips, num_heads, num_tokens, device, dtype)
    gradient = torch.randn_like(qkv[2])

    def both(_: int = 0) -> None:
        torch.autograd.grad(backend(*qkv), qkv, gradient)

    first = seconds_each(both, times=1, device=device)
    times = max(1, min(20, int(2.0 / max(first, 1e-3))))
    ms = 1e3 * min(seconds_each(both, times=times, device=device) for _ in range(3 if first < 2 else 1))
    peak = peak_bytes(both, device) / 2**20
    return Row(name, num_tokens, clips, ms, peak, error(backend, qkv))


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Bytes that `work` needs at its worst, beside what was there."""
    if device.type != "cuda":
        with PeakMemory() as memory:
            work()
        return memory.peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@torch.no_grad()
def error(backend: torch.nn.Module, qkv: list[Tensor]) -> float:
    """Median over queries of |result - exact| / |exact|; exact is the softmax that the backend stands for, in fp64."""
    q, k, v = (x[:1].double() for x in qkv)
    q = q[:, :, :QUERIES]
    if isinstance(backend, RandomFeatureAttention):
        exact = exact_attention(q, k, v, sigma=backend.sigma)
    else:
        exact = (q @ k.transpose(-2, -1) / WIDTH**0.5).softmax(dim=-1) @ v
    found = backend(*(x[:1] for x in qkv))[:, :, :QUERIES].double()
    return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).median())


def rows(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[Row]:
    """The table, backend by backend; a length is left out when the one before foretells more than the limit."""
    for name, backend in backends(arguments.heads, arguments.features, device).items():
        expected = 0.0
        power = 1.0 if name.startswith("rfa") else 2.0
        last = None
        for num_tokens in arguments.tokens:
            clips = max(1, TOKENS_PER_CALL // num_tokens) if device.type == "cuda" else 1
            if last is not None and last.ms is not None:
                expected = last.ms * clips / last.clips * (num_tokens / last.tokens) ** power
                expected_mib = (last.peak_mib or 0.0) * clips / last.clips * (num_tokens / last.tokens) ** power
                if expected > 1e3 * arguments.limit_s or (name == "softmax" and expected_mib > arguments.limit_mib):
                    yield Row(name, num_tokens, clips)
                    continue
            last = measure(name, backend, clips, num_tokens, arguments.heads, device, dtype)
            yield last


@torch.no_grad()
def errors_by_features(counts: list[int], num_heads: int = 24, num_tokens: int = 256) -> dict[str, list[float]]:
    """Error to softmax of unit-norm q and k against R, by kind of features, temperature, and where q and k lie."""
    q, k, v = heads(1, num_heads, num_tokens, torch.device("cpu"), torch.float32)
    common = torch.full((WIDTH,), WIDTH**-0.5)
    found: dict[str, list[float]] = {}
    for variance, apart in CASES:
        qkv = [q - apart * common, k + apart * common, v]
        for kind, options in KINDS.items():
            line = found.setdefault(f"{kind}, temperature {variance:g}{', q and k apart' if apart else ''}", [])
            for count in counts:
                torch.manual_seed(count)
                chosen = {**read_option("attention", "rfa"), "num_features": count, "sigma": variance**0.5, **options}
                line.append(error(ATTENTIONS.build(chosen, num_heads=num_heads, head_dim=WIDTH), qkv))
    return found


def block_times(arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[list[str]]:
    """Forward + backward of a whole transformer block: what a choice of backend is worth to a training step."""
    width = arguments.heads * WIDTH
    sizes: dict[str, Any] = {"embed_dim": width, "num_heads": arguments.heads, "mlp_ratio": 4.0, "drop_path": 0.0}
    choices: dict[str, dict[str, Any]] = {
        "memory_efficient": read_option("attention", "memory_efficient"),
        "rfa 64": {**read_option("attention", "rfa"), "num_features": 64},
    }
    for name, attention in choices.items():
        block = Block(**sizes, attention=attention, linear={"name": "real"}).to(device)
        cells = [name]
        for num_tokens in arguments.block_tokens:
            clips = max(1, TOKENS_PER_CALL // num_tokens) if device.type == "cuda" else 1
            tokens = torch.randn(clips, num_tokens, width, device=device, requires_grad=True)

            def both(_: int, block: Block = block, tokens: Tensor = tokens) -> None:
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    mixed = block(tokens)
                mixed.backward(torch.ones_like(mixed))

            seconds_each(both, times=1, device=device)
            cells.append(f"{1e3 * min(seconds_each(both, times=2, device=device) for _ in range(3)):.0f}")
        yield cells


def table(columns: tuple[str, ...], lines: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (list(columns), ["---"] * len(columns), *lines))


def plot(path: Path, measured: list[Row], counts: list[int], errors: dict[str, list[float]]) -> None:
    """Time against tokens, and error against features."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in dict.fromkeys(row.backend for row in measured):
        done = [row for row in measured if row.backend == name and row.ms is not None]
        left.loglog([row.tokens for row in done], [row.ms / row.clips for row in done if row.ms], "o-", label=name)
    left.set(xlabel="tokens of a clip", ylabel="forward + backward, ms a clip")
    for number, (name, line) in enumerate(errors.items()):
        style = ("-", "-.", "--", ":")[number // len(KINDS)]
        right.loglog(counts, line, style, marker="o", markersize=3, color=f"C{number % len(KINDS)}", label=name)
    right.set(xlabel="random directions a head", ylabel="median error relative to softmax")
    left.legend(fontsize=8)
    right.legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--features", type=int, nargs="+", default=[64, 256], help="random directions a head")
    parser.add_argument("--block-tokens", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--limit-s", type=float, default=10.0, help="longest call that is tried")
    parser.add_argument("--limit-mib", type=float, default=4096.0, help="most memory that softmax may take")
    parser.add_argument("--out", type=Path, default=Path("outputs/attention"), help="folder of attention.md and .png")
    parser.add_argument("--rows-only", action="store_true", help="no errors by features, no whole blocks, no plot")
    parser.add_argument("--small", action="store_true", help="seconds on one core: shows that it works")
    arguments = parser.parse_args(argv)
    if arguments.small:
        arguments.tokens, arguments.features, arguments.heads = [64, 128], [16], 2
        arguments.block_tokens = [64]
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Measure, print and write."""
    arguments = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(arguments.precision, device)
    lines = header(device, precision, f"{arguments.heads} heads of {WIDTH}; error: median, to the softmax stood for")
    print("\n".join(lines), flush=True)
    measured = []
    shown = Table(COLUMNS, arguments.out / "attention.json", lines)
    dtype = AUTOCAST[precision] or torch.float32
    for row in rows(arguments, device, dtype):
        shown.add(row.cells())
        measured.append(row)
    if arguments.rows_only:
        return 0
    counts = [16, 32] if arguments.small else [16, 64, 256, 1024]
    errors = errors_by_features(counts, *((4, 64) if arguments.small else ()))
    lengths = tuple(f"N = {number}" for number in arguments.block_tokens)
    blocks = table(("whole block, ms", *lengths), list(block_times(arguments, device, dtype)))
    error_lines = [[name, *(f"{value:.2g}" for value in line)] for name, line in errors.items()]
    text = [
        *(f"{line}  " for line in lines), "", table(COLUMNS, [row.cells() for row in measured]), "", blocks, "",
        table(("error of", *(f"R = {count}" for count in counts)), error_lines), "",
    ]  # fmt: skip
    plot(arguments.out / "attention.png", measured, counts, errors)
    (arguments.out / "attention.md").write_text("\n".join(text), encoding="utf-8")
    print(f"written: {arguments.out / 'attention.md'}, {arguments.out / 'attention.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
