import re

import pytest
import yaml

from vcrast.config.compose import compose, to_dict
from vcrast.config.resume import resolve
from vcrast.config.saved import changed, load_config, read_saved, save_config


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
    "words", [["recipe=demo"], ["recipe=synth", "attention=rfa", "optim=lars", "engine=deepspeed"]]
)
def test_a_file_of_an_earlier_version_is_completed_and_says_so(words, file, caplog):
    config = compose([*words, "run.seed=7"])
    save_config(config, file)

    def age(settings):
        del settings["launch"], settings["slurm"], settings["engine"]["compile"]
        del settings["pretrain"]["watch_clips"]

    rewrite(file, age)
    expected = compose(words)
    config.launch, config.slurm, config.engine["compile"] = expected.launch, expected.slurm, expected.engine["compile"]
    config.pretrain.watch_clips = expected.pretrain.watch_clips
    assert to_dict(load_config(file)) == to_dict(config)
    (record,) = caplog.records
    named = set(re.split(", ", record.getMessage().partition("defaults: ")[2]))
    assert named == {"launch", "slurm", "engine.compile", "pretrain.watch_clips"}


def test_what_the_user_chose_is_not_completed(file):
    config = compose(["recipe=synth", "data=synthetic"])
    save_config(config, file)

    def choose(settings):
        settings["source"]["distances"] = {}  # the recipe has an entry there
        settings["data"]["options"] = {}
        settings["attention"] = {"name": "mine", "module": "somewhere.mine"}  # no option of ours
        settings["recipe"] = "mine"

    rewrite(file, choose)
    loaded = load_config(file)
    assert loaded.source["distances"] == loaded.data.options == {}
    assert loaded.attention == {"name": "mine", "module": "somewhere.mine"}


def test_a_key_of_no_version_is_still_an_error(file):
    save_config(compose(["recipe=demo"]), file)
    rewrite(file, lambda settings: settings["pretrain"].update(bach_size=3))
    with pytest.raises(ValueError, match="bach_size"):
        load_config(file)


def test_what_is_no_file_of_settings(file):
    with pytest.raises(FileNotFoundError, match=r"a run folder holds config.yaml"):
        read_saved(file)
    file.write_text("- a\n- list\n")
    with pytest.raises(ValueError, match=r"is it the config.yaml of a run"):
        read_saved(file)


def test_changes_name_keys_that_exist(file):
    save_config(compose(["recipe=demo"]), file)
    assert changed(read_saved(file), ["optim.lr=0.5"]).optim.lr == 0.5
    for wrong in ("optim.lrr=0.5", "optim.lr", "attention=rfa.x"):
        with pytest.raises(ValueError, match=r"takes key=value|a resumed run"):
            changed(read_saved(file), [wrong, "nothing=1"])


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    config = resolve(["recipe=demo", f"run.dir={tmp_path}"])
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "checkpoints").mkdir()
    rewrite(tmp_path / "config.yaml", lambda settings: settings.pop("source"))
    assert to_dict(resolve([f"run.resume={tmp_path}"])) == to_dict(config)
    assert to_dict(resolve(["recipe=demo", f"run.dir={tmp_path}"])) == to_dict(config)
