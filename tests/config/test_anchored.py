"""Paths of a run that goes on elsewhere."""

from pathlib import Path

from vcrast.config.resume import resolve
from vcrast.config.saved import save_config


def test_relative_paths_become_absolute_and_serve_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for place in ("here/sounds", "here/weights", "here/hums", "there"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "here/clips.csv").touch()
    monkeypatch.chdir(tmp_path / "here")
    words = ["recipe=demo", "data=manifest", "data.root=sounds", "data.path=clips.csv", "data.cache_dir=cache"]
    words += ["finetune.views.background_folder=hums", "finetune.views.background_probability=0.5"]
    config = resolve([*words, "model.checkpoint=weights", "run.dir=run"])
    here = tmp_path / "here"
    assert [config.data.root, config.data.path, config.data.cache_dir] == [
        str(here / "sounds"), str(here / "clips.csv"), str(here / "cache"),
    ]  # fmt: skip
    assert config.model["checkpoint"] == str(here / "weights")
    assert config.finetune.views["background_folder"] == str(here / "hums")
    assert config.views["background_folder"] is None
    (here / "run").mkdir()
    save_config(config, here / "run" / "config.yaml")
    monkeypatch.chdir(tmp_path / "there")
    (here / "run").rename(tmp_path / "there" / "moved")
    again = resolve(["run.resume=moved"])
    assert (again.data, again.model, again.finetune) == (config.data, config.model, config.finetune)
    (tmp_path / "there" / "other").mkdir()
    assert resolve(["run.resume=moved", "data.root=other"]).data.root == str(tmp_path / "there" / "other")


def test_the_place_of_a_download_is_absolute_too_and_what_is_no_path_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = resolve(["recipe=esc50", "model.checkpoint=timm:x"])
    assert (found.data.root, found.model["checkpoint"]) == ("data/esc50", "timm:x")
    (tmp_path / "data" / "esc50").mkdir(parents=True)
    assert resolve(["recipe=esc50"]).data.root == str(tmp_path / "data" / "esc50")
    assert resolve(["recipe=demo"]).data.root is None
    words = ["views.background_folder=_background_noise_", "views.background_probability=0.5"]
    assert resolve(["recipe=demo", *words]).views["background_folder"] == "_background_noise_"  # below data.root
