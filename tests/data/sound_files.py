"""Sound files and settings for the tests of the data part."""

from pathlib import Path

import numpy as np
import soundfile as sf
from shipped import shipped

from vcrast.config.files import options as files
from vcrast.config.schema import DataConfig

NAMES = [name for name, _ in files("data")]


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


def without_length(path):
    """Make a FLAC file declare no length, as one written to a pipe does."""
    data = bytearray(Path(path).read_bytes())
    data[21] &= 0xF0  # the 36-bit count of samples in STREAMINFO
    data[22:26] = bytes(4)
    Path(path).write_bytes(data)
    return str(path)


def settings(name, *, options=(), **values):
    """What ships for this dataset (for one of a test's own: for none of them), small and without a cache."""
    shared = shipped(f"data/{name}") if name in NAMES else {**shipped("data/folder", name=name), "options": {}}
    small = {"folds": None, "mean": None, "std": None, "clip_duration_s": 1.0, "cache": False, "num_workers": 0}
    return DataConfig(**{**shared, **small, **values, "options": {**shared["options"], **dict(options)}})
