from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vcrast.config.registry import LOGGERS
from vcrast.runs import metric_file
from vcrast.runs.log import MetricLog
from vcrast.runs.metric_file import MetricFile, to_numbers


def strict(text: str):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read(run_dir: Path) -> list[dict]:
    text = (run_dir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [strict(line) for line in text.splitlines()]


def keys(run_dir: Path) -> list[tuple]:
    return [(line["stage"], line["fold"], line["step"]) for line in read(run_dir)]


def test_one_line_per_call_readable_at_once(tmp_path):
    before = time.time()
    with MetricLog(tmp_path, ["jsonl"], config={}) as metrics:
        metrics.log("pretrain", "1", 3, {"loss": torch.tensor(1.5, requires_grad=True), "lr": 0.1, "clips": 7})
        [line] = read(tmp_path)
    assert before - 1 < line.pop("time") < time.time() + 1
    assert line == {"stage": "pretrain", "fold": "1", "step": 3, "loss": 1.5, "lr": 0.1, "clips": 7}


def test_what_is_not_finite_becomes_null(tmp_path):
    values = {
        "a": float("nan"),
        "b": torch.tensor(float("inf")),
        "c": -math.inf,
        "d": torch.tensor(2.0).half(),
        "e": None,
    }
    with MetricLog(tmp_path, [], config={}) as metrics:
        metrics.log("pretrain", "", 1, values)
    [line] = read(tmp_path)
    assert [line[key] for key in "abcde"] == [None, None, None, 2.0, None]


def test_tensors_of_all_kinds_become_exact_numbers():
    values = {
        "int": torch.tensor(2**40 + 1),
        "bf16": torch.tensor([[1.25]]).bfloat16(),
        "f64": torch.tensor(0.1).double(),
        "x": 3,
    }
    assert to_numbers(values) == {"int": 2**40 + 1, "bf16": 1.25, "f64": float(torch.tensor(0.1)), "x": 3}
    assert list(to_numbers(values)) == list(values)


def test_all_tensors_are_copied_together(monkeypatch):
    copies = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: copies.append(self.shape) or real(self))
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("a copy of its own"))
    to_numbers({name: torch.tensor(1.0) for name in "abc"})
    assert copies == [(3,)]


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [(torch.ones(2), ValueError, r"loss.*\(2,\)"), ("high", TypeError, "loss='high'"), ([1.0], TypeError, "list")],
)
def test_what_is_no_number_is_refused_by_name(tmp_path, value, error, match):
    with MetricLog(tmp_path, [], config={}) as metrics, pytest.raises(error, match=match):
        metrics.log("pretrain", "", 1, {"loss": value})
    with MetricLog(tmp_path, [], config={}) as metrics, pytest.raises(ValueError, match="'step'"):
        metrics.log("pretrain", "", 1, {"step": 1.0})


RUN = [("pretrain", "1", 1), ("pretrain", "1", 2), ("pretrain", "1", 3), ("finetune", "1", 1), ("finetune", "1", 2),
       ("evaluate", "1", 0), ("pretrain", "2", 1), ("pretrain", "2", 2)]  # fmt: skip


def write_run(run_dir: Path) -> MetricFile:
    file = MetricFile(run_dir)
    for number, (stage, fold, step) in enumerate(RUN):
        file.append({"stage": stage, "fold": fold, "step": step, "number": number})
    return file


@pytest.mark.parametrize(
    ("at", "kept"),
    [
        (("pretrain", "1", 2), [*RUN[:2], *RUN[3:]]),
        (("pretrain", "1", 0), RUN[3:]),  # what comes after it is not its to judge: vcrast.runs.resume
        (("finetune", "1", 1), [*RUN[:4], *RUN[5:]]),
        (("finetune", "1", 2), RUN),
        (("pretrain", "2", 1), RUN[:7]),
        (("pretrain", "2", 9), RUN),
        (("finetune", "2", 0), RUN),
    ],
)
def test_rewind_removes_exactly_what_will_be_written_again(tmp_path, at, kept):
    write_run(tmp_path).close()
    with MetricLog(tmp_path, [], config={}) as metrics:
        metrics.rewind(*at)
        assert keys(tmp_path) == kept
        metrics.log("pretrain", "3", 1, {})
        assert keys(tmp_path) == [*kept, ("pretrain", "3", 1)]
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_resumed_run_repeats_no_step(tmp_path):
    for resumed_from, until in ((0, 7), (4, 9), (8, 12)):
        with MetricLog(tmp_path, [], config={}) as metrics:
            metrics.rewind("pretrain", "1", resumed_from)
            for step in range(resumed_from + 1, until + 1):
                metrics.log("pretrain", "1", step, {"loss": step})
    assert [line["step"] for line in read(tmp_path)] == list(range(1, 13))


