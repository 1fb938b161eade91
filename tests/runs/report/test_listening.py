import base64
import io
import re
import wave

import numpy as np
import pytest
import torch
from parts import make_doppelgangers
from PIL import Image

from extensions.audiopg.program import WAVEFORMS
from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.data.streams import OF_THE_BATCH, doppelgangers
from vcrast.data.synth.space import Parameter
from vcrast.runs.report.listening import picture_address, shown, sound_address, wav_address


def content(address):
    return base64.b64decode(address.partition(",")[2])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "inside" / "pairs.html"
    words = ["data", "preview", "synth", "source.duration_s=0.6", "source.num_layers=3", "run.seed=7"]
    assert main([*words, "--pairs", "3", "--out", str(path)]) == 0
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_cannot_run_anything(page):
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "default-src 'none'" in page
    assert "vcrast data preview synth source.duration_s=0.6 source.num_layers=3 run.seed=7 --pairs 3" in page


def test_sounds_on_the_page_are_those_of_the_stream(page):
    found = re.findall(r'<audio[^>]* src="(data:audio/wav;base64,[^"]+)"', page)
    assert len(found) == 6
    config = compose(["source=synth", "source.duration_s=0.6", "source.num_layers=3"])
    options = {key: value for key, value in config.source.items() if key not in OF_THE_BATCH}
    expected = doppelgangers(config.data, seed=7, **options).batch(0, 3).wavs.flatten(0, 1)
    for address, wanted in zip(found, expected, strict=True):
        with wave.open(io.BytesIO(content(address))) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
        np.testing.assert_allclose(samples, wanted.numpy(), atol=2e-5)


def test_every_parameter_of_every_pair_is_shown(page):
    assert page.count('alt="Spectrogram of the') == 6
    for name in ("f0_hz", "equaliser_db", "burst_hz", "onset_times"):
        assert page.count(f"<td>{name}</td>") == 3 * 3
    assert page.count("<td>reverb_s</td>") == 3
    assert page.count('<tr class="same"><td>kind</td>') == 9


def test_the_page_of_the_other_program_names_its_own_parameters(tmp_path):
    words = ["data", "preview", "audiopg", "source.duration_s=0.6", "--pairs", "4"]
    assert main([*words, "--out", str(tmp_path / "a.html")]) == 0
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    for name, times in (("waveform", 8), ("damping_hz", 8), ("background_tilt", 4)):
        assert page.count(f"<td>{name}</td>") == times
    assert re.findall(r"<h3>([^<]+)</h3>", page) == ["Layer 1", "Layer 2", "The whole"] * 4
    sounds = make_doppelgangers(num_samples=9600, program="audiopg")
    values = sounds.space.physical(sounds.batch(0, 4).units[:, 0])
    captions = re.findall(r'<p class="soft">([^<]+); (\d) bursts?</p>', page)
    for row, (caption, bursts) in enumerate(captions):
        assert values["num_bursts"][row] == int(bursts)
        for layer, text in enumerate(caption.split("; "), start=1):
            made_of, of, pitch = text.partition(",")[0].partition(" of ")
            assert made_of == WAVEFORMS[int(values[f"{layer}/waveform"][row])]
            assert not of or pitch == f"{float(values[f'{layer}/f0_hz'][row]):.0f} Hz"
            assert f"{int(values[f'{layer}/num_events'][row])} event" in text
    assert len(captions) == 4


def test_wav_and_picture_by_hand():
    with wave.open(io.BytesIO(content(wav_address(torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0]), 8000)))) as file:
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [0, 32767, -32767, 16384, 32767]
    fbank = torch.tensor([[-10.0, 0.0, 0.0], [-10.0, -10.0, -10.0]])  # T = 2, F = 3
    pixels = np.asarray(Image.open(io.BytesIO(content(picture_address(fbank, -10.0, 0.0)))).convert("L")).astype(int)
    assert pixels.shape == (3, 2)
    assert pixels[0, 0] > pixels[2, 0] + 50  # the highest band is the top row


def test_a_short_file_in_what_libsndfile_writes(monkeypatch):
    tone = 0.5 * torch.sin(torch.arange(16000) * 0.3)
    opus = content(sound_address(tone, 16000))
    assert opus[:4] == b"OggS"
    assert b"OpusHead" in opus
    assert len(opus) < 8000
    assert b"vorbis" in content(sound_address(tone, 44100))
    assert sound_address(torch.zeros(96), 96000).startswith("data:audio/wav")
    monkeypatch.setattr("soundfile.available_formats", lambda: {"WAV": "", "MP3": ""})
    assert sound_address(tone, 16000).startswith("data:audio/mpeg")
    monkeypatch.setattr("soundfile.available_formats", lambda: {"WAV": "", "FLAC": ""})
    assert sound_address(tone, 16000).startswith("data:audio/wav")


def test_numbers_are_short():
    one, many = Parameter("a_hz", "x", "log", 40, 4000), Parameter("b_db", "x", "linear", -40, 0, size=2)
    share = Parameter("c", "x", "linear", 0, 1, size=2)
    assert shown(one, torch.tensor([2736.4])) == "2736"
    assert shown(one, torch.tensor([51.234])) == "51.2"
    assert shown(many, torch.tensor([-12.3, -0.2])) == "-12, -0"
    assert shown(share, torch.tensor([0.123, 1.0])) == "0.12, 1.00"
    kind = Parameter("1/kind", "structure", "choice", 0, 3, names=("bursts", "onsets", "slow modulation"))
    assert shown(kind, torch.tensor([1.0])) == "onsets"


def test_mistakes_are_named(tmp_path, capsys):
    assert main(["data", "preview", "synth", "--pairs", "0", "--out", str(tmp_path / "a.html")]) == 2
    assert "--pairs 0: give at least 1" in capsys.readouterr().err
    assert main(["data", "preview", "synth", "source.distances.pich=1", "--out", str(tmp_path / "a.html")]) == 2
    assert "pich" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
