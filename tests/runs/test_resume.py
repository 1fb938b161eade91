"""Plan what a resumed run does: what is done stays, grows, is done again, or is refused."""

import functools
import json
from pathlib import Path

import pytest
from small_run import small

from vcrast.config.compose import compose_raw, to_config
from vcrast.config.saved import changed
from vcrast.runs.log import MetricLog
from vcrast.runs.resume import Before, by_fold, clear, notes_of, plan_folds, said_of, stage_inputs
from vcrast.runs.summary import Summary
from vcrast.training.schedule import Cosine

CLIPS = {fold: {"train": 48, "test": 12, "digest": fold} for fold in ("1", "2")}
STEPS = {"pretrain": 12, "finetune": 9}


@functools.cache
def composed(*groups):
    return compose_raw(small(Path("run"), *groups))


def settings(*words):
    """As `compose` does it, of which only the groups take Hydra's quarter of a second."""
    groups = [word for word in words if word.startswith("schedule=")]
    return to_config(changed(composed(*groups), [word for word in words if word not in groups]))


class Held:
    """A run folder in which some stages of some folds have been begun, as a process of this version leaves it."""

    def __init__(self, folder, *words, done=("pretrain", "finetune", "evaluate"), folds=("1",), begun=None):
        self.folder, self.config = folder / "run", settings(*words)
        self.folder.mkdir()
        summary, chain = self.summary(), {}
        for fold in folds:
            chain = {}
            for stage in [*done, *(begun or {})]:
                made = stage_inputs(self.config, stage, chain, clips=CLIPS[fold], num_clips=48)
                summary.begin(fold, stage, made)
                if stage in done:
                    chain[stage] = made
                    summary.record(fold, stage, {"steps": made["steps"]})
                self.checkpoint(fold, stage, (begun or STEPS).get(stage, made["steps"]))

    def checkpoint(self, fold, stage, step):
        place = self.folder / "checkpoints" / f"fold_{fold}" / stage
        if step:
            place.mkdir(parents=True)
            (place / f"step_{step:08d}-{'0' * 16}.pt").touch()

    def summary(self):
        return Summary(self.folder / "summary.json", recipe="demo", classes=("a", "b"))

    def plan(self, *words, folds=("1",), clips=CLIPS):
        before = Before(self.folder, self.config, self.summary())
        config = settings(*words)
        return plan_folds(config, before, clips=clips, sizes=dict.fromkeys(folds, 48)), before


def test_an_unchanged_run_has_nothing_to_do_again(tmp_path):
    plans, _ = Held(tmp_path).plan()
    assert (plans["1"].again, plans["1"].longer, plans["1"].said) == ([], [], [])
    # The same length in other words, and settings that change no number.
    plans, _ = Held(tmp_path / "b").plan("pretrain.steps=null", "pretrain.epochs=4", "data.root=x", "run.device=cpu")
    assert (plans["1"].again, plans["1"].longer) == ([], [])


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "b").mkdir()


def test_a_longer_pretraining_goes_on_and_all_after_it_is_done_again(tmp_path):
    plans, _ = Held(tmp_path, "schedule.warmup_epochs=0").plan("schedule.warmup_epochs=0", "pretrain.steps=24")
    assert (plans["1"].longer, plans["1"].again) == (["pretrain"], ["finetune", "evaluate"])
    old, new = (
        Cosine(lr=5e-4, total_steps=n, steps_per_epoch=3, warmup_epochs=0, final_lr_ratio=1e-3) for n in (12, 24)
    )
    assert notes_of(plans) == [
        "pretrain: 12 -> 24 steps: goes on from step 12; the cosine schedule is that of 24 steps from there on "
        f"(learning rate {old.lr(11):.2g} -> {new.lr(12):.2g}), which is not the run of 24 steps begun anew (fold 1)"
    ]
    assert said_of(plans) == [
        "finetune is done again: pretrain changed (fold 1)",
        "evaluate is done again: pretrain and finetune changed (fold 1)",
    ]


def test_a_plateau_has_had_the_rates_of_any_length(tmp_path, caplog):
    words = ("schedule=plateau", "stages=[pretrain]")
    plans, _ = Held(tmp_path, *words, done=("pretrain",)).plan(*words, "pretrain.steps=24")
    assert notes_of(plans) == [
        "pretrain: 12 -> 24 steps: goes on from step 12; so far the plateau schedule had the learning rates of 24 "
        "steps, too (fold 1)"
    ]
    assert "warm-up" not in caplog.text  # only the stage itself warns, of its own length


def test_a_longer_finetuning_leaves_pretraining_alone(tmp_path):
    plans, _ = Held(tmp_path).plan("finetune.steps=18")
    assert (plans["1"].longer, plans["1"].again) == (["finetune"], ["evaluate"])


@pytest.mark.parametrize("steps", [8, 11])
def test_fewer_steps_than_are_done_are_refused(tmp_path, steps):
    with pytest.raises(ValueError, match=rf"^pretrain\.steps={steps}: fold 1 has done 12 steps of 12;.*another run"):
        Held(tmp_path).plan(f"pretrain.steps={steps}")


def test_a_stopped_stage_may_also_become_shorter_but_not_than_it_is(tmp_path):
    held = Held(tmp_path, done=(), begun={"pretrain": 5})
    plans, _ = held.plan("pretrain.steps=6")
    assert "12 -> 6 steps: goes on from step 5" in notes_of(plans)[0]
    with pytest.raises(ValueError, match=r"pretrain\.steps=5: fold 1 has done 5 steps of 12"):
        held.plan("pretrain.steps=5")