@given(cut=st.data())
def test_whatever_a_kill_leaves_of_the_last_line_is_mended(tmp_path_factory, cut):
    run_dir = tmp_path_factory.mktemp("run")
    write_run(run_dir).close()
    path = run_dir / "metrics.jsonl"
    content = path.read_bytes()
    length = cut.draw(st.integers(0, len(content)))
    # After a power cut, the end of a file may also be zeros.
    path.write_bytes(content[:length] + b"\0" * cut.draw(st.sampled_from([0, 5])))
    whole = content[:length].count(b"\n")
    with MetricLog(run_dir, [], config={}) as metrics:
        found = keys(run_dir)
        # A line that lacks only its line feed is kept.
        assert found in (RUN[:whole], RUN[: whole + 1])
        metrics.log("x", "y", 5, {})
    assert keys(run_dir) == [*found, ("x", "y", 5)]


def test_the_newest_value_of_each_number_outlives_the_session(tmp_path):
    with MetricLog(tmp_path, [], config={}) as metrics:
        metrics.log("pretrain", "1", 1, {"loss": 3.0, "lr": 0.1})
        metrics.log("pretrain", "1", 2, {"loss": 2.0})
        metrics.log("pretrain", "2", 1, {"loss": 9.0})
    with MetricLog(tmp_path, [], config={}) as metrics:
        assert metrics.last("pretrain", "1") == {"loss": 2.0, "lr": 0.1}
        assert metrics.last("finetune", "1") == {}


def test_a_full_disk_costs_lines_and_one_warning_not_the_run(tmp_path, caplog, monkeypatch):
    file = MetricFile(tmp_path)
    line = {"stage": "s", "fold": "", "step": 1}
    file.append(line)
    real, calls = os.write, []

    def half_then_full(descriptor, content):
        calls.append(1)
        if len(calls) % 2:
            return real(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metric_file.os, "write", half_then_full)
    file.append({**line, "step": 2})
    file.append({**line, "step": 3})
    monkeypatch.undo()
    file.append({**line, "step": 4})
    assert [line["step"] for line in read(tmp_path)] == [1, 4]
    assert caplog.text.count("No space left") == 1


def test_only_the_first_process_of_several_writes(tmp_path):
    with MetricLog(tmp_path, ["jsonl", "tensorboard"], config={}, active=False) as metrics:
        metrics.log("pretrain", "1", 1, {"loss": 1.0})
        metrics.rewind("pretrain", "1", 0)
        assert metrics.last("pretrain", "1") == {}
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_logger_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(KeyError, match=r"did you mean wandb.*jsonl, tensorboard, wandb"):
        MetricLog(tmp_path, ["wandbb"], config={})


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_is_an_error_at_the_start_that_names_the_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"pip install 'vcrast[{name}]'")):
        MetricLog(tmp_path, [name], config={})


def test_a_tracker_that_breaks_is_left_out_and_the_numbers_stay(tmp_path, caplog, monkeypatch):
    class Broken:
        def __init__(self, run_dir, config):
            pass

        def log(self, stage, fold, step, values):
            raise ConnectionError("gone")

        def close(self):
            raise ConnectionError("gone")

    monkeypatch.setitem(LOGGERS.builders, "broken", Broken)
    with MetricLog(tmp_path, ["broken"], config={}) as metrics:
        for step in range(3):
            metrics.log("pretrain", "1", step, {"loss": 1.0})
    assert len(read(tmp_path)) == 3
    assert caplog.text.count("broken failed") == 1


def test_tensorboard_events_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    with MetricLog(tmp_path, ["tensorboard"], config={}) as metrics:
        metrics.log("pretrain", "1", 5, {"loss": torch.tensor(0.5), "bad": float("nan")})
        metrics.log("evaluate", "", 0, {"accuracy": 0.75})
    [loss] = scalars(tmp_path, "pretrain/fold_1", "loss")
    assert (loss.step, loss.value) == (5, 0.5)
    assert scalars(tmp_path, "evaluate", "accuracy")[0].value == 0.75
    assert math.isnan(scalars(tmp_path, "pretrain/fold_1", "bad")[0].value)


def scalars(folder, prefix, name):
    """As TensorBoard itself reads them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(folder / "tensorboard" / prefix))
    found.Reload()
    return found.Scalars(f"{prefix}/{name}")


def test_tensorboard_shows_no_step_of_a_resumed_run_twice(tmp_path):
    for first, value in ((0, 0.0), (4, 1.0), (2, 2.0)):  # it stopped after steps 6 and 8, checkpoints were of 4 and 2
        with MetricLog(tmp_path, ["tensorboard"], config={}) as metrics:
            metrics.rewind("pretrain", "1", first)
            if first == 0:
                metrics.log("finetune", "1", 7, {"loss": 9.0})  # another stage has steps of its own
            for step in range(first + 1, first + 7 - first // 2):
                metrics.log("pretrain", "1", step, {"loss": value + step})
    found = [(each.step, each.value) for each in scalars(tmp_path, "pretrain/fold_1", "loss")]
    assert found == [(1, 1.0), (2, 2.0), *((step, 2.0 + step) for step in range(3, 8))]
    assert found == [(line["step"], line["loss"]) for line in read(tmp_path) if line["stage"] == "pretrain"]
    assert [each.step for each in scalars(tmp_path, "finetune/fold_1", "loss")] == [7]
