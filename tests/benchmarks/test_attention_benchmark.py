import pytest
import torch

from benchmarks.attention import PeakMemory, error, heads, main
from vcrast.models.attention import SoftmaxAttention

pytestmark = pytest.mark.slow


def test_the_small_benchmark_writes_table_and_plot(tmp_path, capsys):
    assert main(["--small", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "attention.md").read_text()
    for word in (
        "hardware:",
        "versions:",
        "commit:",
        "| softmax | 64 |",
        "| memory_efficient | 128 |",
        "| rfa 16 | 128 |",
    ):
        assert word in text
    assert (tmp_path / "attention.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "attention.png").stat().st_size < 100_000
    assert "written" in capsys.readouterr().out


def test_what_would_take_too_long_is_left_out_and_named(tmp_path, capsys):
    main(["--small", "--limit-s", "0", "--out", str(tmp_path)])
    assert "| softmax | 128 | 1 | - | - | - |" in (tmp_path / "attention.md").read_text()


def test_peak_memory_by_hand():
    with PeakMemory() as memory:
        a = torch.ones(1000)  # 4,000 bytes
        b = a + 1  # 8,000 alive
        del a
        c = b.view(10, 100)  # the same storage
        d = c * 2  # 8,000 alive again
        del b, c
        e = torch.cat([d, d])  # 4,000 and 8,000
    assert memory.peak == 12_000
    assert memory.now == 12_000
    assert len(e) == 20


def test_error_of_the_exact_formula_is_rounding():
    qkv = heads(1, 2, 33, torch.device("cpu"), torch.float32)
    assert error(SoftmaxAttention(num_heads=2, head_dim=64), qkv) < 1e-6
