"""A labelled folder, and shards of it."""

import pytest
from sound_files import settings, sine, write

from vcrast.data.audio import MEMBERS
from vcrast.data.members import SCHEME, Members
from vcrast.data.open import open_corpus
from vcrast.data.remote import RemoteFiles
from vcrast.data.shards.tar import Packing
from vcrast.data.shards.write import pack


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """Twelve clips of three classes, of different lengths."""
    root = tmp_path_factory.mktemp("sounds")
    for number in range(12):
        name = root / "abc"[number % 3] / f"{number}.wav"
        write(name, sine(16000, seconds=0.3 + 0.05 * number, hz=200 + 50 * number))
    return root


@pytest.fixture(scope="session")
def corpus(sounds):
    return open_corpus(settings("folder", root=str(sounds), options={"num_folds": 2}))


@pytest.fixture
def packing():
    return Packing("flac", 16000, 5, keep_silent=False, max_bad_fraction=0.01)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Copies of other machines' files, and the reader of clips in them."""
    files = RemoteFiles(tmp_path / "copies", 10**9, attempts=2, pause_s=0.0)
    monkeypatch.setitem(MEMBERS, SCHEME, Members(files))
    return files


@pytest.fixture
def packed(tmp_path, corpus, packing):
    pack(corpus, tmp_path / "shards", packing, num_workers=0)
    return tmp_path / "shards"
