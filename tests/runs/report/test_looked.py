import base64
import io
import re
import shutil

import matplotlib
import numpy as np
import pytest
import soundfile
import torch
from exported import RATE, make_small, write_model
from fabricated_run import fabricate, give_sounds
from matplotlib.colors import Normalize
from PIL import Image
from torch import nn

import vcrast
from vcrast.runs.record import read_run
from vcrast.runs.report.explained import overlaid
from vcrast.runs.report.looked import Looker, candidates, looked_at
from vcrast.runs.report.page import ALL, FEW, NONE, write_report
from vcrast.runs.report.style import COLOURS

CLASSES = ["dog", "rain", "sea"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 24 test clips of a second, three of them misjudged, with an untrained model."""
    folder = fabricate(tmp_path_factory.mktemp("runs") / "esc10", folds=("1",), classes=CLASSES)
    recording = give_sounds(folder, num_clips=24)
    torch.manual_seed(0)
    encoder = make_small()
    write_model(folder / "exported/fold_1/pretrained", encoder=encoder)
    write_model(folder / "exported/fold_1/finetuned", encoder=encoder, head=nn.Linear(encoder.embed_dim, 3))
    return folder, recording


@pytest.fixture
def page(monkeypatch, tmp_path):
    """Write the page of a run without its figures, which take longest."""
    monkeypatch.setattr("vcrast.runs.report.page.plans", lambda record: [])
    return lambda folder, sounds: write_report(folder, sounds=sounds, out=tmp_path / "page.html").read_text()


def pixels(address):
    content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) / 255


def orange(picture):
    """(T, F, 3) -> how much redder than blue each patch of 16 x 16 is."""
    redder = picture[:96, :32, 0] - picture[:96, :32, 2]
    return redder.reshape(6, 16, 2, 16).mean(axis=(1, 3))


def test_best_clips_of_different_classes_by_hand():
    scores = np.array([[0.9, 0.0, 0.1], [0.6, 0.4, 0.0], [0.8, 0.2, 0.0], [0.4, 0.3, 0.3], [0.0, 0.1, 0.9]])
    labels = np.eye(3)[[0, 0, 1, 2, 2]]
    # Of class 0 row 0, of class 2 row 4 (row 3 is wrong); class 1 was never judged right.
    assert list(candidates({"scores": scores, "labels": labels})) == [(0, 0), (4, 2)]
    assert list(candidates({"labels": labels})) == [(0, None), (2, None), (3, None)]
    several = np.array([[1, 1, 0], [0, 0, 1]])
    assert list(candidates({"scores": np.array([[0.9, 0.8, 0.1], [0, 0, 0.3]]), "labels": several})) == [(0, 0), (1, 2)]


def test_the_map_is_what_the_model_explains_of_that_clip(run):
    folder, recording = run
    found, model = looked_at(Looker(read_run(folder), seconds=60), 2)
    assert model == "the finetuned model of fold 1"
    assert len({each.true for each in found}) == len(found) == 2
    for each in found:
        first = round(each.clip.start_s * RATE)
        wav, _ = soundfile.read(recording, start=first, frames=RATE, dtype="float32")
        own = vcrast.load(folder).explain(wav, RATE, label=each.true)
        assert each.look.what == f"class {each.true} (probability {own.score:.3g})"
        start, end, percent = re.match(r"strongest from (\S+) to (\S+) s, (\d+) %", each.look.where).groups()
        assert 100 * own.share(float(start), float(end)) == pytest.approx(float(percent), abs=0.6)
        low, high = np.quantile(own.spectrogram, (0.05, 0.999))
        plain = matplotlib.colormaps["gray_r"](Normalize(low, 2 * high - low)(own.spectrogram))[..., :3]
        opaque = 0.9 * (own.values / np.quantile(own.values[own.values > 0], 0.995)).clip(0, 1)[..., None]
        expected = plain * (1 - opaque) + np.array(matplotlib.colors.to_rgb(COLOURS[3])) * opaque
        np.testing.assert_allclose(overlaid(own).transpose(1, 0, 2), expected, atol=0.01)  # of 256 greys
        drawn = pixels(each.look.picture)[::-1].transpose(1, 0, 2)
        assert drawn.shape == expected.shape
        assert np.abs(drawn - expected).mean() < 0.03  # JPEG
        assert orange(drawn) == pytest.approx(orange(expected), abs=0.03)


def test_the_page_shows_maps_with_and_without_sound(run, page):
    folder, _ = run
    whole = page(folder, ALL)
    section = re.search(r'<section id="looked">.*?</section>', whole, re.DOTALL)[0]
    assert "<h2>What attention looks at</h2>" in section
    assert len(re.findall(r'<audio [^>]*id="looked-\d"', section)) == section.count("<article>") == 3
    assert len(re.findall(r'alt="[^"]* in orange what speaks for class \w+ \(probability', section)) == 3
    cards = re.findall(r"<p>taken for <strong>(\w+)</strong></p>.*?what speaks for class (\w+)", whole, re.DOTALL)
    assert len(cards) == 3
    assert all(taken == explained for taken, explained in cards)
    silent = page(folder, NONE)
    assert "<audio" not in silent
    assert silent.count("in orange what speaks for") == 6
    few = page(folder, FEW)
    assert few.count("in orange what speaks for") == 3
    assert "adds those of the map, and what was looked at in the misjudged clips" in few


def test_without_a_classifier_the_embedding_is_explained(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/exported/fold_1/finetuned")
    found, model = looked_at(Looker(read_run(tmp_path / "run"), seconds=60), 1)
    assert (found[0].look.what, model) == ("the embedding", "the pretrained encoder of fold 1")


def test_why_there_is_none_is_said(run, tmp_path, page):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)

    def said():
        text = page(folder, FEW)
        assert 'id="looked"' not in text
        return re.search(r"<li>What attention looks at: (.*?)</li>", text)[1]

    run[1].rename(tmp_path / "moved.wav")
    try:
        assert str(run[1]) in said()
    finally:
        (tmp_path / "moved.wav").rename(run[1])
    (folder / "exported/fold_1/finetuned/weights.safetensors").write_bytes(b"damaged")
    assert "weights.safetensors" in said()
    shutil.rmtree(folder / "exported")
    assert "no exported model yet" in said()


def test_where_time_is_short_one_map_is_made_and_the_others_are_counted(run):
    looker = Looker(read_run(run[0]), seconds=-1.0)
    found, _ = looked_at(looker, 3)
    assert (len(found), looker.made, looker.late) == (1, 1, 1)
