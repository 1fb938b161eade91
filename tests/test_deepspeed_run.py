"""Stop a run under DeepSpeed in two processes; continue it under another engine."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_run import metric_steps, small

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 300
AVERAGED = ("finetune.ema_decay=0.9", "finetune.validation.clips=0.2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install 'vcrast[deepspeed]'"
    ),
]


def command(folder, *more):
    return [
        sys.executable,
        str(ROOT / "launch" / "local.py"),
        *small(folder, "stages=[pretrain,finetune]", *AVERAGED, *more),
    ]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_stopped_under_one_engine_continued_under_another(tmp_path):
    environment = {**os.environ, "HOME": "/nonexistent"}  # nothing may be written there
    split = ("engine=deepspeed", "engine.zero_stage=1", "launch.num_processes=2", "pretrain.micro_batch_size=3")
    process = subprocess.Popen(
        command(tmp_path / "stopped", *split), env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + LIMIT_S
        metrics = tmp_path / "stopped" / "metrics.jsonl"
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.is_file() and len(metrics.read_text().splitlines()) >= 3:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "deepspeed" not in output.lower().replace("engine=deepspeed", ""), output  # its own log is silenced

    resumed = [*split[:1], "engine.zero_stage=3", *split[2:]]
    for folder, more in (("stopped", resumed), ("plain", ["pretrain.micro_batch_size=3"])):
        done = subprocess.run(
            command(tmp_path / folder, *more), env=environment, text=True, capture_output=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert metric_steps(tmp_path / "stopped") == metric_steps(tmp_path / "plain")
    found, expected = losses(tmp_path / "stopped"), losses(tmp_path / "plain")
    assert found == pytest.approx(expected, rel=0.02)
    for stage in ("pretrained", "finetuned"):
        weights = [
            load_file(next((tmp_path / name / "exported").glob(f"*/{stage}/weights.safetensors")))
            for name in ("stopped", "plain")
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(weights[0][name].shape == weights[1][name].shape for name in weights[0])
