"""`vcrast replay`: toy runs that overflow at a known step, and what is said of them."""

import itertools
import shutil
from types import SimpleNamespace

import pytest
import torch
from small_run import small

import vcrast.train
from vcrast.cli.main import main
from vcrast.cli.replay import bad_clips
from vcrast.config.compose import compose
from vcrast.data.loader import Batch
from vcrast.run import run
from vcrast.runs.bad_step import find_bad_step
from vcrast.runs.checkpoint import load
from vcrast.training.exact import exact_backward

FEW = ("data.options.num_clips=30", "pretrain.batch_size=8", "finetune.batch_size=8")


def poisoned(monkeypatch, *, at, poison, last=99):
    """Let `poison(objective)` change weights before step number `at`, from 1; the run ends after step `last`."""
    steps = itertools.count(1)

    def step(engine, objective, *rest):
        number = next(steps)
        if number > last:
            raise InterruptedError
        if number == at:
            with torch.no_grad():
                poison(objective)
        return exact_backward(engine, objective, *rest)

    monkeypatch.setattr(vcrast.train, "exact_backward", step)


def replayed(folder, capsys):
    capsys.readouterr()
    code = main(["replay", str(folder), "--device", "cpu"])
    return code, capsys.readouterr().out


def states(folder):
    """Of all files but the log, which the run's handlers in this process still write."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "train.log"}


@pytest.fixture(scope="module")
def overflowed(tmp_path_factory):
    """A pretraining in fp16 of 4 steps; from the third on a layer of the second block gives more than fp16 holds."""
    folder = tmp_path_factory.mktemp("replay") / "overflowed"

    def poison(objective):
        objective.encoder.blocks[1].fc1.bias += 1e5

    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, at=3, poison=poison, last=3)
        with pytest.raises(InterruptedError):
            run(compose(small(folder, *FEW, "precision=fp16", "stages=[pretrain]")))
    return folder


def test_precision_is_told_from_weights_and_the_layer_is_named(overflowed, capsys):
    log = (overflowed / "train.log").read_text()
    assert f"fold 1 pretrain, step 3: the loss is not finite; `vcrast replay {overflowed}` repeats it" in log
    assert len(list((overflowed / "bad_step").iterdir())) == 1
    before = states(overflowed)
    code, out = replayed(overflowed, capsys)
    assert code == 0
    assert out.startswith("fold 1 pretrain, step 3, fp16 on cpu\nin fp16: the loss is nan\n")
    first = "first layer whose output is not finite: encoder.blocks.1.fc1 (RealLinear)"
    assert f"{first}, float16: all values infinite, of what it was given " in out
    assert "encoder.blocks.1.fc1 (RealLinear), float32: largest |value| 1e+05" in out
    assert "it is the precision, fp16" in out
    assert states(overflowed) == before


def test_the_whole_batch_is_kept_by_number(overflowed):
    kept = load(find_bad_step(overflowed))
    assert (kept["stage"], kept["fold"], kept["step"], kept["precision"]) == ("pretrain", "1", 2, "fp16")
    assert len(set(kept["clips"])) == 8
    assert 1 <= kept["loss_scale"]["scale"] < 2.0**16


def test_nothing_to_replay_is_said_in_one_line(overflowed, tmp_path, capsys):
    shutil.copy(overflowed / "config.yaml", tmp_path)
    assert replayed(tmp_path, capsys) == (0, "nothing to replay: no step of this run had a loss that was not finite\n")
    assert main(["replay", str(tmp_path / "nowhere")]) == 2


@pytest.mark.slow
def test_a_run_that_stops_says_the_way_and_finetuning_is_repeated(overflowed, monkeypatch, capsys):
    poisoned(monkeypatch, at=2, poison=lambda objective: objective.head[-1].weight.fill_(float("nan")))
    folder = overflowed.parent / "stopped"
    with pytest.raises(FloatingPointError, match=rf"step 4: the loss.* `vcrast replay {folder}` says where it began"):
        run(compose(small(folder, *FEW, "stages=[finetune]")))
    code, out = replayed(folder, capsys)
    assert code == 0
    assert "fold 1 finetune, step 2, fp32" in out
    assert "weights that are not finite: head.1.weight\n" in out
    assert "not finite: head.1 (Linear), float32: all values NaN, of what it was given " in out
    assert "it is not the precision" in out


def test_clips_that_are_not_finite_are_named():
    clips = SimpleNamespace(clips=[SimpleNamespace(where=f"{number}.wav") for number in range(5)])
    wavs = torch.zeros(3, 100)
    wavs[1, 7] = float("inf")
    batch = Batch(wavs, torch.zeros(3, 0), torch.tensor([4, 2, 0]))
    assert list(bad_clips(wavs, batch, clips)) == ["2.wav: samples that are not finite"]
    pairs = Batch(wavs.unsqueeze(1).expand(-1, 2, -1), *batch[1:])
    assert list(bad_clips(pairs.wav, pairs, clips)) == ["sound 1 of the batch: samples that are not finite"]
