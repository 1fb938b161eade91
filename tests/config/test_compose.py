"""Settings: what the command line may say, and what it is told when it is wrong."""

import json

import pytest

from vcrast.config.compose import compose, flatten
from vcrast.config.files import GROUPS, options
from vcrast.config.resume import FREE_ON_RESUME, STAGES, is_one_of, resolve, stage_settings
from vcrast.config.saved import save_config


def test_group_and_key_reach_the_typed_config():
    config = compose(["recipe=esc50", "model=small", "attention=softmax", "pretrain.batch_size=64", "data.folds=[2,3]"])
    assert (config.recipe, config.model["embed_dim"], config.attention["name"]) == ("esc50", 384, "softmax")
    assert (config.pretrain.batch_size, config.data.folds) == (64, [2, 3])


@pytest.mark.parametrize("recipe", [name for name, _ in options("recipe")])
def test_every_recipe_composes_under_its_own_name(recipe):
    assert compose([f"recipe={recipe}"]).recipe == recipe


@pytest.mark.parametrize(
    ("group", "option"), [(group, name) for group in GROUPS for name, _ in options(group)], ids=lambda item: item
)
def test_every_option_of_every_group_composes(group, option):
    assert compose([f"{group}={option}"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "attention=softmx",
            ["attention=softmx", "no configs/attention/softmx.yaml", "did you mean softmax?", "memory_efficient"],
        ),
        ("pretrain.batchsize=4", ["pretrain.batchsize=4", "did you mean batch_size?", "under pretrain"]),
        ("pretrian.epochs=4", ["pretrian.epochs=4", "did you mean pretrain?"]),
        ("attn=softmax", ["attn=softmax", "choose from"]),
        ("pretrain.batch_size=many", ["pretrain.batch_size=many", "Integer"]),
        ("pretrain.batch_size=0", ["pretrain.batch_size=0", "positive"]),
        ("pretrain.micro_batch_size=none", ["pretrain.micro_batch_size=none", "auto"]),
        ("precision=fp8", ["precision=fp8", "choose from auto"]),
        ("stages=[pretrain,finetun]", ["'finetun'", "did you mean finetune?"]),
        ("stages=[finetune,pretrain]", ["keep the order"]),
        ("finetune.views.freq_mask=3", ["did you mean freq_mask_bins?"]),
        ("data.options.x=1", ["data.options.x=1: no such setting; there is none under data.options"]),
    ],
)
def test_a_mistake_is_named_with_the_valid_choices(override, said):
    with pytest.raises(ValueError, match=r".") as caught:
        compose(["recipe=esc10", override])
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message, message


@pytest.mark.parametrize(
    "name", ["pretrain.steps", "checkpoint.keep", "checkpoint.every_steps", "evaluate.batch_size", "launch.timeout_s"]
)
def test_what_must_be_positive_is_refused_at_zero(name):
    with pytest.raises(ValueError, match=f"{name}=0.*: must be positive"):
        compose([f"{name}=0"])


def test_what_datasets_inherit_is_not_offered_as_one():
    with pytest.raises(ValueError, match=r"data=dataset: no configs/data/dataset.yaml") as caught:
        compose(["data=dataset"])
    offered = str(caught.value).partition("choose from ")[2].split(", ")
    assert offered == [name for name, _ in options("data")]
    assert "dataset" not in offered


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("data.cache_dir", True), ("engine.zero_stage", True), ("stages", True), ("logger", True),
        ("run.seed", False), ("run.dir", True),
        ("finetune.micro_batch_size", True), ("evaluate.batch_size", True), ("slurm.extra.nice", True),
        ("data.label", False), ("finetune.batch_size", False), ("views.patch_drop", False), ("recipe", False),
        ("data.sample_rate", False), ("optim.lr", False),
    ],
)  # fmt: skip
def test_which_settings_may_differ_when_a_run_goes_on(key, free):
    assert is_one_of(key, FREE_ON_RESUME) == free


def test_flatten_lists_every_leaf():
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": [2]})) == {"a.b": 1, "a.c": {}, "d": [2]}


def begin(folder, stage):
    """Leave what a run of an earlier version leaves of a stage that has begun: a checkpoint."""
    (folder / "checkpoints" / "fold_1" / stage).mkdir(parents=True)
    (folder / "checkpoints" / "fold_1" / stage / f"step_00000004-{'0' * 16}.pt").touch()


