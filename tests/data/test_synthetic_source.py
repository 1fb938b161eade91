from collections import Counter

import numpy as np
import pytest
import torch
from shipped import shipped

from vcrast.config.schema import DataConfig
from vcrast.data.audio import AudioFault, read_wav
from vcrast.data.sources.synthetic import synthetic
from vcrast.data.synth.engine import CLASSES
from vcrast.features.fbank import Fbank

SHIPPED = shipped("data/synthetic")
PATH = "synth://siren/3?seed=0&duration=1.5&snr=5:40&engine=2"


def settings(root: str | None = None, **options) -> DataConfig:
    return DataConfig(**{**SHIPPED, "root": root, "options": {**SHIPPED["options"], **options}})


def test_shipped_corpus_is_balanced():
    corpus = synthetic(settings())
    assert corpus.classes == CLASSES
    assert corpus.folds == ("1", "2", "3", "4", "5")
    assert not corpus.multilabel
    assert len(corpus.clips) == 400
    assert len({clip.path for clip in corpus.clips}) == 400
    assert set(Counter((clip.labels, clip.fold) for clip in corpus.clips).values()) == {4}
    train, test = corpus.split("2")
    assert (len(train), len(test)) == (320, 80)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 17])
def test_folds_are_even_for_any_number_of_classes(num_classes):
    corpus = synthetic(settings(classes=list(CLASSES[:num_classes]), num_clips=10 * num_classes))
    assert set(Counter((clip.labels, clip.fold) for clip in corpus.clips).values()) == {2}
    small = synthetic(settings(classes=list(CLASSES[:num_classes]), num_clips=7))
    assert {clip.fold for clip in small.clips} <= set(corpus.folds)


def test_clips_are_read_by_path():
    clip = synthetic(settings()).clips[45]
    wav = read_wav(clip.path, sample_rate=16000)
    assert wav.dtype == np.float32
    assert wav.shape == (32000,)
    np.testing.assert_array_equal(wav, read_wav(clip.path, sample_rate=16000))
    part = read_wav(clip.path, sample_rate=16000, start_s=0.5, duration_s=1.0)
    np.testing.assert_array_equal(part, wav[8000:24000])


def test_seed_number_and_snr_change_the_sound():
    wav = read_wav(PATH, sample_rate=16000)
    assert wav.shape == (24000,)
    for old, new in (("/3?", "/4?"), ("seed=0", "seed=1"), ("snr=5:40", "snr=5:6")):
        other = read_wav(PATH.replace(old, new), sample_rate=16000)
        assert np.abs(wav - other).max() > 0.01


def test_shipped_normalisation_is_the_measured_one():
    train, _ = synthetic(settings()).split("1")
    wavs = torch.stack([torch.from_numpy(read_wav(clip.path, sample_rate=16000)) for clip in train[::3]])
    values = Fbank(**shipped("features/fbank", sample_rate=16000))(wavs)
    assert values.mean().item() == pytest.approx(SHIPPED["mean"], abs=0.4)
    assert values.std().item() == pytest.approx(SHIPPED["std"], abs=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clips": 4}, r"num_clips=4.*5 folds"),
        ({"num_clips": 4.5}, r"num_clips=4\.5.*whole"),
        ({"seed": -1}, "seed=-1"),
        ({"snr_db": [9, 3]}, "snr_db"),
        ({"snr_db": 5}, "snr_db=5.*lowest"),
        ({"classes": ["siern", "rain"]}, "siern.*did you mean siren"),
        ({"classes": ["rain", "rain"]}, "twice"),
        ({"classes": ["rain"]}, "at least two"),
        ({"num_clip": 4}, "num_clip.*did you mean num_clips"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic(settings(**options))


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"data\.root=/somewhere"):
        synthetic(settings(root="/somewhere"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (PATH.replace("siren", "siern"), "did you mean siren"),
        (PATH.replace("/3?", "/x?"), "invalid literal"),
        (PATH.replace("&snr=5:40", ""), "seed, duration, snr, engine"),
        (PATH.replace("engine=2", "engine=1"), "version 1.*version 2"),
        (PATH.replace("1.5", "0.2"), r"0\.2 s"),
    ],
)
def test_wrong_paths_are_named(path, message):
    with pytest.raises(AudioFault, match=message):
        read_wav(path, sample_rate=16000)
