import pytest
import yaml

from vcrast.config.compose import compose, to_dict
from vcrast.config.resume import resolve
from vcrast.config.saved import changed, load_config, read_saved, read_summary, save_config


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.yaml"


def rewrite(file, change):
    settings = yaml.safe_load(file.read_text())
    change(settings)
    file.write_text(yaml.safe_dump(settings))


def test_saved_settings_load_back_equal(file, caplog):
    config = compose(["recipe=demo", "run.seed=7"])
    save_config(config, file)
    assert to_dict(load_config(file)) == to_dict(config)
    assert not caplog.records


@pytest.mark.parametrize(
    ("age", "named"),
    [
        (lambda settings: settings.pop("launch"), "launch"),
        (lambda settings: settings["finetune"].pop("drop_path"), "finetune.drop_path"),
        (lambda settings: settings["pretrain"].update(bach_size=3), "pretrain.bach_size"),
        (lambda settings: settings.update(extra=3), "extra"),
        (lambda settings: settings["pretrain"].update(batch_size="many"), "pretrain.batch_size=many"),
    ],
)
def test_a_file_of_another_version_is_refused_in_one_line_that_names_the_key(file, age, named):
    save_config(compose(["recipe=demo"]), file)
    rewrite(file, age)
    for read in (load_config, read_saved):
        with pytest.raises(ValueError, match=rf"config.yaml: {named}\b.*another version of vcrast wrote it") as caught:
            read(file)
        assert "\n" not in str(caught.value)


def test_what_a_part_of_ones_own_is_given_stays(file):
    save_config(compose(["recipe=synth", "data=synthetic"]), file)

    def choose(settings):
        settings["source"]["distances"] = {}  # the recipe has an entry there
        settings["data"]["options"] = {}
        settings["attention"] = {"name": "mine", "module": "somewhere.mine"}  # no option of ours
        settings["recipe"] = "mine"

    rewrite(file, choose)
    loaded = load_config(file)
    assert loaded.source["distances"] == loaded.data.options == {}
    assert loaded.attention == {"name": "mine", "module": "somewhere.mine"}


def test_what_is_no_file_of_settings(file):
    with pytest.raises(FileNotFoundError, match=r"a run folder holds config.yaml"):
        read_saved(file)
    file.write_text("- a\n- list\n")
    with pytest.raises(ValueError, match=r"is it the config.yaml of a run"):
        read_saved(file)


@pytest.mark.parametrize("content", [b"", b"\n", b"run: {dir: \n", b"\xff\xfe"])
def test_a_damaged_file_is_called_so(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"config.yaml: damaged.*overrides\.txt") as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


def test_a_damaged_summary_is_called_so_and_says_what_becomes_of_the_run(tmp_path):
    path = tmp_path / "summary.json"
    assert read_summary(path) == {}
    for content in ("", '{"folds": {"1": {', "[]"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"summary.json: damaged \(.*delete it: pretraining is found again"):
            read_summary(path)


def test_changes_name_keys_that_exist(file):
    save_config(compose(["recipe=demo"]), file)
    assert changed(read_saved(file), ["optim.lr=0.5"]).optim.lr == 0.5
    for wrong in ("optim.lrr=0.5", "optim.lr", "attention=rfa.x"):
        with pytest.raises(ValueError, match=r"takes key=value|a resumed run"):
            changed(read_saved(file), [wrong, "nothing=1"])


def test_parts_may_be_chosen_anew(file):
    save_config(compose(["recipe=demo"]), file)
    saved = read_saved(file)
    found = changed(saved, ["engine.zero_stage=2", "engine=deepspeed", "evaluation=knn", "finetune.optim=lars"])
    assert (found.engine.name, found.engine.zero_stage) == ("deepspeed", 2)
    assert (list(found.evaluation), found.finetune.optim.name) == (["knn"], "lars")
    assert saved.engine.name == "torch"
    with pytest.raises(ValueError, match=r"engine=deepsped: no configs/engine/deepsped.yaml; did you mean deepspeed"):
        changed(saved, ["engine=deepsped"])


def test_a_run_of_another_version_does_not_go_on(tmp_path):
    config = resolve(["recipe=demo", f"run.dir={tmp_path}"])
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    rewrite(tmp_path / "config.yaml", lambda settings: settings.pop("source"))
    for words in ([f"run.resume={tmp_path}"], ["recipe=demo", f"run.dir={tmp_path}"]):
        with pytest.raises(ValueError, match=r"source.*another version"):
            resolve(words)
