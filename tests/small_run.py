"""Describe the smallest run through every stage, seconds on one core."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import vcrast.train

SMALL = (
    "recipe=demo",
    "precision=fp32",  # auto depends on the processor, and tests compare numbers
    "data.options.num_clips=60",
    "data.options.classes=[siren,rain,dog_bark]",
    "data.clip_duration_s=1.0",
    "model.embed_dim=32",
    "model.depth=2",
    "model.num_heads=2",
    "objective.projector_dims=[32,32,32]",
    "pretrain.batch_size=16",
    "pretrain.steps=12",
    "pretrain.log_every_steps=1",
    "pretrain.watch_clips=16",
    "finetune.head=random",  # auto of the recipe embeds the training clips first
    "finetune.batch_size=16",
    "finetune.epochs=1",
    "finetune.steps=9",
    "finetune.log_every_steps=1",
    "finetune.evaluate_every_epochs=1",
    "evaluation.linear_probe.steps=10",
    "data.num_workers=0",
)


def small(folder: Path, *more: str) -> list[str]:
    """Overrides of a small run in `folder`, its audio cache beside it; without what `more` makes pointless."""
    pretrains = all("pretrain" in word for word in more if word.startswith("stages="))
    own = pretrains and not any(word.startswith("objective=") for word in more)
    words = [word for word in SMALL if own or not word.startswith("objective.")]
    return [*words, f"run.dir={folder}", f"data.cache_dir={folder.parent / 'cache'}", *more]


def weights_hash(folder: Path) -> str:
    """One hash over all exported weights of a run."""
    digest = hashlib.sha256()
    for path in sorted((folder / "exported").rglob("*.safetensors")):
        for name, value in sorted(load_file(path).items()):
            digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def metric_steps(folder: Path) -> list[tuple[str, str, int]]:
    """(fold, stage, step) of every training line of metrics.jsonl, in file order."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["fold"], line["stage"], line["step"]) for line in lines if "loss" in line]


def stop_and_go_on(run, folder, monkeypatch, *, at=3):
    """Let `run(folder)` fail in training step number `at`, then do it again."""
    steps, step = itertools.count(1), vcrast.train.exact_backward

    def stumble(*arguments):
        if next(steps) == at:
            raise InterruptedError
        return step(*arguments)

    with monkeypatch.context() as stopping:
        stopping.setattr(vcrast.train, "exact_backward", stumble)
        with pytest.raises(InterruptedError):
            run(folder)
    run(folder)


def whole_and_stopped(run, folder, monkeypatch, *, at=3):
    """Run twice, once stopped in training step number `at`: equal weights; returns the folder of the other run."""
    run(folder / "whole")
    stop_and_go_on(run, folder / "stopped", monkeypatch, at=at)
    assert weights_hash(folder / "stopped") == weights_hash(folder / "whole")
    return folder / "whole"