def test_settings_of_a_stage_that_has_not_begun_may_change(tmp_path):
    save_config(resolve(["recipe=demo", f"run.dir={tmp_path}"]), tmp_path / "config.yaml")
    begin(tmp_path, "pretrain")
    again = f"run.resume={tmp_path}"
    assert resolve([again, "finetune.batch_size=8"]).finetune.batch_size == 8
    assert resolve([again, "pretrain.steps=9", "evaluation.knn.k=3"]).pretrain.steps == 9  # vcrast.runs.resume judges
    for word in ("model.depth=2", "run.seed=1", "data.clip_duration_s=1.5", "pretrain.batch_size=8"):
        with pytest.raises(ValueError, match=rf"other settings \({word.partition('=')[0]}: .* choose another run.dir"):
            resolve([again, word])
    begin(tmp_path, "finetune")
    with pytest.raises(ValueError, match=r"finetune\.batch_size: 32 -> 8.*model\.checkpoint=.*\[finetune,evaluate\]"):
        resolve([again, "finetune.batch_size=8"])


def test_what_a_stage_was_begun_with_counts_not_what_was_asked_for_since(tmp_path):
    config = resolve(["recipe=demo", f"run.dir={tmp_path}"])
    begun = {"1": {"pretrain": {"settings": stage_settings(config, "pretrain")}}}
    (tmp_path / "summary.json").write_text(json.dumps({"inputs": begun}))
    save_config(resolve(["recipe=demo", f"run.dir={tmp_path}/other", "optim.lr=0.1"]), tmp_path / "config.yaml")
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.0005 -> 0\.1"):
        resolve([f"run.resume={tmp_path}"])
    assert resolve([f"run.resume={tmp_path}", "optim.lr=0.0005"])


def test_each_stage_reads_its_own_settings_and_those_of_all():
    config = resolve(["recipe=demo", "run.dir=x"])
    read = {stage: stage_settings(config, stage) for stage in STAGES}
    for key, stages in {
        "run.seed": STAGES, "model.depth": STAGES, "data.pad": STAGES, "data.options.num_clips": STAGES,
        "optim.lr": ("pretrain",), "source.name": ("pretrain",), "pretrain.batch_size": ("pretrain",),
        "pretrain.patch_stride": ("pretrain", "evaluate"), "finetune.optim.lr": ("finetune",),
        "evaluation.knn.k": ("evaluate",), "pretrain.steps": (), "finetune.epochs": (), "data.root": (), "run.dir": (),
        "finetune.micro_batch_size": (), "slurm.partition": (), "evaluate.batch_size": (),
    }.items():  # fmt: skip
        assert tuple(stage for stage in STAGES if key in read[stage]) == stages, key


def test_a_run_folder_refuses_other_settings(tmp_path):
    config = resolve(["recipe=demo", f"run.dir={tmp_path}"])
    save_config(config, tmp_path / "config.yaml")
    assert resolve(["recipe=demo", f"run.dir={tmp_path}", "optim.lr=0.5"]).optim["lr"] == 0.5  # nothing was done yet
    begin(tmp_path, "pretrain")
    with pytest.raises(ValueError, match=r"run.dir=.*optim.lr: .* -> 0.5.*choose another run.dir"):
        resolve(["recipe=demo", f"run.dir={tmp_path}", "optim.lr=0.5"])
    with pytest.raises(ValueError, match="holds a run already"):
        resolve(["recipe=demo", f"run.dir={tmp_path}", "run.resume=never"])
    assert resolve(["recipe=demo", f"run.dir={tmp_path}", "checkpoint.keep=3"]).checkpoint.keep == 3


def test_resume_by_folder_takes_the_saved_settings(tmp_path):
    config = resolve(["recipe=demo", f"run.dir={tmp_path}", "optim.lr=0.25"])
    save_config(config, tmp_path / "config.yaml")
    resumed = resolve([f"run.resume={tmp_path}", "data.num_workers=1"])
    assert (resumed.optim["lr"], resumed.data.num_workers, resumed.recipe) == (0.25, 1, "demo")
    begin(tmp_path, "pretrain")
    with pytest.raises(ValueError, match=r"optim\.lr"):
        resolve([f"run.resume={tmp_path}", "optim.lr=0.1"])
    with pytest.raises(FileNotFoundError, match=r"no config.yaml there"):
        resolve([f"run.resume={tmp_path}/nothing"])
