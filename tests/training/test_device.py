import os

import pytest
import torch

from vcrast.training.device import cpu_computes, deterministic, resolve_precision


@pytest.mark.parametrize(
    ("text", "bf16", "fp16", "auto"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 sse", True, False, "bf16"),
        ("flags : fpu avx2", False, False, "fp32"),
        ("flags : fpu amx_bf16 avx512_fp16 amx_fp16", True, True, "bf16"),
        ("Features : fp asimd asimdhp bf16", True, True, "fp32"),  # Arm
        ("no such line", True, True, "fp32"),
    ],
)
def test_instructions_for_16_bit_numbers(tmp_path, text, bf16, fp16, auto):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{text}\nbugs : none\n")
    assert cpu_computes("bf16", tmp_path / "cpuinfo") == bf16
    assert cpu_computes("fp16", tmp_path / "cpuinfo") == fp16
    assert cpu_computes("fp32", tmp_path / "cpuinfo")
    assert cpu_computes("bf16", tmp_path / "missing")
    assert resolve_precision("auto", "cpu", tmp_path / "cpuinfo") == auto
    assert resolve_precision("auto", "cpu", tmp_path / "missing") == "fp32"
    assert resolve_precision("fp16", "cpu", tmp_path / "cpuinfo") == "fp16"


def test_resolve_precision(monkeypatch):
    with pytest.raises(ValueError, match="choose from auto, bf16, fp16, fp32"):
        resolve_precision("half", "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert resolve_precision("auto", "cuda") == "fp16"
    with pytest.raises(ValueError, match="Tesla T4 only emulates it"):
        resolve_precision("bf16", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert resolve_precision("auto", "cuda") == "bf16"


def test_only_deterministic_operations_run_where_it_is_asked(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    values, places = torch.ones(2), torch.tensor([0, 0])
    with deterministic(False):
        torch.zeros(3).put_(places, values)
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    said = r"^run\.deterministic=true: put_ does not have a deterministic .*; set it to false$"
    with pytest.raises(ValueError, match=said), deterministic(True):
        torch.zeros(3).put_(places, values)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match=r"^another$"), deterministic(True):
        raise RuntimeError("another")
