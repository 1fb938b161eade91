"""Take every choice of the command line through all stages."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from small_run import small

import vcrast
from vcrast.cli.main import main
from vcrast.config.resume import resolve
from vcrast.config.saved import load_config
from vcrast.run import run
from vcrast.runs import checkpoint

pytestmark = pytest.mark.slow

SHORT = ("pretrain.steps=3", "finetune.steps=3")

CHOICES = {
    "lars and plateau": ("optim=lars", "schedule=plateau", "schedule.warmup_epochs=0"),
    "frame tokens": ("model.patch_size=[2,128]",),
    "learned positions, overlap in finetuning": ("model.positions=learned", "finetune.patch_stride=[10,10]"),
    "bf16": ("precision=bf16",),
    "fp16 with loss scaling": ("precision=fp16",),
    "masked tokens": ("views.patch_drop_mode=mask", "views.patch_drop=0.3"),
    "automatic covariance weight": ("objective.covariance_weight=auto", "attention=softmax"),
    "all views": (
        "views=sounds",
        "views.augment.reverb_probability=0.5",
        "finetune.views.augment.noise_probability=0.5",
        "views.background_probability=0.5",
        "views.noise_std=0.1",
        "views.num_masks=2",
        "views.noise_uniform=0.1",
        "views.shift_frames=3",
    ),
    "decoding in workers": ("data.cache=false", "data.num_workers=1", "data.pad=repeat", "data.clip_duration_s=1.3"),
    "class tokens, attentive probe": (
        "model.class_tokens=2",
        "model.pool=class",
        "evaluation=[classifier,knn,linear_probe,attentive_probe]",
        "finetune.schedule=step",
        "finetune.objective.loss=binary",
    ),
    "TensorBoard": ("logger=[jsonl,tensorboard]",),
    "drop path, smoothing, blocks run twice": (
        "finetune.drop_path=0.2",
        "finetune.objective.label_smoothing=0.1",
        "engine.checkpoint_blocks=true",
    ),
}


def run_here(folder, *more):
    overrides = small(folder, *more)
    return run(resolve(overrides), overrides)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_goes_through_all_stages(choice, tmp_path):
    folder = run_here(tmp_path / "run", *SHORT, *CHOICES[choice])
    fold = json.loads((folder / "summary.json").read_text())["folds"]["1"]
    assert np.isfinite(fold["pretrain"]["loss"])
    assert 0 <= fold["evaluate"]["accuracy"] <= 1
    model = vcrast.load(folder)
    assert sum(model.predict(torch.randn(16000) * 0.1, 16000).values()) == pytest.approx(1, abs=1e-4)


def test_a_trained_model_is_used_from_the_command_line_and_from_python(tmp_path, capsys):
    folder = run_here(tmp_path / "run", *SHORT)
    sound = tmp_path / "sounds" / "beep.wav"
    sound.parent.mkdir()
    soundfile.write(sound, 0.3 * np.sin(np.arange(44100) / 10), 44100)
    assert main(["predict", str(folder), str(sound), "--json"]) == 0
    said = capsys.readouterr().out
    assert any(name in said for name in ("siren", "rain", "dog_bark"))
    assert main(["embed", str(folder), str(sound.parent), "--out", str(tmp_path / "e.npz")]) == 0
    stored = np.load(tmp_path / "e.npz")
    model = vcrast.load(folder)
    assert model.labels == ("siren", "rain", "dog_bark")
    np.testing.assert_allclose(stored["embeddings"][0], model.embed(sound).numpy(), rtol=1e-4, atol=1e-5)
    assert main(["report", str(folder)]) == 0


def write_manifest(folder, labels):
    folder.mkdir()
    chance = np.random.default_rng(0)
    rows = []
    for number in range(40):
        soundfile.write(folder / f"{number}.wav", chance.normal(0, 0.1, 16000).astype("float32"), 16000)
        rows.append([f"{number}.wav", labels[number % len(labels)], "train" if number < 32 else "test"])
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "labels", "split"], *rows])
    return folder / "clips.csv"


def run_on(folder, path, *more):
    words = [word for word in small(folder, *SHORT, *more) if not word.startswith("data.options.")]
    words.insert(1, "data=manifest")
    words.append(f"data.path={path}")
    return run(resolve(words), words)


def test_own_audio_with_several_labels_a_clip(tmp_path):
    path = write_manifest(tmp_path / "own", ["rain;wind", "rain", "wind", "dog"])
    folder = run_on(tmp_path / "run", path)
    fold = json.loads((folder / "summary.json").read_text())["folds"]["test"]
    assert {"mAP", "auc", "knn_mAP", "probe_mAP"} <= set(fold["evaluate"])
    assert "accuracy" not in fold["evaluate"]
    chances = vcrast.load(folder).predict(torch.randn(16000) * 0.1, 16000)
    assert set(chances) == {"dog", "rain", "wind"}


def test_unlabelled_audio_can_be_pretrained_on_and_nothing_else(tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for number in range(20):
        soundfile.write(folder / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, 16000), 16000)
    words = [word for word in small(tmp_path / "run", *SHORT) if not word.startswith("data.options.")]
    words.insert(1, "data=folder")
    words.append(f"data.root={folder}")
    with pytest.raises(ValueError, match=r"nothing to test on.*stages=\[pretrain\]"):
        run(resolve(words), words)
    words.append("stages=[pretrain]")
    done = run(resolve(words), words)
    assert vcrast.load(done).embed(torch.randn(16000) * 0.1, 16000).shape == (32,)


def test_clips_without_folds_are_all_trained_on_and_the_model_is_exported(tmp_path, monkeypatch):
    path = write_manifest(tmp_path / "own", ["rain", "wind"])
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()))
    words = ("stages=[pretrain,finetune]", "data.folds=null")
    folder = run_on(tmp_path / "run", path, *words)
    summary = json.loads((folder / "summary.json").read_text())
    assert "accuracy" not in summary["folds"]["all"]["finetune"]
    assert "no test clips: trained on all 40 clips, so nothing says how well it does on others" in summary["warnings"]
    assert set(vcrast.load(folder).predict(torch.randn(16000) * 0.1, 16000)) == {"rain", "wind"}
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder)  # takes longer than the run
    # It goes on where the data has been moved to, and not with other data.
    (tmp_path / "own").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "clips.csv"
    run_on(folder, moved, *words, "finetune.steps=4")
    assert json.loads((folder / "summary.json").read_text())["folds"]["all"]["finetune"]["steps"] == 4
    moved.write_text("\n".join(moved.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"^data\.path=.*: fold all now has 39 training and 0 test clips, not 40"):
        run_on(folder, moved, *words, "finetune.steps=5")


def test_real_audio_learns_in_a_few_steps(tmp_path, esc10_root):
    words = [word for word in small(tmp_path / "run") if not word.startswith(("data.", "recipe="))]
    words += ["pretrain.steps=40", "schedule.warmup_epochs=0", "optim.lr=2e-3"]
    words = [
        "recipe=esc10",
        f"data.root={esc10_root}",
        f"data.cache_dir={tmp_path}",
        "data.clip_duration_s=1.0",
        *words,
    ]
    folder = run(resolve(words), words)
    losses = [
        line["loss"]
        for line in map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
        if line["stage"] == "pretrain" and "loss" in line
    ]
    assert sum(losses[-5:]) < sum(losses[:5]) - 2
    fold = json.loads((folder / "summary.json").read_text())["folds"]["1"]
    assert fold["evaluate"]["num_test_clips"] == 80
    assert fold["evaluate"]["knn_accuracy"] > 0.2  # chance is 0.1


def saved_parts(folder, stage):
    """Options of the optimiser's groups and the schedule's state, as the last checkpoint of a stage holds them."""
    content = checkpoint.load(checkpoint.find_latest(folder / "checkpoints" / "fold_1" / stage))
    return content["engine"]["optimizer"]["param_groups"][0], content["schedule"]


def logged_lr(folder, stage):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["lr"] for line in lines if line["stage"] == stage and "loss" in line]


def test_optimiser_and_schedule_of_finetuning_are_those_chosen_for_it(tmp_path):
    words = (
        "finetune.optim=lars",
        "finetune.schedule=plateau",
        "finetune.schedule.warmup_epochs=0",
        "finetune.optim.lr=0.2",
    )
    folder = run_here(tmp_path / "run", *SHORT, *words, "stages=[pretrain,finetune]")
    group, schedule = saved_parts(folder, "finetune")
    assert group["trust_coeff"] == 1e-3
    assert "betas" not in group
    assert {"best", "bad_epochs"} <= set(schedule)
    assert logged_lr(folder, "finetune") == [pytest.approx(0.2 * 16 / 256)] * 3  # per batch of 256; no cut so soon
    assert "betas" in saved_parts(folder, "pretrain")[0]


def test_the_optimiser_of_pretraining_is_not_finetunings(tmp_path):
    folder = run_here(tmp_path / "run", *SHORT, "optim=lars", "schedule=plateau", "stages=[pretrain,finetune]")
    shown = load_config(folder / "config.yaml").finetune
    assert (shown.optim["name"], shown.schedule["name"]) == ("adamw", "cosine")
    assert "trust_coeff" in saved_parts(folder, "pretrain")[0]
    group, schedule = saved_parts(folder, "finetune")
    assert list(group["betas"]) == list(shown.optim["betas"])
    assert not schedule


def test_a_setting_of_finetuning_that_has_moved_is_named():
    with pytest.raises(ValueError, match=r"finetune\.lr=1: no such setting; did you mean finetune\.optim\.lr=1\?"):
        resolve(["recipe=demo", "finetune.lr=1"])
