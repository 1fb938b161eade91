import pytest
import torch

from benchmarks.linear import TYPES, Case, encoder_weights, main

CPU = torch.device("cpu")


def test_the_small_benchmark_prints_both_tables(tmp_path, capsys):
    assert main(["--small", "--out", str(tmp_path / "linear.md")]) == 0
    text = (tmp_path / "linear.md").read_text()
    assert text.strip() in capsys.readouterr().out
    for word in ("hardware:", "versions:", "commit:", "| 64 -> 256 | real | 16,640 | 1.000 |"):
        assert word in text
    assert "| 64 -> 256 | quaternion | 4,352 | 0.262 |" in text  # 4 * 16 * 64 + 256
    assert "| tiny | 5.39 | 1.41 (0.26) |" in text


@pytest.mark.parametrize("name", TYPES)
def test_operations_by_hand(name):
    # Three products of 32 x 64 x 256; phm also builds its matrix: n² entries from n matrices, forward and twice back.
    found = Case(TYPES[name], 64, 32, CPU, "fp32").flops()
    building = 3 * 2 * TYPES[name].get("n", 0) * 64 * 256
    assert found == 3 * 2 * 32 * 64 * 256 + building


def test_encoder_weights_by_hand():
    # tiny: 12 blocks of 12 * 192² matrix entries, of which a quarter stays
    real, quaternion = (encoder_weights("tiny", TYPES[name]) for name in ("real", "quaternion"))
    assert real - quaternion == 12 * 12 * 192**2 * 3 // 4
