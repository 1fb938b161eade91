"""Fixtures of the tests on data: tables, a server, a machine without ffmpeg."""

import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from file_server import Server
from sound_files import noise, settings, write

from vcrast.data import ffmpeg
from vcrast.data.open import open_corpus


class Told(NamedTuple):
    """What a clip is: its file's name, its labels, where it begins, how long it is, its fold."""

    file: str
    labels: tuple[str, ...]
    start_s: float
    duration_s: float | None
    fold: str


class Tables:
    """A folder of sound files of one second, and tables of them."""

    def __init__(self, folder):
        self.folder = folder
        self.sounds("a.wav", "b.wav", "c.wav", "d, e.wav")

    def sounds(self, *names, seconds=1.0):
        for name in names:
            write(self.folder / name, noise(round(16000 * seconds)))

    def __call__(self, text, *, name="m.csv", **changes):
        """Write a table, unless it is None, and open it."""
        place = self.folder / name
        if text is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text if isinstance(text, bytes) else text.encode())
        return open_corpus(settings("manifest", path=str(place), **changes))

    def told(self, text, **changes):
        corpus = self(text, **changes)
        return [
            Told(Path(c.path).name, tuple(corpus.classes[i] for i in c.labels), c.start_s, c.duration_s, c.fold)
            for c in corpus.clips
        ]


@pytest.fixture
def listed(tmp_path):
    return Tables(tmp_path)


@pytest.fixture
def no_ffmpeg(monkeypatch):
    """As on a machine where nothing decodes m4a."""
    monkeypatch.setattr(ffmpeg, "decoder", lambda: None)


@pytest.fixture
def server():
    """A server on localhost whose content and faults the test sets."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
