"""Run a real stage of a small model: plan, log lines, resume."""

import json
import logging
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from parts import make_batch, make_engine, make_vcr
from small_run import small

from vcrast.config.compose import compose
from vcrast.config.metric import Metric
from vcrast.data.clip import Clip
from vcrast.data.dataset import ClipDataset
from vcrast.data.loader import NoBatchError
from vcrast.objectives.vcr import VCR
from vcrast.runs.interrupt import Interrupt, Interrupted
from vcrast.runs.job import Job
from vcrast.runs.log import MetricLog
from vcrast.runs.stage import Stage, Watch
from vcrast.runs.summary import Summary
from vcrast.runs.validation import Validation
from vcrast.train import train
from vcrast.training.average import copy_weights
from vcrast.training.exact import Split
from vcrast.training.loss_scale import LossScale
from vcrast.training.schedule import Cosine

BATCH, STEPS, SAMPLES = 6, 4, 16000


class Begun:
    """A stage of a fold in a folder: built anew, as a new process would."""

    def __init__(
        self, folder, interrupt, *, micro_batch_size="auto", most_clips=None, precision="fp32", values=None,
        patience=None,
    ):  # fmt: skip
        config = compose(small(folder))
        summary = Summary(folder / "summary.json", recipe="demo", classes=("a", "b"))
        self.job = Job(
            config=config, run_dir=folder, fold="1", device=torch.device("cpu"), precision=precision,
            classes=("a", "b"), multilabel=False, train=one_clip(folder), test=None, mean=-5.0, std=4.0,
            log=MetricLog(folder, ["jsonl"], config={}),
            summary=summary, interrupt=interrupt,
        )  # fmt: skip
        self.objective = make_vcr(self.job.backbone(patch_stride=None), self.job.views(config.views))
        self.refused = limit_clips(self.objective, most_clips) if most_clips else []
        options = SimpleNamespace(
            batch_size=BATCH, micro_batch_size=micro_batch_size, epochs=1, steps=STEPS, log_every_steps=1
        )
        self.stage = Stage(
            self.job, "pretrain", options, objective=self.objective, engine=make_engine(self.objective),
            schedule=Cosine(lr=1e-3, total_steps=STEPS, steps_per_epoch=2, warmup_epochs=0, final_lr_ratio=0.1),
            steps_per_epoch=2,
            **({} if values is None else self.judged(values, patience)),
        )  # fmt: skip
        self.stage.begin((SAMPLES,))

    def judged(self, values, patience):
        """Average the weights, and take `values` for what they reach after each step."""
        validation = Validation("accuracy", patience)

        def measured(done):
            validation.note(done, values[done - 1], lambda: copy_weights(self.objective))

        return {"watches": [Watch(1, measured)], "ema_decay": 0.5, "validation": validation}

    def train(self, *, stop_at=None, waited_s=()):
        try:
            train(self.stage, self.batches(stop_at, waited_s))
        finally:
            self.job.log.close()
        return [line["loss"] for line in self.job.log.lines("pretrain", "1")]

    def batches(self, stop_at, waited_s=()):
        for step in range(self.stage.first, STEPS):
            if step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if step == 2:
                for seconds in waited_s:  # as the loader does while no batch comes
                    self.job.patience(seconds)
            wavs = torch.randn(BATCH, SAMPLES, generator=torch.Generator().manual_seed(step))
            yield make_batch(0.1 * wavs)


def one_clip(folder):
    """What a checkpoint describes the training by: how clips are padded."""
    sf.write(folder / "clip.wav", np.full(SAMPLES, 0.1), 16000)
    return ClipDataset(
        [Clip(str(folder / "clip.wav"), ())], num_classes=2, sample_rate=16000, clip_duration_s=1.0, pad="silence",
        store=None, seed=0,
    )  # fmt: skip


def limit_clips(objective, most):
    """Run out of memory when more clips than `most` are encoded at once; returns the sizes that were refused."""
    refused, represent = [], objective.represent

    def limited(inputs):
        count = len(next(iter(inputs.values())))
        if count > most:
            refused.append(count)
            raise torch.OutOfMemoryError(f"{count} clips do not fit")
        return represent(inputs)

    objective.represent = limited
    return refused


