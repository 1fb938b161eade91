"""The user's own options beside those of `configs/`."""

import shutil

import pytest

from launch.arguments import parse
from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.config.files import options
from vcrast.config.resume import resolve
from vcrast.config.saved import save_config


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a space in its name, as users have them."""
    folder = tmp_path / "my options"
    (folder / "attention").mkdir(parents=True)
    (folder / "attention" / "mine.yaml").write_text("# Mine\nname: softmax\n")
    monkeypatch.setenv("VCRAST_CONFIGS", str(folder))
    return folder


def test_an_own_option_is_composed_listed_and_suggested(own, capsys):
    assert compose(["attention=mine"]).attention == {"name": "softmax"}
    assert dict(options("attention"))["mine"] == "Mine"
    assert main(["list", "attention"]) == 0
    assert "mine " in capsys.readouterr().out
    with pytest.raises(ValueError, match="did you mean mine"):
        compose(["attention=min"])


def test_a_file_that_would_never_be_read_is_refused(own):
    (own / "attention" / "softmax.yaml").write_text("name: other\n")
    with pytest.raises(ValueError, match=r"softmax\.yaml has the name of a file of vcrast"):
        compose()


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VCRAST_CONFIGS", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"VCRAST_CONFIGS=.*nowhere: no such folder"):
        compose()


def test_two_folders_are_joined_as_in_path(own, tmp_path, monkeypatch):
    (tmp_path / "more" / "attention").mkdir(parents=True)
    (tmp_path / "more" / "attention" / "other.yaml").write_text("name: rfa\n")
    monkeypatch.setenv("VCRAST_CONFIGS", f"{own}:{tmp_path / 'more'}")
    assert [compose([f"attention={name}"]).attention["name"] for name in ("mine", "other")] == ["softmax", "rfa"]


RECIPE = "# @package _global_\n# {}\ndefaults: [demo, {{override /attention: mine}}, _self_]\npretrain: {{steps: 3}}\n"


@pytest.fixture
def recipes(own, tmp_path, monkeypatch):
    """A folder for `--recipes` with an option of another group, and `vcrast_recipes` in the working directory."""
    monkeypatch.setenv("VCRAST_CONFIGS", "")
    monkeypatch.chdir(tmp_path)
    (own / "mine.yaml").write_text(RECIPE.format("My own"))
    (tmp_path / "vcrast_recipes").mkdir()
    (tmp_path / "vcrast_recipes" / "here.yaml").write_text(RECIPE.format("Found here"))
    return own


@pytest.mark.parametrize("flag", [["--recipes", "my options"], ["--recipes=my options"]])
def test_own_recipes_are_composed_and_listed_with_their_place(recipes, flag, capsys):
    for name in ("mine", "here"):
        arguments = parse([*flag, name, "run.seed=1"])
        config = compose(arguments.overrides)
        assert (config.recipe, config.pretrain.steps, config.attention) == (name, 3, {"name": "softmax"})
    assert main(["list", "recipe", *flag]) == 0
    listed = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in listed.splitlines()]
    assert f"mine My own [{recipes}/mine.yaml]" in rows
    assert f"here Found here [{recipes.parent}/vcrast_recipes/here.yaml]" in rows


def test_a_run_goes_on_without_the_folder_of_its_recipe(recipes, tmp_path, monkeypatch):
    config = resolve([*parse(["here", "--recipes", str(recipes)]).overrides, f"run.dir={tmp_path / 'run'}"])
    (tmp_path / "run").mkdir()
    save_config(config, tmp_path / "run" / "config.yaml")
    shutil.rmtree(recipes)
    shutil.rmtree(tmp_path / "vcrast_recipes")
    monkeypatch.setenv("VCRAST_CONFIGS", "")
    again = resolve(parse([f"run.resume={tmp_path / 'run'}"]).overrides)
    assert (again.recipe, again.pretrain, again.attention) == (config.recipe, config.pretrain, config.attention)


def test_recipes_of_one_name_and_folders_that_are_not_there_are_refused(recipes):
    with pytest.raises(ValueError, match="--recipes nowhere: no such folder"):
        parse(["--recipes", "nowhere", "mine"])
    (recipes / "here.yaml").write_text("")
    with pytest.raises(ValueError, match=r"vcrast_recipes/here\.yaml has the name of .*my options/here\.yaml"):
        parse(["mine", "--recipes", str(recipes)])
    (recipes / "here.yaml").rename(recipes / "demo.yaml")
    with pytest.raises(ValueError, match=r"demo\.yaml has the name of a file of vcrast"):
        parse(["mine", "--recipes", str(recipes)])
