import base64
import html
import io
import math
import re

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from shipped import shipped

from vcrast.cli.main import main
from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import build_views
from vcrast.runs.report.views_page import ALONE, alone, audible, cropped, in_words, is_on

RATE = 16000
OFF = shipped("views/none")
SOUNDS = shipped("views/sounds")


def make(options, **more):
    return build_views({**options, **more}, fbank=Fbank(**shipped("features/fbank", sample_rate=RATE)))


def sines(*hertz, num_samples=RATE):
    seconds = torch.arange(num_samples) / RATE
    return 0.3 * torch.sin(2 * math.pi * torch.tensor(hertz).unsqueeze(1) * seconds)


def pitch_hz(wavs):
    spectra = torch.fft.rfft(wavs * torch.hann_window(wavs.shape[1])).abs()
    return spectra.argmax(dim=1) * RATE / wavs.shape[1]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "inside" / "views.html"
    words = ["source.duration_s=0.5", "views=sounds", "run.seed=3", "--views", "--clips", "2", "--out", str(path)]
    assert main(["data", "preview", "synth", *words]) == 0
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_holds_every_change_of_every_clip(page):
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "vcrast data preview synth source.duration_s=0.5 views=sounds run.seed=3 --views --clips 2" in page
    titles = ["the clip", "view 1", "view 2", *ALONE]
    assert re.findall(r"<h3>([^<]+)</h3>", page) == titles * 2
    players = re.findall(r'<audio[^>]* src="data:audio/ogg;base64,([^"]+)"', page)
    for coded in players:
        wav, rate = soundfile.read(io.BytesIO(base64.b64decode(coded)))
        assert rate == RATE
        assert len(wav) / rate == pytest.approx(0.5, abs=0.1)
        assert 0.001 < np.abs(wav).max() <= 1
    assert len(players) == page.count('src="data:image/jpeg') == 2 * len(titles)
    assert page.count("(off in these views)") == 2 * 2  # the room and another sound


def test_all_views_are_shown_whole_ones_first_local_ones_in_their_own_length(tmp_path):
    path = tmp_path / "views.html"
    words = ["source.duration_s=1.0", "views=multicrop", "model=tiny", "--views", "--clips", "1", "--out", str(path)]
    assert main(["data", "preview", "synth", *words]) == 0
    page = path.read_text(encoding="utf-8")
    titles = ["the clip", "view 1", "view 2", *(f"view {number} (local)" for number in range(3, 9))]
    assert re.findall(r"<h3>([^<]+)</h3>", page)[: len(titles) + 1] == [*titles, "rolled"]
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))).convert("L"))
        for coded in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    ]
    # 98 frames of 10 ms, of which 3/4 and 0.3 stay; patches of 16 by 16, of which the upper or lower half of 8 rows.
    assert [picture.shape[1] for picture in pictures[:9]] == [98, *[74] * 2, *[29] * 6]
    whites = [(picture[:, :16] > 250).all(axis=1).sum() for picture in pictures[:9]]
    assert whites == [0, 0, 0, *[pytest.approx(64, abs=2)] * 6]
    assert re.findall(r'style="width: ([\d.]+)%"', page) == ["75.5"] * 2 + ["29.6"] * 6
    assert page.count("tokens: 4 of 8 stay") == 6
    lengths = [
        soundfile.info(io.BytesIO(base64.b64decode(coded))).duration
        for coded in re.findall(r'<audio[^>]* src="data:audio/ogg;base64,([^"]+)"', page)
    ]
    assert lengths[:9] == pytest.approx([1.0, *[0.755] * 2, *[0.305] * 6], abs=0.05)


def test_the_sound_of_a_crop_is_what_its_picture_shows():
    views, draws = make(OFF, crop=0.4), Draws(0, 0, 3)
    wavs = torch.randn(3, RATE) * torch.linspace(0.01, 1, RATE)
    heard = cropped(views, audible(views, wavs, draws, "b"), draws, "b")
    torch.testing.assert_close(views.fbank(heard), views.make(wavs, draws, "b"), rtol=0, atol=1e-3)
    assert in_words(views, draws, "b", RATE)[0].keys() == {"crop"}


