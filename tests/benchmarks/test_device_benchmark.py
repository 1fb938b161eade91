import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.device import PARTS, Part, Plan, gpu_tests, num_steps, outcomes, run_part, summary
from benchmarks.needs import closure, packages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path, tmp_path, None, True)


def part(*programs, **options):
    commands = [[sys.executable, "-c", program] for program in programs]
    return Part("toy", "A toy", 1, lambda plan, seconds: commands, **options)


@pytest.mark.slow
def test_the_rehearsal_runs_every_part_and_keeps_its_rows(tmp_path):
    command = [sys.executable, "benchmarks/device.py", "--rehearse", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540)
    found = {each.name: json.loads((tmp_path / f"part_{each.name}.json").read_text()) for each in PARTS}
    assert {name: content["status"] for name, content in found.items()} == dict.fromkeys(found, "done"), found
    assert done.returncode == 0, done.stderr
    for name, content in found.items():
        shown = [result["rows"] for result in content["results"].values() if result is not None]
        assert shown, name
        assert all(shown), name
    text = (tmp_path / "summary.md").read_text()
    for word in ("| exact accumulation | patch |", "| SSAST as released | fp32 |", "| rfa 16 |", "knn_accuracy |"):
        assert word in text
    assert (tmp_path / "synth_report.html").is_file()


def test_a_part_that_is_cut_keeps_its_rows_and_says_so(plan):
    rows = {"notes": ["a note"], "rows": [{"step": "first", "ms": "1"}]}
    program = f"import json, time; json.dump({rows!r}, open({str(plan.out / 'rows.json')!r}, 'w')); time.sleep(600)"
    found = run_part(part(program, rows=("rows", "never")), plan, 3.0)
    assert found["status"] == "cut after 3 s"
    assert found["results"] == {"rows": rows, "never": None}
    assert "| first | 1 |" in summary({"toy": found})


def test_a_part_that_fails_shows_the_end_of_its_log_and_the_next_command_runs(plan):
    found = run_part(part("print('before'); raise ValueError('no such kernel')", "print('after')"), plan, 60.0)
    assert found["status"].startswith("failed:")
    assert found["status"].endswith("ended with 1")
    assert found["log_tail"][0] == "before"
    assert found["log_tail"][-2:] == ["ValueError: no such kernel", "after"]
    broken = run_part(Part("toy", "A toy", 1, lambda plan, seconds: 1 / 0), plan, 1.0)
    assert broken["status"].startswith("failed: ZeroDivisionError")


def test_without_time_nothing_is_started(plan):
    found = run_part(part(f"open({str(plan.out / 'started')!r}, 'w')"), plan, 0.0)
    assert found["status"].startswith("cut")
    assert not (plan.out / "started").exists()


def test_outcomes_are_read_from_a_log_that_ends_in_the_middle(plan):
    log = "tests/a.py::test_b[x y-1] PASSED [ 1%]\ntests/a.py::test_c FAILED [ 2%]\ntests/a.py::test_d "
    found = outcomes(plan, log)["tests"]
    assert found["rows"] == [{"outcome": "passed", "tests": "1"}, {"outcome": "failed", "tests": "1"}]
    assert found["notes"] == ["not passed: tests/a.py::test_c"]


def test_steps_of_pretraining_fill_the_time_that_is_left(plan):
    assert num_steps(plan, 170.0) == 300  # nothing was measured
    row = {"pairs ms": "150.0", "training ms": "350.0"}
    (plan.out / "synth.json").write_text(json.dumps({"rows": [row]}))
    assert num_steps(plan, 110.0) == 120  # 50 s are for what lies around it
    assert num_steps(plan, 1000.0) == 240  # never more than two minutes
    assert num_steps(plan, 51.0) == 20


def test_needs_are_read_from_the_imports(tmp_path):
    (tmp_path / "beside.py").write_text("def late():\n    import matplotlib\n")
    (tmp_path / "start.py").write_text("import json, beside\nfrom vcrast.features.fbank import Fbank\n")
    names = {line.split("==")[0] for line in packages([tmp_path / "start.py"])}
    assert names >= {"torch", "torchaudio", "matplotlib"}
    assert not names & {"deepspeed", "wandb", "submitit", "json", "beside", "vcrast", "pytest"}
    assert tmp_path / "beside.py" in closure([tmp_path / "start.py"])


def test_gpu_tests_are_those_with_the_mark():
    assert ROOT / "tests/training/test_plan.py" in gpu_tests()
    assert ROOT / "tests/features/test_mixup.py" not in gpu_tests()
