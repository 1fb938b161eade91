"""Refuse before the first step what can be known: options of later stages, sizes, labels."""

import functools
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from shipped import shipped_options
from small_run import small

from vcrast.cli.start import start
from vcrast.config.compose import compose_raw, flatten, to_config, to_dict
from vcrast.config.resume import is_one_of
from vcrast.config.saved import changed
from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.run import check
from vcrast.runs.check import check_parts, check_sizes, fold_notes, folds_of
from vcrast.runs.failure import explains_itself, message


@functools.cache
def composed(*sources):
    return compose_raw(small(Path("run"), *sources))


def settings(*words):
    """As `compose` does it, which takes a quarter of a second each time."""
    config = composed(*(word for word in words if word.startswith("source="))).copy()
    words = [word for word in words if not word.startswith("source=")]
    for word in words:
        group, _, name = word.partition("=")
        if is_group(word):
            options = shipped_options(f"{group.rpartition('.')[2]}/{name}")
            OmegaConf.update(config, group, options, merge=False, force_add=True)
    return to_config(changed(config, [word for word in words if not is_group(word)]))


def is_group(word):
    return word.partition("=")[0].rpartition(".")[2] in ("objective", "optim", "schedule", "engine")


WRONG = {
    ("finetune.objective.mix_by=foo",): "^finetune.objective.mix_by=foo: choose from clip, batch",
    ("finetune.objective.label_smoothing=2",): r"^finetune.objective.label_smoothing=2: must lie in \[0, 1\)",
    ("finetune.objective.mixup_alpha=0",): "^finetune.objective.mixup_alpha=0: must be above 0",
    ("finetune.objective=vcr",): "finetune.objective=vcr: finetuning trains a classifier",
    ("finetune.drop_path=1",): r"^finetune.drop_path=1.0: must lie in \[0, 1\)",
    ("finetune.patch_stride=[0,1]",): "^finetune.patch_stride=",
    ("finetune.views.patch_drop=5000",): r"finetune\.views\.patch_drop=5000: a clip has only \d+ tokens",
    ("finetune.views.time_stretch=[2,1]",): r"finetune\.views\.time_stretch=\[2, 1\]: give",
    ("finetune.views.gain_db=loud",): r"finetune\.views\.gain_db='loud': finetune\.views expects float",
    ("finetune.optim.weight_decay=-1",): r"finetune\.optim\.weight_decay=-1: must not be negative",
    ("optim.weight_decay=-1",): r"optim\.weight_decay=-1: must not be negative",
    ("finetune.optim.betas=[0.9,2]",): r"finetune\.optim\.betas=\[0\.9, 2\]: give two numbers in \[0, 1\)",
    ("optim.eps=0",): r"optim\.eps=0: must be above 0",
    ("finetune.optim.lr=-1",): r"^finetune.optim.lr=-1: must be above 0",
    ("finetune.optim.lr_per_batch=0",): r"finetune\.optim\.lr_per_batch=0: must be above 0; null",
    ("finetune.optim=lars", "finetune.optim.momentum=-3"): r"finetune\.optim\.momentum=-3: must lie in \[0, 1\)",
    ("finetune.optim=lars", "finetune.optim.trust_coeff=0"): r"finetune\.optim\.trust_coeff=0: must be above 0",
    ("finetune.schedule.final_lr_ratio=3",): r"finetune\.schedule\.final_lr_ratio=3: must lie in \[0, 1\]",
    ("finetune.schedule=plateau", "finetune.schedule.patience_epochs=-2"): r"finetune\.schedule\.patience_epochs=-2",
    ("finetune.schedule=plateau", "finetune.schedule.min_lr_ratio=2"): r"finetune\.schedule\.min_lr_ratio=2",
    ("engine=deepspeed", "finetune.optim=lars"): r"finetune\.optim=lars with engine=deepspeed: ZeRO",
    ("engine=deepspeed", "engine.zero_stage=7"): r"engine\.zero_stage=7: choose from 1, 2, 3",
    ("evaluation.knn.temperature=0",): r"evaluation\.knn\.temperature=0: must be above 0",
    ("evaluation.linear_probe.steps=0",): r"evaluation\.linear_probe\.steps=0: must be 1 or more",
    ("stages=[evaluate]", "pretrain.patch_stride=[0,0]"): r"^pretrain.patch_stride=\[0, 0\]",
    ("logger=[wandbb]",): "did you mean wandb",
    ("pretrain.batch_size=1",): r"^pretrain\.batch_size=1: objective=vcr needs at least 2 clips in a batch",
    ("optim.lr_per_batch=foo",): r"^optim\.lr_per_batch='foo': optim expects float or null",
    ("source=synth", "source.real_share=1"): r"^source\.real_share=1: must be at least 0 and below 1",
    ("source=synth", "source.pairs_per_epoch=3"): r"^source\.pairs_per_epoch=3: less than one batch",
    ("source=synth", "source.distance=-1"): r"source: .*distance=-1 must be",
    ("source=synth", "source.distances.nois=0.5"): r"nois",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_wrong_option_of_any_stage_is_found_at_once(words):
    with pytest.raises((ValueError, KeyError), match=WRONG[words]) as caught:
        check_parts(settings(*words))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "finetune.evaluate_every_epochs=0", "pretrain.watch_every_epochs=0", "pretrain.watch_clips=0",
        "finetune.clip_grad_norm=-1", "data.clip_duration_s=0",
    ],
)  # fmt: skip
def test_what_must_be_positive_says_so(word):
    with pytest.raises(ValueError, match=rf"^{word.partition('=')[0]}=.*must be positive"):
        settings(word)