@pytest.fixture
def interrupt():
    with Interrupt() as found:
        yield found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_the_loss_scale_of_fp16_and_the_steps_it_skipped_are_logged(folder, interrupt, tmp_path):
    plain = Begun(folder, interrupt)
    plain.train()
    assert not {"loss_scale", "skipped_steps"} & next(plain.job.log.lines("pretrain", "1")).keys()
    (tmp_path / "scaled").mkdir()
    scaled = Begun(tmp_path / "scaled", interrupt)
    scaled.stage.engine.loss_scale = LossScale(torch.device("cpu"), scale=2.0**12, growth_interval=3)
    scaled.train()
    lines = list(scaled.job.log.lines("pretrain", "1"))
    assert [line["loss_scale"] for line in lines] == [2**12, 2**12, 2**13, 2**13]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0, 0]


def test_without_a_gpu_the_batch_is_not_cut_unless_asked(folder, interrupt, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        whole = Begun(folder, interrupt)
    assert (whole.stage.split, whole.stage.first) == (Split(BATCH), 0)
    assert "fold 1 pretrain: 6 clips at once; memory not measured; 0% extra compute" in caplog.text
    (tmp_path / "cut").mkdir()
    with caplog.at_level(logging.INFO):
        cut = Begun(tmp_path / "cut", interrupt, micro_batch_size=2)
    assert cut.stage.split.micro_batch_size == 2
    assert "fold 1 pretrain: 6 clips in 3 micro-batches of 2" in caplog.text
    assert cut.train() == pytest.approx(whole.train(), rel=1e-4)


@pytest.mark.parametrize(
    ("stop_at", "waited_s", "error", "said"),
    [
        (2, [2.0, 6.0], Interrupted, "SIGTERM while it waited for data, for 6 s"),
        (None, [2.0, 601.0], NoBatchError, r"no batch came for 601 s \(data\.timeout_s=600\): a disk does not answer"),
    ],
)
def test_what_is_done_is_saved_when_no_batch_comes(folder, interrupt, tmp_path, stop_at, waited_s, error, said):
    (tmp_path / "calm").mkdir()
    losses = Begun(tmp_path / "calm", interrupt).train(waited_s=[2.0, 599.0])
    with pytest.raises(error, match=said):
        Begun(folder, interrupt).train(stop_at=stop_at, waited_s=waited_s)
    with Interrupt() as calmed:
        again = Begun(folder, calmed)
        assert again.stage.first == 2
        assert again.train() == losses


@pytest.mark.parametrize("stop_at", [0, 2])
def test_averages_and_the_best_weights_go_on_with_a_stopped_stage(folder, interrupt, tmp_path, stop_at):
    (tmp_path / "calm").mkdir()
    judged = {"values": [0.5, 0.7, 0.6, 0.65], "patience": 3}
    calm = Begun(tmp_path / "calm", interrupt, **judged)
    calm.train()
    last = copy_weights(calm.objective)
    with pytest.raises(Interrupted):
        Begun(folder, interrupt, **judged).train(stop_at=stop_at)
    with Interrupt() as calmed:
        again = Begun(folder, calmed, **judged)
        assert again.stage.first == stop_at + 1
        again.train()
    for begun in (calm, again):
        with begun.stage.final_weights():
            assert same(copy_weights(begun.objective), begun.stage.validation.weights)
        assert same(copy_weights(begun.objective), last), "lent weights are taken back"
        assert begun.stage.validation.best_step == 2
    assert same(calm.stage.validation.weights, again.stage.validation.weights)
    assert same(calm.stage.average.weights, again.stage.average.weights)
    assert not same(calm.stage.average.weights, last)


def test_a_stage_ends_early_and_stays_ended(folder, interrupt):
    judged = {"values": [0.7, 0.6, 0.5, 0.9], "patience": 2}
    ended = Begun(folder, interrupt, **judged)
    assert len(ended.train()) == 3
    assert ended.stage.results()["steps"] == 3
    again = Begun(folder, interrupt, **judged)
    assert (again.stage.first, again.stage.over) == (3, True)
    assert len(again.train()) == 3
    assert again.stage.validation.best_step == 1


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_stopped_stage_goes_on_as_if_it_had_not_been_stopped(folder, interrupt, tmp_path):
    (tmp_path / "calm").mkdir()
    calm = Begun(tmp_path / "calm", interrupt)
    losses = calm.train()
    with pytest.raises(Interrupted, match=r"SIGTERM after step 2 of 4 \(pretrain, fold 1\)"):
        Begun(folder, interrupt).train(stop_at=1)
    with Interrupt() as calmed:
        again = Begun(folder, calmed)
        assert again.stage.first == 2
        assert again.train() == losses
    for name, weight in calm.objective.state_dict().items():
        assert torch.equal(weight, again.objective.state_dict()[name]), name
    assert again.stage.results()["loss"] == losses[-1]


def test_a_stage_that_begins_anew_keeps_no_number_of_before_its_first_step(folder, interrupt):
    killed = Begun(folder, interrupt)
    killed.job.log.log("pretrain", "1", 0, {"knn_accuracy": 0.5})
    killed.job.log.log("pretrain", "1", 1, {"loss": 3.0})
    killed.job.log.close()
    assert list(Begun(folder, interrupt).job.log.lines("pretrain", "1")) == []


def test_a_resumed_cut_stays_unless_another_is_asked_for(folder, interrupt, caplog):
    with pytest.raises(Interrupted):
        Begun(folder, interrupt, micro_batch_size=4).train(stop_at=1)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        resumed = Begun(folder, interrupt)
    assert resumed.stage.split.micro_batch_size == 4
    assert "micro-batches" not in caplog.text
    assert Begun(folder, interrupt, micro_batch_size=3).stage.split.micro_batch_size == 3


def test_a_smaller_cut_after_running_out_of_memory_is_remembered(folder, interrupt):
    tight = Begun(folder, interrupt, most_clips=3)
    with pytest.raises(Interrupted):
        tight.train(stop_at=1)
    assert tight.stage.split.micro_batch_size <= 3
    assert len(tight.refused) == 1  # in the first step alone
    with Interrupt() as calmed:
        again = Begun(folder, calmed, most_clips=3)
        again.train()
    assert again.refused == []
    assert again.stage.split == tight.stage.split


def test_a_longer_stage_goes_on_with_the_schedule_of_its_new_length(folder, interrupt, tmp_path, monkeypatch):
    short = Begun(folder, interrupt).train()
    monkeypatch.setattr("test_stage.STEPS", 8)
    longer = Begun(folder, interrupt)
    assert (longer.stage.first, longer.stage.num_steps) == (4, 8)
    losses = longer.train()
    assert losses[:4] == short
    lines = list(longer.job.log.lines("pretrain", "1"))
    assert [line["step"] for line in lines] == list(range(1, 9))
    rates = [Cosine(lr=1e-3, total_steps=n, steps_per_epoch=2, warmup_epochs=0, final_lr_ratio=0.1) for n in (4, 8)]
    assert [line["lr"] for line in lines] == [rates[step >= 4].lr(step) for step in range(8)]
    # By hand: four steps of one schedule, then four of the other, in one process.
    (tmp_path / "by_hand").mkdir()
    by_hand = Begun(tmp_path / "by_hand", interrupt)
    by_hand.stage.schedule.lr = lambda step: rates[step >= 4].lr(step)
    assert by_hand.train() == losses
    for name, weight in by_hand.objective.state_dict().items():
        assert torch.equal(weight, longer.objective.state_dict()[name]), name


@pytest.mark.parametrize("steps", [3, 4])
def test_no_more_steps_than_are_done_is_refused(folder, interrupt, monkeypatch, steps):
    monkeypatch.setattr("test_stage.STEPS", 6)
    with pytest.raises(Interrupted):
        Begun(folder, interrupt).train(stop_at=3)
    monkeypatch.setattr("test_stage.STEPS", steps)
    with pytest.raises(ValueError, match=rf"4 steps of 6 are done, this run has {steps}.*another run\.dir"):
        Begun(folder, interrupt)


def test_the_summary_says_how_the_objectives_numbers_are_shown(folder, interrupt, monkeypatch):
    monkeypatch.setattr(VCR, "parts", {**VCR.parts, "variance": Metric("Spread of each feature", "fixed", "lower")})
    monkeypatch.setattr(VCR, "note", "Falls, then rests.")
    Begun(folder, interrupt)
    found = json.loads((folder / "summary.json").read_text())
    assert Metric(**found["metrics"]["pretrain"]["variance"]) == VCR.parts["variance"]
    assert (found["parts"]["pretrain"], found["notes"]["pretrain"]) == (list(VCR.parts), "Falls, then rests.")
    assert {"steps", "loss", "wall_s"} <= set(found["metrics"]["pretrain"])


def test_going_on_in_another_number_type_is_said_and_kept(tmp_path, caplog):
    with Interrupt() as interrupt, pytest.raises(Interrupted):
        Begun(tmp_path, interrupt).train(stop_at=1)
    with Interrupt() as interrupt:
        assert not Begun(tmp_path, interrupt).job.summary.content["warnings"]
        assert "rounds differently" not in caplog.text
        begun = Begun(tmp_path, interrupt, precision="bf16")
    assert "pretrain: goes on with precision=bf16 after precision=fp32; the rest rounds differently" in caplog.text
    assert begun.job.summary.content["warnings"] == [
        "fold 1 pretrain: goes on with precision=bf16 after precision=fp32"
    ]
