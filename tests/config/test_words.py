"""Check that what people write is understood, or answered with what is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.arguments import parse
from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.config.quoting import as_list
from vcrast.config.words import SYNONYMS, suggest


@pytest.mark.parametrize(
    ("word", "taken"),
    [("stages=finetune", "stages=[finetune]"), ("stages=pretrain,finetune", "stages=[pretrain,finetune]"),
     ("logger=wandb", "logger=[jsonl,wandb]"), ("logger=jsonl,wandb", "logger=[jsonl,wandb]"),
     ("evaluation=knn", "evaluation=[knn]"),
     ("stages=[evaluate]", "stages=[evaluate]"), ("logger=null", "logger=null"), ("model=tiny", "model=tiny")],
)  # fmt: skip
def test_a_name_is_a_list_of_it_where_a_list_is_wanted(word: str, taken: str) -> None:
    assert as_list(word) == taken


def test_such_words_reach_the_settings() -> None:
    assert parse(["demo", "stages=pretrain,finetune"]).overrides[1] == "stages=[pretrain,finetune]"
    assert parse(["demo", "-m", "stages=pretrain,finetune"]).overrides[1] == "stages=pretrain,finetune"
    found = compose(["recipe=demo", "stages=finetune", "logger=tensorboard"])
    assert (found.stages, found.logger) == (["finetune"], ["jsonl", "tensorboard"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("epochs=3", "did you mean finetune.epochs=3 or pretrain.epochs=3?"),
        ("lr=1e-3", "did you mean finetune.optim.lr=1e-3 or optim.lr=1e-3?"),
        ("data.sample_rate=16kHz", "did you mean 16000?"),
        ("attention=flash", "did you mean memory_efficient?"),
        ("data={here}", "is a path; write data=folder data.root={here}"),
        ("data={here}/clips (1).csv", "is a path; write data=manifest data.path={here}/clips (1).csv"),
    ],
)
def test_the_setting_that_is_meant_is_named(word: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "clips (1).csv").touch()
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        compose(["recipe=demo", word.format(here=tmp_path)])
    assert said.format(here=tmp_path) in str(caught.value)


@pytest.mark.parametrize(("words", "name"), [(["--epochs", "3"], "epochs"), (["--batch-size=8"], "batch_size")])
def test_flags_are_no_settings(words: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=f"Settings have no dashes: {name}=VALUE"):
        parse(["demo", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [("train esc50", "did you mean run?"), ("esc50", "did you mean `vcrast run esc50`?"), 
     ("infer x", "did you mean predict?"),
     ("test x", "did you mean evaluate?")],
)  # fmt: skip
def test_verbs_of_other_programs_are_understood(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_synonym_is_suggested_only_where_its_name_is_valid() -> None:
    assert suggest("half", ["fp16", "fp32"]).startswith("did you mean fp16? ")
    assert suggest("half", ["tiny"]) == "choose from tiny"
    assert not {word for words in SYNONYMS.values() for word in words} & {"finetuned", "pretrained"}
