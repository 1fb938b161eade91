import json
import math
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend

from benchmarks.machine import imitate_t4
from benchmarks.ssast import ReleasedSSAST
from benchmarks.step import COLUMNS, main, parse
from benchmarks.trace import trace_step
from benchmarks.training import SMALL
from benchmarks.variants import square_covariance
from vcrast.config.compose import compose
from vcrast.models import attention_memory_efficient
from vcrast.objectives.terms import covariance_term
from vcrast.training.device import resolve_precision

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def done(traces):
    words = ["benchmarks/step.py", "--small", "--device", "cpu", "--precision", "fp32", "--frames", "64", "--profile"]
    return subprocess.run(
        [sys.executable, *words, str(traces)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )


@pytest.fixture(scope="module")
def output(done):
    return done.stdout


@pytest.fixture(scope="module")
def rows(output):
    lines = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    assert lines[0] == list(COLUMNS)
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[2:]]


def test_every_case_has_a_row(rows):
    assert {row["batch"] for row in rows} == {"8"}
    names = ["thesis-style", "naive accumulation", "exact accumulation", "full batch"]
    expected = [(name, tokens, frames) for tokens in ("patch", "frame") for frames in ("64",) for name in names]
    assert [(row["step"], row["tokens"], row["frames"]) for row in rows] == expected
    for row in rows:
        assert float(row["samples/s"]) > 0
        milliseconds = 1000 * int(row["batch"]) / float(row["samples/s"])
        assert float(row["ms"]) == pytest.approx(milliseconds, rel=0.02)
        assert float(row["of matmul"].rstrip("%")) > 0


def test_exact_accumulation_has_the_full_batchs_loss_and_naive_has_not(rows):
    for start in range(0, len(rows), 4):
        _, naive, exact, full = (float(row["loss"]) for row in rows[start : start + 4])
        assert exact == pytest.approx(full, abs=2e-6)
        assert abs(naive - full) > 0.1


def test_the_header_says_where_it_ran(output):
    for word in ("# hardware: ", "precision fp32", f"torch {torch.__version__}", "# commit: ", "# matmul peak: "):
        assert word in output
    assert "imitates a T4" not in output


def test_every_case_leaves_a_trace_of_one_step(done, traces):
    files = sorted(file.name for file in traces.iterdir())
    assert len(files) == 8
    assert files[0] == "exact_accumulation_frame_64.json"
    for file in files:
        assert f"{file}:" in done.stderr
        events = json.loads((traces / file).read_text())["traceEvents"]
        products = [event for event in events if event.get("name") == "aten::addmm"]
        # Four attention layers and two of the MLP in each of two blocks, at the least, once for each view or both.
        assert len(products) >= 12


def test_a_trace_names_the_largest_operation_first_and_adds_up(tmp_path):
    big, little = torch.randn(600, 600), torch.randn(4)
    rows = trace_step(
        lambda number: big @ big + little.sum(), 3, device=torch.device("cpu"), file=tmp_path / "new" / "step.json"
    )
    shares = [float(row[3].rstrip("%")) for row in rows]
    assert rows[0][0] == "aten::mm"
    assert {row[0] for row in rows} >= {"aten::mm", "aten::sum", "aten::add"}
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))


def test_thesis_covariance_is_the_same_number():
    z = torch.randn(5, 9, dtype=torch.float64)
    torch.testing.assert_close(square_covariance(z), covariance_term(z))


def test_the_released_step_masks_clusters_of_the_asked_number():
    torch.manual_seed(0)
    random.seed(0)
    model = compose(["model=tiny", *SMALL]).model
    module = ReleasedSSAST(model, (8, 8))
    masks = module.masks(torch.zeros(5, 128, 128))
    assert {len(mask) for mask in masks} == {50}  # 400 of 512
    assert all(len(set(mask.tolist())) == 50 and mask.min() >= 0 and mask.max() < 64 for mask in masks)
    assert len({tuple(sorted(mask.tolist())) for mask in masks}) == 5


def test_the_released_step_learns_and_reaches_every_weight():
    torch.manual_seed(0)
    random.seed(0)
    module = ReleasedSSAST(compose(["model=tiny", *SMALL]).model, (4, 8))
    fbank = torch.randn(3, 64, 128)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = module(fbank)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(weight.grad is not None for weight in module.parameters())
    assert losses[0] == pytest.approx(10 + math.log(25), rel=0.15)  # of nothing learnt: 10 x variance 1, and chance
    assert losses[-1] < 0.9 * losses[0]


def test_ssasts_step_beside_ours(capsys, tmp_path):
    words = ["--ssast", "--small", "--device", "cpu", "--frames", "64", "--json", str(tmp_path / "rows.json")]
    assert main(words) == 0
    shown = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [dict(zip(shown[0], line, strict=True)) for line in shown[2:]]
    assert rows == json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["tokens"] for row in rows[:3]] == ["32", "32", "16"]
    assert {row["precision"] for row in rows} == {"fp32", resolve_precision("auto", "cpu")}
    for row in rows:
        assert float(row["to SSAST"].rstrip("x")) == pytest.approx(float(rows[0]["ms"]) / float(row["ms"]), abs=0.01)


def test_what_a_t4_cannot_do_is_refused(capsys):
    for words in (["--t4", "--compile"], ["--t4", "--precision", "bf16"], ["--batch", "9", "--micro", "4"]):
        with pytest.raises(SystemExit):
            parse(words)
    assert "leaves one clip over" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--t4 needs a CUDA device"):
        main(["--t4", "--small", "--device", "cpu"])


def test_the_t4_imitation_sets_a_cap_and_one_kernel(monkeypatch):
    capped = []
    monkeypatch.setattr(attention_memory_efficient, "FUSED", list(attention_memory_efficient.FUSED))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *what: capped.append(what))
    for gib, share in ((60, 0.25), (15, 1.0)):
        total = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, total=total: total)
        imitate_t4(torch.device("cuda"))
        assert capped[-1] == (share, torch.device("cuda"))
    assert attention_memory_efficient.FUSED == [SDPBackend.EFFICIENT_ATTENTION]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**30))
    with pytest.raises(ValueError, match=r"has 1\.0 GiB, less than the 15 GiB"):
        imitate_t4(torch.device("cuda"))


@pytest.mark.gpu
def test_the_t4_imitation_caps_memory():
    done = subprocess.run(
        [sys.executable, "benchmarks/step.py", "--t4", "--small", "--tokens", "patch"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert "imitates a T4" in done.stdout
    assert "precision fp16" in done.stdout
