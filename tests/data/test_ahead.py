"""Files of another machine are fetched before they are due, and no others."""

import threading
import time

import numpy as np
import pytest

from vcrast.data import ahead
from vcrast.data.ahead import FetchAhead, fetching_ahead
from vcrast.data.audio import MEMBERS
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips, join
from vcrast.data.members import SCHEME, Members, address
from vcrast.data.remote import RemoteFiles, StoreError


class Store:
    """Notes what is fetched; the test may hold it up or let it fail."""

    def __init__(self):
        self.fetched, self.fails = [], ()

    def path(self, url):
        if url in self.fails:
            raise StoreError(url)
        self.fetched.append(url)
        return url


def clips_of(files):
    """Two clips in each file."""
    found = Clips.of(Clip(address(number, 1, None, "x", file), ()) for file in files for number in range(2))
    object.__setattr__(found.columns, "block", np.repeat(np.arange(len(files)), 2).astype(np.int32))
    return found


def url(number):
    return f"http://host/{number}.tar"


def settled(store, count):
    """Wait until so many files were fetched, and a moment longer for one too many."""
    for _ in range(2000):
        if len(store.fetched) >= count:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    return len(store.fetched) == count


def test_a_few_files_ahead_of_the_reader_in_order():
    store, clips = Store(), clips_of([url(number) for number in range(12)])
    keys = [[(2 * number, 0), (2 * number + 1, 1)] for number in range(12)]
    fetch = FetchAhead(clips, keys, store, ahead=3)
    for seen, _ in enumerate(fetch.while_read(iter(range(12)))):
        assert settled(store, min(12, seen + 4)), f"{seen}: {len(store.fetched)}"
    assert store.fetched == [url(number) for number in range(12)]


def test_it_ends_with_its_reader(monkeypatch):
    monkeypatch.setattr(ahead, "BATCHES_AHEAD", 3)
    store, clips = Store(), clips_of([url(0)])
    batches = FetchAhead(clips, [[(0, 0)]] * 1000, store, ahead=3).while_read(iter(range(1000)))
    next(batches)
    assert any(thread.name == "fetch" for thread in threading.enumerate())
    batches.close()
    for _ in range(2000):
        if not any(thread.name == "fetch" for thread in threading.enumerate()):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the thread lives on")


def test_a_file_that_was_not_asked_for_in_a_while_is_looked_for_again(monkeypatch):
    monkeypatch.setattr(ahead, "BATCHES_AHEAD", 5)
    store, clips = Store(), clips_of([url(0), url(1)])
    keys = [[(0, 0)], *[[(2, 0)]] * 9, [(1, 0)]]
    for number in FetchAhead(clips, keys, store, ahead=9).while_read(iter(range(len(keys)))):
        settled(store, 2 if number < 10 else 3)
    assert store.fetched == [url(0), url(1), url(0)]


def test_a_failing_store_is_left_to_who_reads():
    store, clips = Store(), clips_of([url(0), url(1), url(2)])
    store.fails = (url(1),)
    keys, seen = [[(0, 0)], [(2, 0)], [(4, 0)]], 0
    for _ in FetchAhead(clips, keys, store, ahead=9).while_read(iter("abc")):
        assert settled(store, 1)
        seen += 1
    assert seen == 3
    assert store.fetched == [url(0)]


def test_only_files_of_other_machines(monkeypatch, tmp_path):
    monkeypatch.setitem(MEMBERS, SCHEME, Members(RemoteFiles(tmp_path, 1)))
    here, there = clips_of(["/data/a.tar", "/data/b.tar"]), clips_of([url(0)])
    plain = Clips.of([Clip("/data/x.wav", ())])
    assert fetching_ahead(here, []) is None
    assert fetching_ahead(plain, []) is None
    assert fetching_ahead(there, []) is not None
    mixed = join([plain, here, there], [(), (), ()])
    found = fetching_ahead(mixed, [[(place, 0) for place in range(len(mixed))]])
    found.remote = store = Store()
    for _ in found.while_read(iter("a")):
        assert settled(store, 1)
    assert store.fetched == [url(0)]
