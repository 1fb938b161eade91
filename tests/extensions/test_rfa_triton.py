"""Run the fused kernels in Triton's interpreter, and compile them for real GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shipped import shipped

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("triton")


def compare(device, dtype, **environment):
    """Errors of every case; a process of its own, because Triton chooses its interpreter when it is imported."""
    command = [sys.executable, "tests/extensions/rfa_triton.py", device, dtype]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


# Of half precision, the features and sums are as exact (fp32, TF32 on a GPU); inputs and results are rounded.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.01), ("float16", 2e-3)])
def test_interpreted_kernels_equal_pytorch_forward_and_backward(dtype, tolerance):
    cases = compare("cpu", dtype, TRITON_INTERPRET="1")
    mild = [case for case in cases if not case["sharp"]]
    assert len(mild) == (20 if dtype == "float32" else 8)
    for case in mild:
        assert max(case["errors"].values()) < tolerance, case
    if dtype == "float32":
        # Sharp: 1 / denominator enlarges every rounding, and some denominators are clamped, which stops their gradient.
        sharp = cases[-1]
        assert sharp["clamped"][0] == sharp["clamped"][1] > 0
        assert max(sharp["errors"].values()) < 1e-3, sharp


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 5e-3)])
def test_compiled_kernels_equal_pytorch_forward_and_backward(dtype, tolerance):
    for case in compare("cuda", dtype):
        assert max(case["errors"].values()) < tolerance, case


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from extensions.rfa import fused, kernel

HALF = {"q_ptr", "k_ptr", "v_ptr", "out_ptr", "grad_ptr", "dq_ptr", "dk_ptr", "dv_ptr"}
CONSTANTS = {"R": 64, "K": 64, "BLOCK": fused.BLOCK, "SHORTEST": 1e-3, "SMALLEST": fused.SMALLEST, "NORMALIZE": True,
             "CENTRE": True, "PRECISION": "tf32"}
for function in (kernel.sum_keys, kernel.read_out, kernel.back_queries, kernel.back_keys):
    types = {}
    for name in function.arg_names:
        pointer = "*bf16" if name in HALF else "*fp32"
        other = "fp32" if name == "factor" else "i32"
        types[name] = "constexpr" if name in CONSTANTS else pointer if name.endswith("_ptr") else other
    constants = {name: value for name, value in CONSTANTS.items() if name in types}
    made = compile(ASTSource(function, types, constants), target=GPUTarget("cuda", CAPABILITY, 32),
                   options={"num_warps": 8, "num_stages": 1})
    print(len(made.asm["cubin"]) > 0, made.metadata.shared)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_to_machine_code_without_a_gpu(capability, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(COMPILE.replace("CAPABILITY", str(capability)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["True"] * 4
    assert max(int(line[1]) for line in lines) <= 99 * 1024  # what a program may use on GPUs of capability 8.6 and 8.9


@pytest.mark.gpu
def test_auto_takes_the_kernel_on_a_gpu():
    from extensions.rfa.attention import RandomFeatureAttention

    attention = RandomFeatureAttention(**shipped("attention/rfa", num_heads=2, head_dim=64)).cuda()
    q = torch.randn(1, 2, 9, 64, device="cuda", dtype=torch.float16)
    assert attention.use_triton(q) == (torch.cuda.get_device_capability() >= (8, 0))
