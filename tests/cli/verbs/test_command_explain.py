"""`vcrast explain`: its files, its page in a browser, and what it refuses."""

import json
import re

import numpy as np
import pytest
import soundfile as sf
import torch
from browser import opened
from exported import RATE, make_small, write_model
from torch import nn

from vcrast.cli.main import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finetuned model, one without classifier, and two sounds of one name."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    encoder = make_small()
    write_model(folder / "model", encoder=encoder, head=nn.Linear(16, 3))
    write_model(folder / "pretrained", encoder=encoder)
    for name, seconds in (("a", 1.0), ("b", 2.5)):
        (folder / "sounds" / name).mkdir(parents=True)
        wav = np.random.default_rng(0).normal(size=round(seconds * RATE)).clip(-4, 4) / 5
        sf.write(folder / "sounds" / name / "rain & co.wav", wav, RATE)
    return folder


def explain(made, *words, model="model", sounds=("sounds",), out="out"):
    return main(
        ["explain", str(made / model), *(str(made / each) for each in sounds), "--out", str(made / out), *words]
    )


@pytest.fixture(scope="module")
def page(made):
    assert explain(made, "--class", "sea", out="pages") == 0
    assert (made / "pages" / "a" / "rain & co.png").read_bytes().startswith(b"\x89PNG")
    return made / "pages" / "b" / "rain & co.html"


def test_the_page_stands_alone(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    for words in ("class sea (probability 0.", "heard in 3 windows", "rain &amp; co.wav", "--class sea"):
        assert words in text


@pytest.mark.parametrize(("dark", "width"), [(False, 1200), (True, 390)])
def test_the_page_in_a_browser(page, dark, width):
    with opened(page.as_uri(), dark=dark, width=width) as shown:
        assert shown.said == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("document.querySelector('img').naturalWidth") > 600
        shown.wait_for_function("document.querySelector('audio').duration > 2.4")
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.tagName") == "AUDIO"


def test_numbers_of_sounds_of_one_name(made, capsys):
    sounds = ("sounds/a/rain & co.wav", "sounds/b/rain & co.wav")
    assert explain(made, "--format", "json", sounds=sounds, model="pretrained") == 0
    paths = [made / "out" / "rain & co.json", made / "out" / "rain & co.wav.json"]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths]
    for path, num_frames in zip(paths, (98, 248), strict=True):
        found = json.loads(path.read_text())
        assert (found["label"], found["score"], found["method"]) == (None, None, "relevance")
        assert np.shape(found["values"]) == (len(found["times_s"]), len(found["frequencies_hz"])) == (num_frames, 32)
        assert np.sum(found["values"]) == pytest.approx(1, abs=1e-4)


def test_mistakes_end_in_one_line(made, capsys):
    assert explain(made, "--class", "se") == 2
    assert "class se: this model has none of that name; did you mean sea?" in capsys.readouterr().err
    assert explain(made, "--method", "gradcam") == 2
    assert "method=gradcam: choose from relevance, rollout" in capsys.readouterr().err
    assert explain(made, "--class", "sea", model="pretrained") == 2
    assert "has no classifier" in capsys.readouterr().err
    (made / "broken.wav").write_bytes(b"RIFF no sound")
    assert explain(made, sounds=("broken.wav",)) == 1
    assert "left out: " in capsys.readouterr().err