def test_a_part_of_the_batch_is_not_larger_than_it():
    with pytest.raises(ValueError, match=r"^finetune\.micro_batch_size=17: is a part of finetune\.batch_size=16"):
        settings("finetune.micro_batch_size=17")
    assert settings("finetune.micro_batch_size=17", "stages=[pretrain]")  # which nobody reads


LATER = (
    "finetune", "evaluate", "evaluation", "pretrain", "optim", "schedule", "objective", "views", "source", "engine",
    "checkpoint", "launch", "precision", "data.num_workers",
)  # fmt: skip
MAY_BE_NEGATIVE = "background_snr_db"
CHOSEN = (
    (), ("source=synth",), ("finetune.optim=lars", "finetune.schedule=plateau"), ("objective=supervised",),
    ("optim=lars", "schedule=plateau"), ("engine=deepspeed",),
)  # fmt: skip


def wrong_settings(chosen):
    """Every setting of the later stages with values that it cannot have, beside the parts that are chosen."""
    for key, value in flatten(to_dict(settings(*chosen))):
        if not is_one_of(key, LATER) or key.endswith((".name", ".module")):
            continue
        values = ["foo"]
        if isinstance(value, int | float) and not isinstance(value, bool):
            values += [".nan", ".inf", "-1", "-1e9"]
        elif isinstance(value, list):
            values += ["[.nan,.nan]"] if key.endswith(MAY_BE_NEGATIVE) else ["[.nan,.nan]", "[-1,-2]"]
        yield from ((*chosen, f"{key}={wrong}") for wrong in values)


def test_a_wrong_value_of_any_setting_of_any_stage_is_refused_before_the_first_step(tmp_path):
    """A campaign: some settings drawn at random, `VCRAST_CAMPAIGN=50` draws so many, and 10000 all that there are."""
    every = [words for chosen in CHOSEN for words in wrong_settings(chosen)]
    number = min(len(every), int(os.environ.get("VCRAST_CAMPAIGN", "10")))
    for words in random.Random(number).sample(every, number):
        key = words[-1].partition("=")[0]
        with pytest.raises((ValueError, KeyError)) as caught:
            check(replace(settings(*words), run=replace(settings().run, dir=str(tmp_path / "run"))))
        text = message(caught.value)
        assert key.rpartition(".")[2] in text, (words, text)
        assert "\n" not in text
        assert explains_itself(caught.value), words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["finetune.objective.mix_by=foo", "evaluation.knn.temperature=0", "logger=[wandbb]"])