def test_without_a_checkpoint_a_longer_stage_begins_anew(tmp_path):
    held = Held(tmp_path, "stages=[pretrain]", done=("pretrain",))
    for path in (held.folder / "checkpoints").rglob("*.pt"):
        path.unlink()
    plans, _ = held.plan("stages=[pretrain]", "pretrain.steps=24")
    assert (plans["1"].longer, plans["1"].again) == ([], ["pretrain"])
    assert "no checkpoint to go on from is left" in said_of(plans)[0]


def test_another_evaluation_is_done_again_alone(tmp_path):
    plans, _ = Held(tmp_path).plan("evaluation.knn.k=5")
    assert (plans["1"].longer, plans["1"].again) == ([], ["evaluate"])
    assert said_of(plans) == ["evaluate is done again: evaluation.knn.k: 10 -> 5 (fold 1)"]


def test_finetuning_from_scratch_is_no_result_of_a_run_that_pretrains_later(tmp_path):
    held = Held(tmp_path, "stages=[finetune,evaluate]", done=("finetune", "evaluate"))
    plans, _ = held.plan("stages=[finetune,evaluate]")
    assert plans["1"].again == []
    plans, _ = held.plan()
    assert plans["1"].again == ["finetune", "evaluate"]
    assert said_of(plans)[0] == "finetune is done again: it now starts from this run's pretrain (fold 1)"


@pytest.mark.parametrize(("folds", "said"), [(("1",), "stopped at step 4 of 12"), (("1", "2"), "stopped at step 4")])
def test_a_pretraining_that_was_stopped_is_not_left_out_in_silence(tmp_path, folds, said):
    held = Held(tmp_path, done=(), begun={"pretrain": 4})
    with pytest.raises(ValueError, match=rf"pretraining of fold 1 {said}.*leave stages out to go on"):
        held.plan("stages=[finetune,evaluate]", folds=folds)


def test_a_fold_that_has_not_pretrained_beside_one_that_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pretraining of fold 2 has not been done"):
        Held(tmp_path, done=("pretrain",)).plan("stages=[finetune,evaluate]", folds=("1", "2"))
    plans, _ = Held(tmp_path / "b", done=("pretrain",)).plan("stages=[finetune,evaluate]")
    assert list(plans["1"].inputs["finetune"]["weights"]) == ["pretrain"]


def test_the_means_do_not_mix_folds_of_two_lengths(tmp_path):
    held = Held(tmp_path, folds=("1", "2"))
    with pytest.raises(ValueError, match=r"also holds fold 2.*data\.folds=\[1,2\]"):
        held.plan("finetune.steps=18")
    plans, _ = held.plan("finetune.steps=18", folds=("1", "2"))
    assert [text.endswith("(fold 1, 2)") for text in (*notes_of(plans), *said_of(plans))] == [True, True]


def test_what_no_longer_counts_is_taken_back(tmp_path):
    held = Held(tmp_path)
    made = held.folder / "exported" / "fold_1" / "finetuned" / "weights.safetensors"
    made.parent.mkdir(parents=True)
    made.write_text("old")
    with MetricLog(held.folder, [], config={}) as metrics:
        for stage in ("finetune", "pretrain"):
            metrics.log(stage, "1", 3, {"loss": 1.0})
        plans, before = held.plan("pretrain.steps=24")
        clear(plans, before, metrics)
        assert [line["stage"] for line in metrics.file.lines()] == ["pretrain"]
    assert [path.parent.name for path in (held.folder / "checkpoints").rglob("*.pt")] == ["pretrain"]
    assert (held.folder / "earlier" / "1" / made.relative_to(held.folder)).read_text() == "old"
    stored = json.loads((held.folder / "summary.json").read_text())
    assert (stored["folds"], list(stored["inputs"]["1"])) == ({"1": {}}, ["pretrain"])
    again, _ = held.plan("pretrain.steps=24")  # killed here, the next start plans the same
    assert (again["1"].longer, again["1"].again) == (["pretrain"], [])


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Without the record of inputs, stages were made from the run's own settings."""
    held = Held(tmp_path)
    content = json.loads((held.folder / "summary.json").read_text())
    (held.folder / "summary.json").write_text(json.dumps({**content, "inputs": {}}))
    plans, _ = held.plan()
    assert (plans["1"].again, plans["1"].longer) == ([], [])
    plans, _ = held.plan("pretrain.steps=24")
    assert (plans["1"].longer, plans["1"].again) == (["pretrain"], ["finetune", "evaluate"])
    plans, before = held.plan("evaluation.knn.k=5", "stages=[evaluate]")
    assert plans["1"].again == ["evaluate"]
    with MetricLog(held.folder, [], config={}) as metrics:
        clear(plans, before, metrics)  # from now on they stand in the folder
    assert [(stage, found["steps"]) for stage, found in held.summary().content["inputs"]["1"].items()] == [
        ("pretrain", 12), ("finetune", 9),
    ]  # fmt: skip


def test_a_run_begun_without_the_content_of_its_clips_goes_on(tmp_path):
    held = Held(tmp_path)
    clips = {fold: {**found, "content": "c"} for fold, found in CLIPS.items()}
    plans, _ = held.plan(clips=clips)
    assert (plans["1"].again, plans["1"].longer) == ([], [])
    plans, _ = held.plan("evaluation.knn.k=5", clips=clips)
    assert plans["1"].again == ["evaluate"]


def test_equal_lines_of_folds_are_said_once():
    assert by_fold({"1": ["x", "y"], "2": ["x"]}) == ["x (fold 1, 2)", "y (fold 1)"]
