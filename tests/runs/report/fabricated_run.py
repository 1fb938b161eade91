"""Write a run folder with invented numbers, for tests of its readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from vcrast.evaluate import NUMBERS as OF_EVALUATION
from vcrast.evaluation.base import probe_metrics, untrained
from vcrast.evaluation.classifier import Classifier
from vcrast.evaluation.knn import NearestNeighbours
from vcrast.finetune import NUMBERS as OF_FINETUNING
from vcrast.objectives.vcr import VCR
from vcrast.runs.environment import describe_environment
from vcrast.runs.stage import COSTS, NUMBERS
from vcrast.runs.watch import COLLAPSE

CLASSES = [
    "dog",
    "rain",
    "sea waves",
    "crying baby",
    "clock tick",
    "sneezing",
    "helicopter",
    "chainsaw",
    "rooster",
    "fire",
]


def fabricate(folder: Path, *, folds: tuple[str, ...] = ("1", "2"), classes: list[str] = CLASSES) -> Path:
    """Write a complete run of `folds` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("recipe: esc10\nfeatures:\n  frame_shift_ms: 10.0\n")
    (folder / "overrides.txt").write_text(
        "# 2026-11-02 10:00:00  launch/local.py esc10 run.seed=3\nrecipe=esc10\nrun.seed=3\n"
    )
    env = {
        **describe_environment(),
        "python": "3.11.7",
        "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "cpu": "Some CPU",
        "gpus": ["Tesla T4"],
        "variables": {},
    }
    (folder / "env.json").write_text(json.dumps(env))
    with (folder / "metrics.jsonl").open("w") as file:
        for number, fold in enumerate(folds):
            file.writelines(json.dumps(line) + "\n" for line in pretrain_lines(fold, number))
            file.writelines(json.dumps(line) + "\n" for line in finetune_lines(fold, number))
    (folder / "summary.json").write_text(json.dumps(summary(folds, classes)))
    for number, fold in enumerate(folds):
        save_arrays(folder / "evaluation" / f"fold_{fold}.safetensors", evaluation(number, len(classes)))
        save_arrays(folder / "views" / f"fold_{fold}.safetensors", views(number))
    return folder