def test_a_rehearsal_and_the_run_refuse_alike(tmp_path, word):
    for dry_run in (True, False):
        with pytest.raises((ValueError, KeyError), match=r"mix_by=foo|temperature=0|wandbb"):
            start(small(tmp_path / "run", word), dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_what_a_run_does_not_read_is_not_checked_and_nothing_is_left_of_the_check(caplog):
    before = torch.get_rng_state()
    check_parts(settings("stages=[pretrain]", "finetune.drop_path=1", "pretrain.steps=1"))
    assert torch.equal(torch.get_rng_state(), before)
    assert not caplog.records  # that one step ends within the warm-up is for the stage to say


def corpus(*rows, classes=("cat", "dog", "owl"), folds=("1", "2")):
    clips = tuple(Clip(f"{number}.wav", labels, fold=fold) for number, (labels, fold) in enumerate(rows))
    return Corpus("manifest", clips, classes, False, folds)


WITHOUT_FOLDS = corpus(((0,), ""), ((1,), ""), folds=())
UNLABELLED = corpus(((), "1"), ((), "2"), classes=())
BARE = corpus(((), ""), ((), ""), classes=(), folds=())


@pytest.mark.parametrize(
    ("found", "words", "said"),
    [
        (WITHOUT_FOLDS, (), r'nothing to test on \(no folds\); set "stages=\[pretrain,finetune\]"'),
        (BARE, (), r"nothing to test on \(no folds, or no labels\); set stages=\[pretrain\]"),
        (BARE, ("stages=[pretrain,finetune]",), r"nothing to test on.*set stages=\[pretrain\]"),
        (UNLABELLED, (), r"finetune needs labels, which data=manifest does not have; .*data\.label=COLUMN"),
        (UNLABELLED, ("stages=[pretrain,evaluate]",), "evaluate needs labels"),
    ],
)
def test_stages_that_need_labels_or_test_clips_are_refused(found, words, said):
    with pytest.raises(ValueError, match=said):
        folds_of(settings(*words, "data.folds=null"), found)


def test_supervised_pretraining_needs_labels_too():
    config = settings("stages=[pretrain]", "data.folds=null")
    assert folds_of(config, UNLABELLED) == ["1"]
    config.objective = config.finetune.objective
    with pytest.raises(ValueError, match=r"objective=supervised: needs labels"):
        folds_of(config, UNLABELLED)


def test_data_without_folds_is_trained_on_whole_and_tests_nothing():
    assert folds_of(settings("stages=[pretrain,finetune]", "data.folds=null"), WITHOUT_FOLDS) == ["all"]
    assert [len(part) for part in WITHOUT_FOLDS.split("all")] == [2, 0]
    assert fold_notes(WITHOUT_FOLDS, ["all"]) == [
        "a single training clip of cat, dog",
        "no test clips: trained on all 2 clips, so nothing says how well it does on others",
    ]
    assert fold_notes(BARE, ["all"]) == []


def test_the_smallest_fold_decides_whether_a_batch_can_be_filled():
    config = settings()
    check_sizes(config, {"1": 48, "2": 16})
    with pytest.raises(ValueError, match=r"^pretrain\.batch_size=16: fold 2 has only 15 .*batch_size=12 or lower"):
        check_sizes(config, {"1": 48, "2": 15, "3": 12})
    with pytest.raises(ValueError, match=r"^finetune\.batch_size=40: fold 2 has only 20 "):
        check_sizes(settings("finetune.batch_size=40"), {"1": 48, "2": 20})
    check_sizes(settings("finetune.batch_size=40", "stages=[pretrain]"), {"2": 20})


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr("vcrast.runs.check.world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"pretrain\.batch_size=16: 3 processes cannot share it"):
        check_sizes(settings(), {"1": 48})


def test_classes_that_cannot_be_learnt_or_measured_are_named_fold_by_fold():
    rows = [((0,), "1"), ((0,), "1"), ((1,), "1"), ((1,), "2"), ((0,), "2"), ((2,), "2"), ((0,), "3"), ((0,), "3")]
    found = corpus(*rows, folds=("1", "2", "3"))
    assert fold_notes(found, ["1", "2", "3"]) == [
        "fold 1: a single training clip of dog, owl",
        "fold 2: no training clip of owl, which the test clips have: they cannot be recognised",
        "fold 2: a single training clip of dog",
        "fold 3: a single training clip of owl",
        "fold 3: all test clips are of one class (cat): AUC and what is made from it are undefined",
    ]


def test_of_many_classes_the_first_few_are_named():
    names = tuple("abcdefgh")
    rows = [((0,), "1"), ((0,), "1"), *(((number,), "2") for number in range(8))]
    [first, *_] = fold_notes(corpus(*rows, classes=names), ["2"])
    assert first.startswith("fold 2: no training clip of b, c, d, e, f and 2 more, which the test clips have")
    assert "fold 2: all training clips are of one class (a)" in fold_notes(corpus(*rows, classes=names), ["2"])
