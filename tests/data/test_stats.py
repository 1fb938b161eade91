import json

import numpy as np
import pytest
import torch
from sound_files import cut, noise, settings, write

from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data.open import open_data, resolve_stats
from vcrast.data.stats import cached_stats, fbank_stats


def frames(wavs):
    """Stands for a filterbank: (1, S) -> (1, T, 100), no overlap, an offset that defeats E[x^2] - E[x]^2."""
    count = wavs.shape[1] // 100
    return 1000 + wavs[:, : count * 100].reshape(1, count, 100)


@pytest.fixture
def clips(tmp_path):
    return [Clip(write(tmp_path / f"{i}.wav", (i + 1) / 10 * noise(500 * (i + 1), seed=i)), ()) for i in range(6)]


def expected(tmp_path, numbers=range(6)):
    import soundfile as sf

    values = [1000 + sf.read(str(tmp_path / f"{i}.wav"), dtype="float32")[0].astype(np.float64) for i in numbers]
    return np.concatenate(values).mean(), np.concatenate(values).std()


@pytest.mark.parametrize("cached", [False, True])
def test_mean_and_std_of_all_values(clips, tmp_path, cached):
    store = None
    if cached:
        store = open_or_build(clips, sample_rate=16000, cache_dir=tmp_path / "c", num_workers=0, max_bad_fraction=0.0)
    mean, std = fbank_stats(clips, frames, sample_rate=16000, store=store)
    want_mean, want_std = expected(tmp_path)
    assert mean == pytest.approx(want_mean, abs=1e-5)
    assert std == pytest.approx(want_std, rel=1e-3)  # 1000 + x keeps 13 bits of x in float32


def test_short_and_unreadable_clips_are_left_out(clips, tmp_path):
    write(tmp_path / "short.wav", 0.9 * np.ones(399, np.float32))
    cut(tmp_path / "3.wav", 0.5)
    used = [*clips, Clip(str(tmp_path / "short.wav"), ())]
    mean, std = fbank_stats(used, frames, sample_rate=16000)
    want_mean, want_std = expected(tmp_path, [0, 1, 2, 4, 5])
    assert mean == pytest.approx(want_mean, abs=1e-5)
    assert std == pytest.approx(want_std, rel=1e-3)


def test_nothing_to_measure(tmp_path):
    clip = Clip(write(tmp_path / "a.wav", noise(100)), ())
    with pytest.raises(ValueError, match=r"0 values with std .*set data\.mean and data\.std"):
        fbank_stats([clip], frames, sample_rate=16000)
    with pytest.raises(ValueError, match=r"std 0\.0"):
        fbank_stats([Clip(write(tmp_path / "b.wav", noise(900)), ())], torch.zeros_like, sample_rate=16000)


def test_result_is_kept_for_the_same_clips_and_settings(clips, tmp_path):
    calls = []

    def counted(wavs):
        calls.append(1)
        return frames(wavs)

    def measure(chosen=clips, **features):
        return cached_stats(chosen, counted, sample_rate=16000, features=features, cache_dir=tmp_path / "c")

    first = measure(num_mel_bins=128)
    assert (measure(num_mel_bins=128), len(calls)) == (first, 6)
    kept = json.loads(next((tmp_path / "c").glob("stats-*.json")).read_text())
    assert (kept["mean"], kept["std"]) == first
    measure(num_mel_bins=64)
    assert len(calls) == 12
    assert measure(clips[:4], num_mel_bins=128) != first
    write(clips[0].path, noise(999))
    assert measure(num_mel_bins=128) != first
    next((tmp_path / "c").glob("stats-*.json")).write_text("{")
    measure(num_mel_bins=64)


def test_configured_pair_wins_and_half_a_pair_is_refused(clips):
    assert resolve_stats(settings("folder", mean=-4.0, std=2.0), clips) == (-4.0, 2.0)
    with pytest.raises(ValueError, match="set both"):
        resolve_stats(settings("folder", mean=-4.0), clips)
    with pytest.raises(ValueError, match="must be positive"):
        resolve_stats(settings("folder", mean=-4.0, std=0.0), clips)
    with pytest.raises(ValueError, match="no filterbank"):
        resolve_stats(settings("folder"), clips)


def test_open_data_hangs_together(clips, tmp_path):
    from vcrast.data.corpus import Corpus

    cut(clips[5].path, 0.5)
    folded = tuple(Clip(clip.path, (i % 2,), fold=str(1 + i % 3)) for i, clip in enumerate(clips))
    corpus = Corpus("toy", folded, ("a", "b"), False, ("1", "2", "3"))
    chosen = settings("folder", cache=True, cache_dir=str(tmp_path / "c"), max_bad_fraction=0.2, clip_duration_s=0.02)
    data = open_data(chosen, corpus)
    assert data.left_out is not None
    assert data.left_out.startswith("1 of 6 clips left out")
    part = data.fold("1", seed=5)
    assert (len(part.train), len(part.test)) == (3, 2)
    assert part.train[0, 0].wav.shape == (320,)
    mean, std = data.statistics(part.train, frames, settings={"name": "fbank", "window_ms": 25.0})
    want_mean, want_std = expected(tmp_path, [1, 2, 4])
    assert mean == pytest.approx(want_mean, abs=1e-5)
    assert std == pytest.approx(want_std, rel=1e-3)
