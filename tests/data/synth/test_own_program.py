"""Run the program of docs/synthetic.md and its commands on a toy model."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from small_run import metric_steps, small

import extensions
from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.data.streams import OF_THE_BATCH, doppelgangers
from vcrast.run import run

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "synthetic.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## A sound of your own\n")[2].partition("\n## ")[0]
(PATH, CODE), *OTHERS = re.findall(r"```python\n# (\S+)\n(.*?)```", SECTION, re.DOTALL)
PREVIEW, PRETRAIN = (shlex.split(line) for line in re.findall(r"```\n(vcrast .*?)\n(python .*?)\n```", SECTION)[0])
WORDS = [word for word in PREVIEW if "=" in word]


@pytest.fixture(autouse=True)
def laid(tmp_path, monkeypatch):
    """The documented file in place; package and registry are left as they were."""
    from vcrast.config.registry import PROGRAMS

    monkeypatch.setattr(PROGRAMS, "builders", dict(PROGRAMS.builders))
    (tmp_path / PATH).parent.mkdir()
    (tmp_path / PATH).write_text(CODE)
    monkeypatch.setattr(extensions, "__path__", [*extensions.__path__, str(tmp_path / "extensions")])
    yield
    sys.modules.pop("extensions.chirps", None)


def stream(*words):
    config = compose(["source=synth", "source.duration_s=1.0", *WORDS, *words])
    options = {key: value for key, value in config.source.items() if key not in OF_THE_BATCH}
    return doppelgangers(config.data, seed=0, **options)


def test_it_is_short_and_there_is_no_other():
    assert not OTHERS
    assert 10 <= len([line for line in CODE.splitlines() if line.strip()]) <= 25
    assert PRETRAIN[:3] == ["python", "launch/local.py", "synth"]
    assert PRETRAIN[3:] == WORDS


def test_the_preview_shows_its_parameters(tmp_path):
    page = tmp_path / "page.html"
    assert PREVIEW[0] == "vcrast"
    assert main([*PREVIEW[1:], "source.duration_s=0.5", "--pairs", "2", "--out", str(page)]) == 0
    text = page.read_text()
    assert text.count("<audio") == 4
    for parameter in stream().space.parameters:
        assert parameter.name.rpartition("/")[2] in text


def test_two_steps_of_pretraining(tmp_path):
    words = ("source=synth", "views=masks", "source.pairs_per_epoch=64", "stages=[pretrain]", "pretrain.steps=2")
    overrides = small(tmp_path / "run", *words, *WORDS)
    run(resolve(overrides), overrides)
    assert len(metric_steps(tmp_path / "run")) == 2


@pytest.mark.parametrize("num_layers", [1, 3])
def test_its_sounds_are_sounds_and_pairs(num_layers):
    sounds = stream(f"source.num_layers={num_layers}", "source.distances.noise=0", "+source.distances.time=0")
    pairs = sounds.batch(0, 50)
    peaks = pairs.wavs.abs().amax(dim=2)
    assert torch.isfinite(pairs.wavs).all()
    levels = sounds.space.physical(pairs.units.flatten(0, 1))["level_db"].view(50, 2)
    torch.testing.assert_close(20 * peaks.log10(), levels, rtol=0, atol=1e-3)
    assert torch.equal(*pairs.units[..., sounds.space.columns["1/time"]].unbind(dim=1))
    assert not torch.equal(*pairs.wavs.unbind(dim=1))


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(
        ValueError, match=r"source\.module=extensions\.chirp: Python finds no module 'extensions\.chirp'"
    ):
        stream("source.module=extensions.chirp")