def test_numbers_on_the_page_are_those_of_the_draws(page):
    texts = [html.unescape(text) for text in re.findall(r'<p class="soft">([^<]*)</p>\n</div>', page)]
    shown = {title: texts[3 + n] for n, title in enumerate(ALONE)}
    for title, options in alone(SOUNDS, OFF):
        (numbers,) = in_words(make(options), Draws(3, 0, 2).slice(0, 1), "a", RATE // 2)
        assert numbers.keys() == {title}
        assert shown[title].removesuffix(" (off in these views)") == numbers[title]
    strength = make(dict(alone(SOUNDS, OFF))["high-pass"]).augment.strengths(Draws(3, 0, 2), "a")["high_pass_hz"]
    assert shown["high-pass"] == f"{float(strength[0]):.0f} Hz"


def test_what_leaves_a_clip_as_it_is_is_not_named():
    views, draws = make(SOUNDS), Draws(0, 0, 200)
    words = in_words(views, draws, "a", RATE)
    for title, share in (("high-pass", 0.3), ("pitch", 0.6), ("time stretch", 0.7), ("level", 0.3), ("polarity", 0.5)):
        assert abs(sum(title in each for each in words) / 200 - share) < 5 * math.sqrt(share * (1 - share) / 200)
    assert not any("room" in each or "another sound" in each for each in words)
    assert in_words(make(OFF), draws, "a", RATE) == [{}] * 200


def test_changes_without_a_size_are_left_out_and_those_that_are_off_are_known():
    assert [title for title, _ in alone(OFF, OFF)] == [t for t in ALONE if t not in ("level", "time stretch")]
    assert not any(is_on(title, OFF) for title in ALONE)
    on = {title for title in ALONE if is_on(title, shipped("views/default"))}
    assert on == {"rolled", "level", "time stretch"}


def test_a_shifted_pitch_is_heard_and_the_duration_stays():
    views, draws = make(dict(alone(SOUNDS, OFF))["pitch"]), Draws(0, 0, 4)
    wavs = sines(500.0, 800.0, 1200.0, 2000.0)
    heard = audible(views, wavs, draws, "a")
    ratios = 2 ** (views.augment.strengths(draws, "a")["pitch_semitones"] / 12)
    torch.testing.assert_close(pitch_hz(heard), pitch_hz(wavs) * ratios, rtol=0.01, atol=8.0)
    assert heard.shape == wavs.shape


def test_stretched_beats_are_heard_as_fast_as_said_and_other_clips_keep_their_phase():
    views, draws = make(OFF, time_stretch=[0.7, 1.3], time_stretch_probability=0.5), Draws(0, 1, 8)
    beats = sines(1000.0) * (1 + torch.cos(2 * math.pi * 8 * torch.arange(RATE) / RATE))
    wavs, rates = beats.expand(8, RATE), views.rates(draws, "a").tolist()
    heard = audible(views, wavs, draws, "a")
    for clip, rate in enumerate(rates):
        if rate == 1:
            assert torch.equal(heard[clip], wavs[clip])
            continue
        envelope = heard[clip, : int(RATE / max(1.0, rate))].abs().unfold(0, 160, 80).mean(dim=1)
        spectrum = torch.fft.rfft((envelope - envelope.mean()) * torch.hann_window(len(envelope)), n=8192).abs()
        assert float(spectrum[100:].argmax() + 100) * (RATE / 80) / 8192 == pytest.approx(8 * rate, rel=0.1)
    assert 1.0 in rates


def test_a_dataset_needs_no_flag_and_shows_its_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dog", "rain"):
        folder = tmp_path / "sounds" / name
        folder.mkdir(parents=True)
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, 24000), 24000)
    words = ["data.root=sounds", "data.sample_rate=24000", "data.clip_duration_s=0.4", "--clips", "5"]
    assert main(["data", "preview", "folder", *words]) == 0
    page = (tmp_path / "views.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>([^<]+)</h2>", page) == ["dog (dog.wav)", "rain (rain.wav)"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sounds", "views.html"]


def test_mistakes_are_named(tmp_path, capsys):
    out = ["--out", str(tmp_path / "a.html")]
    assert main(["data", "preview", "synth", "--views", "--clips", "0", *out]) == 2
    assert "--clips 0: give at least 1" in capsys.readouterr().err
    assert main(["data", "preview", "esc55", *out]) == 2
    assert "did you mean esc50" in capsys.readouterr().err
    assert main(["data", "preview", "synth", "--views", "views.augment.noise_probability=2", *out]) == 2
    assert "noise_probability=2: must lie in [0, 1]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
