"""Paths of any letters and signs pass through Hydra's grammar as they were typed."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.arguments import resumed_folder
from launch.sweep import expand, is_sweep
from vcrast.config import quoting
from vcrast.config.compose import compose
from vcrast.config.quoting import for_hydra, literal, text_settings
from vcrast.config.saved import changed, read_saved, save_config

ODD = [
    "/tmp/jürgen", "/tmp/音声", "/tmp/data (1)",
    "/tmp/a=b", "/tmp/R&D", "/tmp/it's", '/tmp/"x"', "#1", "{x}", "[x]", "$HOME/x",
    "${oc.env:HOME}", "a\\", "a\\'", "C:\\sounds\\new", "x: y", " a ", "null/", "true", "1e3", "a,b",
    "choice(1,2)", "\\${x}",
    "'", "a'b'c", "%20", "*?", "!x", "@x", "`x`", "a;b|c",
]  # fmt: skip


@pytest.mark.parametrize("value", ODD)
def test_odd_paths_are_taken_as_they_were_typed(value: str) -> None:
    assert quoting_round_trip(value) == value


def test_odd_paths_through_a_whole_composition() -> None:
    words = ["data.root=/a=b, (1)/it's/jürgen", "data.label=${x}\\", "data.cache_dir=#1 {x}"]
    found = compose(["recipe=demo", "data=folder", *words]).data
    assert [f"data.root={found.root}", f"data.label={found.label}", f"data.cache_dir={found.cache_dir}"] == words


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(max_examples=60)
@given(TEXT.filter(lambda text: not quoting.is_quoted(text) and not text.startswith("~") and text != "null"))
def test_any_text_is_taken_as_it_was_typed(value: str) -> None:
    assert quoting_round_trip(value) == value


def quoting_round_trip(value: str) -> object:
    """Through Hydra's parser and OmegaConf, without composing a whole run."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_override(for_hydra(f"data.root={value}")).value()
    return OmegaConf.create({"root": parsed}).root


def test_words_that_the_user_has_quoted_stay() -> None:
    assert for_hydra("data.root='/a b'") == "data.root='/a b'"
    assert compose(["recipe=demo", "data=folder", "data.root='/a b'"]).data.root == "/a b"
    assert literal("'it\\'s'") == "it's"


@pytest.mark.parametrize(
    "word",
    ["run.seed=3", "data.folds=[1,2]", "stages=[finetune]", "attention=rfa", "pretrain.steps=null", "data.cache=false",
     "optim.lr=1e-3", "data.root=null", "data.options={a: 1}", "-m"],
)  # fmt: skip
def test_other_words_stay(word: str) -> None:
    assert for_hydra(word) == word


def test_home_is_expanded_in_paths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    found = compose(["recipe=demo", "data=folder", "data.root=~/Töne", "data.label=~x"])
    assert (found.data.root, found.data.label) == ("/home/anna/Töne", "~x")
    assert resumed_folder(["run.resume=~/runs/a b"]) == "/home/anna/runs/a b"


def test_a_comma_separates_values_of_a_sweep_unless_the_whole_exists(tmp_path: Path) -> None:
    whole = tmp_path / "a,b"
    assert is_sweep([f"data.root={whole}"])
    runs = [words for words, _ in expand([f"data.root={tmp_path}/c d,{tmp_path}/it's"])]
    assert [compose(["recipe=demo", "data=folder", *words]).data.root for words in runs] == [
        f"{tmp_path}/c d", f"{tmp_path}/it's"
    ]  # fmt: skip
    whole.mkdir()
    assert not is_sweep([f"data.root={whole}"])


def test_none_may_be_one_of_several_values() -> None:
    runs = expand(["recipe=demo", "model.checkpoint=/a/run,null"])
    assert [words[-1] for words, _ in runs] == ["model.checkpoint='/a/run'", "model.checkpoint=null"]
    assert compose(runs[1][0]).model["checkpoint"] is None


def test_a_resumed_run_takes_the_same_words(tmp_path: Path) -> None:
    save_config(compose(["recipe=demo"]), tmp_path / "config.yaml")
    saved = read_saved(tmp_path / "config.yaml")
    for value in ODD:
        again = changed(saved, [f"data.root={value}", "pretrain.steps=7"])
        assert (again.data.root, again.pretrain.steps) == (value, 7)


def test_every_text_of_the_schema_is_known() -> None:
    assert {"data.root", "data.path", "data.label", "run.dir", "model.checkpoint", "slurm.partition"} <= text_settings()
    assert not {"run.seed", "data.folds", "data.cache", "pretrain.steps", "stages"} & text_settings()


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(quoting).failed == 0