def pretrain_lines(fold: str, number: int) -> list[dict]:
    """120 logged steps that fall towards a floor, with a watch line at every 20th."""
    noise = torch.randn(120, generator=torch.Generator().manual_seed(number)).mul(0.4).tolist()
    lines = []
    for step in range(10, 1210, 10):
        fall = 12 * 2.718 ** (-step / 300) + 1 + abs(noise[step // 10 - 1])
        lines.append({
            "stage": "pretrain", "fold": fold, "step": step, "loss": 21.2 + fall, "floor": 21.2, "above_floor": fall,
            "invariance": 0.02 * fall, "variance": 0.4 + 0.03 * fall, "covariance": 9 - 0.5 * fall, "std": 0.6,
            "lr": 1e-3 * min(step / 200, 1.2 - step / 1200), "grad_norm": fall / 3, "samples_per_s": 310.0,
            "data_s": 0.01, "compute_s": 0.14, "time": 1.7e9 + step,
        })  # fmt: skip
        if step % 200 == 0:
            rank = 4 + 20 * step / 1200 + number
            watched = {"embedding_std": 0.1 + step / 4000, "effective_rank": rank}
            lines.append({"stage": "pretrain", "fold": fold, "step": step, **watched})
    return lines


def finetune_lines(fold: str, number: int) -> list[dict]:
    """10 epochs of 8 steps."""
    lines: list[dict] = []
    for step in range(1, 81):
        loss = 2.3 * 2.718 ** (-step / 25) + 0.2
        lines.append({"stage": "finetune", "fold": fold, "step": step, "loss": loss, "lr": 1e-4 * (1 - step / 90)})
        if step % 8 == 0:
            accuracy = 0.9 - 0.7 * 2.718 ** (-step / 20) + 0.02 * number
            lines.append(
                {"stage": "finetune", "fold": fold, "step": step, "epoch": step / 8, "test_accuracy": accuracy}
            )
    return lines


def summary(folds: tuple[str, ...], classes: list[str]) -> dict:
    """The final numbers, the same in every fold but for the accuracy: 0.8, 0.85, ..."""

    def one(number: int) -> dict:
        return {
            "pretrain": {
                "steps": 1200, "loss": 22.4, "invariance": 0.02, "variance": 0.43, "covariance": 8.5, "floor": 21.2,
                "samples_per_s": 310.4, "peak_memory_bytes": 11 * 2**30, "embedding_std": 0.4, "effective_rank": 24.0,
                "wall_s": 3725.0,
            },
            "finetune": {"steps": 80, "loss": 0.29, "samples_per_s": 250.0, "peak_memory_bytes": None, "wall_s": 61.0,
                "accuracy": 0.81, "accuracy_by_epoch": [[1.0, 0.5], [2.0, 0.81]]},
            "evaluate": {
                "accuracy": 0.8 + 0.05 * number, "mAP": 0.87, "auc": 0.97, "d_prime": 2.66, "knn_accuracy": 0.6,
                "probe_accuracy": 0.7, "untrained_knn_accuracy": 0.31, "num_test_clips": 80, "wall_s": 9.5,
            },
        }  # fmt: skip

    numbers = [0.8 + 0.05 * number for number in range(len(folds))]
    mean = sum(numbers) / len(numbers)
    return {
        "recipe": "esc10",
        "classes": classes,
        "folds": {fold: one(number) for number, fold in enumerate(folds)},
        "mean": one(0) | {"evaluate": one(0)["evaluate"] | {"accuracy": mean}},
        "std": {"evaluate": {"accuracy": 0.0354}},
        "warnings": ["fold 2: effective rank fell below 8 at step 200"],
        **described(),
    }


def described() -> dict[str, dict]:
    """`metrics`, `parts` and `notes` as the stages describe their numbers."""
    knn = NearestNeighbours.metrics
    shown = {
        "pretrain": {**NUMBERS, **VCR.parts, **COLLAPSE, **COSTS},
        "finetune": {**NUMBERS, **OF_FINETUNING, **COSTS},
        "evaluate": {
            **Classifier.metrics, **knn, **{f"untrained_{name}": untrained(how) for name, how in knn.items()},
            **probe_metrics("probe", "linear probe", short="linear"), **OF_EVALUATION,
        },
    }  # fmt: skip
    return {
        "metrics": {stage: {name: how._asdict() for name, how in own.items()} for stage, own in shown.items()},
        "parts": {"pretrain": list(VCR.parts), "finetune": [], "evaluate": []},
        "notes": {"pretrain": VCR.note, "finetune": "", "evaluate": ""},
    }


def evaluation(number: int, num_classes: int) -> dict[str, torch.Tensor]:
    """8 clips per class; the first of each class is taken for the next class."""
    generator = torch.Generator().manual_seed(100 + number)
    belongs = torch.arange(num_classes).repeat_interleave(8)
    taken = belongs.clone()
    taken[::8] = (belongs[::8] + 1) % num_classes
    eye = torch.eye(num_classes)
    centres = 3 * torch.randn(num_classes, 24, generator=generator)
    return {
        "scores": eye[taken] + 0.5 * torch.rand(len(taken), num_classes, generator=generator),
        "labels": eye[belongs],
        "embeddings": centres[belongs] + torch.randn(len(belongs), 24, generator=generator),
        "index": torch.arange(len(belongs)),
    }


def views(number: int) -> dict[str, torch.Tensor]:
    """4 clips of 5 s: a rising tone over noise; the views are rolled and masked."""
    generator = torch.Generator().manual_seed(200 + number)
    clips = 0.3 * torch.randn(4, 498, 128, generator=generator) - 0.5
    for clip in range(4):
        for frame in range(498):
            bin_ = 20 + 20 * clip + frame // 16
            clips[clip, frame, bin_ - 2 : bin_ + 3] += 1.5
    first, second = clips.roll(100, dims=1), clips.roll(-180, dims=1) * 0.8
    first[:, 60:120] = 0
    second[:, :, 70:90] = 0
    return {"original": clips, "view_a": first.contiguous(), "view_b": second.contiguous()}


def save_arrays(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def give_sounds(folder: Path, *, num_clips: int, fold: str = "1") -> Path:
    """Add one recording, of which each test clip of a fold is another second, and the file that says so."""
    from vcrast.runs.record import read_run

    path = folder.parent / "recording.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 8000 * num_clips) * np.linspace(0.1, 1, 8000 * num_clips)
    soundfile.write(path, noise, 8000)
    (folder / "config.yaml").write_text(
        "recipe: esc10\nrun: {seed: 3}\ndata: {sample_rate: 8000}\nfeatures:\n  name: fbank\n  frame_shift_ms: 10.0\n"
        "  num_mel_bins: 32\n  window_ms: 25.0\n  window: hann\n  low_freq_hz: 20.0\n  high_freq_hz: 0.0\n"
        "  preemphasis: 0.97\n"
    )
    record = read_run(folder)
    arrays = record.evaluations[fold]
    lines = [
        f"{path},{place}.0,1.0,{record.classes[true]},{record.classes[said]}"
        for place, (true, said) in enumerate(
            zip(arrays["labels"].argmax(axis=1), arrays["scores"].argmax(axis=1), strict=True)
        )
    ]
    header = "path,start,duration,label,predicted"
    (folder / "evaluation" / f"predictions_fold_{fold}.csv").write_text("\n".join([header, *lines]) + "\n")
    return path
