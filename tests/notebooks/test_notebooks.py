"""Check that notebooks are well formed, without outputs, with valid commands."""

import json
import re
import shlex
from pathlib import Path

import pytest

from launch.arguments import parse, resumed_folder
from vcrast.cli.main import parser
from vcrast.config.compose import compose

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def commands(notebook):
    """The shell commands of all code cells, `!` removed, in words."""
    lines = [line for cell in notebook["cells"] if cell["cell_type"] == "code" for line in cell["source"]]
    return [shlex.split(line.strip()[1:]) for line in lines if line.startswith("!")]


def check(words):
    """Raise or exit unless the command can be run."""
    if words[:2] == ["python", "launch/local.py"]:
        arguments = parse(words[2:])
        if not resumed_folder(arguments.overrides):
            return compose(arguments.overrides)
    elif words[0] == "vcrast":
        return parser().parse_args(words[1:])
    return None


def test_there_is_one():
    assert [path.name for path in NOTEBOOKS] == ["esc50_t4.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_notebook_format_4_without_outputs(path):
    notebook = load(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    identities = [cell["id"] for cell in notebook["cells"]]
    assert len(set(identities)) == len(identities)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            keys |= {"outputs", "execution_count"}
        assert set(cell) == keys


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_command_is_understood(path):
    found = commands(load(path))
    assert sum(words[:2] == ["python", "launch/local.py"] for words in found) >= 2
    assert sum(words[0] == "vcrast" for words in found) >= 3
    for words in found:
        check(words)


def test_the_run_is_the_t4s():
    (train,) = (words for words in commands(load(NOTEBOOKS[0])) if "run.dir=runs/esc50_t4" in words)
    config = check(train)
    assert (config.recipe, config.precision, config.attention["name"]) == ("esc50", "fp16", "memory_efficient")
    assert (config.pretrain.batch_size, config.pretrain.micro_batch_size) == (96, "auto")
    assert config.engine["compile"] is False


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_is_mounted_and_the_address_is_the_readers(path):
    text = path.read_text(encoding="utf-8")
    assert "drive" not in text
    assert 'REPOSITORY = \\"https://example.org/' in text
    assert "git clone --depth 1 {REPOSITORY}" in text


def test_a_wrong_command_is_noticed():
    with pytest.raises(ValueError, match="no such setting"):
        check(shlex.split("python launch/local.py esc50 pretrain.bach_size=96"))
    with pytest.raises(ValueError, match=r"recipe=esc51"):
        check(shlex.split("python launch/local.py esc51"))
    with pytest.raises(SystemExit):
        check(shlex.split("vcrast data downlod esc50"))
