"""Sound files and settings for the tests of the data part."""

from pathlib import Path

import numpy as np
import soundfile as sf

from vcrast.config.schema import DataConfig


def sine(rate, *, seconds=1.0, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


def write(path, wav, rate=16000, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sf.write(str(path), wav, rate, **options)
    return str(path)


def cut(path, fraction):
    """Shorten a file to a part of its bytes, as a broken copy does."""
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: int(len(whole) * fraction)])
    return str(path)


def settings(name, **values):
    given = {
        "root": None, "folds": None, "sample_rate": 16000, "clip_duration_s": 1.0, "pad": "silence",
        "mean": None, "std": None, "cache": False, "cache_dir": None, "num_workers": 0, "max_bad_fraction": 0.01,
    }  # fmt: skip
    return DataConfig(name=name, **{**given, **values})
