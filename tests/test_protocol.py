"""Check that evaluation and `vcrast.load(run).predict` hear the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from small_run import small

import vcrast
from vcrast.config.resume import resolve
from vcrast.run import run

pytestmark = pytest.mark.slow
SECONDS = (2.5, 0.4, 1.0, 1.05)  # windows of 1 s: three, one repeated, one, one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocol")
    rows = ["path,label,split"]
    for number in range(24):
        label, split = ("low", "high")[number % 2], "test" if number < 8 else "train"
        seconds = SECONDS[number // 2] if split == "test" else 1.0
        rate = 16000 if number % 3 else 44100
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, round(seconds * rate))
        wav = np.convolve(noise, [0.5, 0.5 if label == "low" else -0.5], "same")
        if seconds > 2:
            wav[round(0.75 * rate) : round(1.75 * rate)] *= 1e-3  # the middle is quiet
        sf.write(folder / f"{number}.wav", wav, rate)
        rows.append(f"{number}.wav,{label},{split}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("windows", ["all", "centre"])
def test_evaluation_and_predict_agree_on_every_clip(folder: Path, tmp_path: Path, windows: str) -> None:
    words = [word for word in small(tmp_path / "run", "stages=[finetune,evaluate]") if "data.options" not in word]
    words += [
        "data=manifest", f"data.path={folder / 'clips.csv'}", "finetune.steps=3", "finetune.batch_size=8",
        "finetune.log_every_steps=1", f"evaluate.windows={windows}", "evaluate.batch_size=3", "evaluation=[classifier]",
    ]  # fmt: skip
    words = [word for word in words if not word.startswith(("evaluation.linear", "pretrain."))]
    run(resolve(words), words)
    kept = load_file(tmp_path / "run" / "evaluation" / "fold_test.safetensors")
    model = vcrast.load(tmp_path / "run")
    predicted = [model.predict(folder / f"{number}.wav") for number in kept["index"].tolist()]
    scores = torch.tensor([[found[label] for label in model.labels] for found in predicted])
    alike = (kept["scores"] - scores).abs().max(dim=1).values < 1e-3  # the cache rounds to 16 bits
    longer = torch.tensor([number // 2 == 0 for number in range(8)])
    assert alike[~longer].all()
    assert alike[longer].all() == (windows == "all")
    said = json.loads((tmp_path / "run" / "summary.json").read_text())["folds"]["test"]["evaluate"]["long_clips"]
    assert said == ("windows of 1 s, averaged" if windows == "all" else "middle 1 s")
