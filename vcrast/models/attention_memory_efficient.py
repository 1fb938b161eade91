"""Softmax attention without the N x N matrix: xformers' or PyTorch's kernels."""

from __future__ import annotations

import functools
import importlib.util
import logging

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vcrast.config.registry import ATTENTIONS
from vcrast.models.attention import softmax_weights

log = logging.getLogger(__name__)

# Up to here bf16 on a CPU is 1.9 to 4.8 times as fast written out, forward and backward, at head widths 32 and 64
# (AVX-512 bf16, torch 2.14). In fp32 PyTorch's flash kernel is the faster one from 124 tokens on, and stays. Beyond 512
# little is gained and the written-out weights outgrow the rest of a block. See `benchmarks/attention_paths.py`.
WRITTEN_OUT_TOKENS = 512
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@ATTENTIONS.register("memory_efficient")
class MemoryEfficientAttention(nn.Module):
    """The numbers of `softmax` up to rounding, in memory linear in N (on a CPU in bf16 from 513 tokens on).

    On CUDA PyTorch's `math` path, which builds the N x N matrix, is forbidden: what cannot run fused is an error. A T4
    has the memory-efficient kernel only (flash and cuDNN need capability 8). On a CPU number type and N decide, so that
    a run can be repeated, between two ways: written out, or PyTorch's own choice, its flash kernel where it applies.

    Args:
        num_heads: H; unused, the shape tells it.
        head_dim: K; likewise.
        kernel: `sdpa` is PyTorch's; `xformers` is xformers' or an error; `auto` is xformers' on CUDA where its own
            compiled kernels load (without them it only calls PyTorch's), else PyTorch's or, on a CPU, what is faster.

    Raises:
        ValueError: no such `kernel`.
    """

    def __init__(self, *, num_heads: int, head_dim: int, kernel: str) -> None:
        super().__init__()
        if kernel not in ("auto", "sdpa", "xformers"):
            raise ValueError(f"attention.kernel={kernel}: choose from auto, sdpa, xformers")
        self.num_heads, self.head_dim, self.kernel = num_heads, head_dim, kernel

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, K).

        Raises:
            ValueError: no fused kernel takes these tensors on this device.
        """
        if self.use_xformers(q):
            return xformers_attention(q, k, v)
        if self.use_written_out(q):
            say_once(q.device.type, q.dtype, "written out where that is faster")
            return written_out_attention(q, k, v)
        if not q.is_cuda:
            say_once(q.device.type, q.dtype, "PyTorch's CPU attention")
            return scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(FUSED):
            try:
                mixed = scaled_dot_product_attention(q, k, v)
            except RuntimeError as error:
                if "No available kernel" not in str(error):
                    raise
                raise ValueError(no_kernel(q)) from error
            say_once("cuda", q.dtype, "PyTorch's fused attention (flash, cuDNN or memory-efficient)")
        return mixed

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, N, K) each -> (B, H, N, N), those that the kernels never write out; at least fp32."""
        return softmax_weights(q, k, q.shape[-1] ** -0.5)

    def kernel_name(self, q: Tensor) -> str:
        """What `vcrast doctor` shows for tensors like these; errors as in `use_xformers`."""
        if self.use_written_out(q):
            return "written out"
        return "xformers" if self.use_xformers(q) else "PyTorch scaled_dot_product"

    def use_written_out(self, q: Tensor) -> bool:
        """Whether this call multiplies and takes the softmax step by step: a function of device, type and N."""
        asked = self.kernel == "auto" and q.device.type == "cpu"
        return asked and q.dtype == torch.bfloat16 and q.shape[-2] <= WRITTEN_OUT_TOKENS

    def use_xformers(self, q: Tensor) -> bool:
        """Whether this call goes to xformers.

        Raises:
            ValueError: it was asked for and cannot run.
        """
        if self.kernel == "sdpa" or (self.kernel == "auto" and not q.is_cuda):
            return False
        missing = "xformers has no CPU kernels" if not q.is_cuda else xformers_missing()
        if self.kernel == "xformers" and missing:
            raise ValueError(f"attention.kernel=xformers: {missing}; set attention.kernel=sdpa")
        return not missing


def written_out_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, N, K) each -> (B, H, N, K); weights are kept in the inputs' type, half of what `softmax` keeps in bf16.

    The softmax itself adds up in fp32 whatever the type (PyTorch's CPU kernel).
    """
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def no_kernel(q: Tensor) -> str:
    """Why no fused kernel runs, and what to do."""
    name, capability = torch.cuda.get_device_name(q.device), torch.cuda.get_device_capability(q.device)
    return (
        f"attention=memory_efficient: no fused kernel for {q.dtype}, head width {q.shape[-1]} on {name} (capability "
        f"{capability[0]}.{capability[1]}); set precision=fp16 or bf16, a head width that is a multiple of 8, or "
        "attention=softmax"
    )


@functools.cache
def xformers_missing() -> str:
    """Why xformers' own kernels cannot be used; empty if they can. Looked up on first use, said once in the log."""
    if importlib.util.find_spec("xformers") is None:
        reason = "xformers is not installed"
    else:
        try:
            library = importlib.import_module("xformers._cpp_lib")
            error = library._cpp_library_load_exception
            has_kernels = getattr(library, "_has_cpp_library", error is None)
            reason = "" if has_kernels else f"its compiled kernels do not load ({error})"
        except Exception as broken:  # an optional package that fails to import is one that is missing
            reason = f"it does not import ({broken})"
    log.info(
        "attention=memory_efficient: %s", f"PyTorch's kernels, because {reason}" if reason else "xformers' kernels"
    )
    return reason


def xformers_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, N, K) each -> (B, H, N, K) by xformers, whose layout is (B, N, H, K)."""
    attend = importlib.import_module("xformers.ops").memory_efficient_attention
    return attend(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@functools.cache
def say_once(device: str, dtype: torch.dtype, what: str) -> None:
    """Log once which kernels run."""
    log.info("attention=memory_efficient on %s in %s: %s", device, str(dtype).removeprefix("torch."), what)
