"""Check what a stopped build of the cache leaves, and what of it the next one may use."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcrast.data import partial as module
from vcrast.data.partial import Decoded, Facts, open_partial, remove_stale


class Stop(BaseException):
    pass


def clip(number, length=3):
    return Decoded(np.full(length, number, "<i2"), f"hash {number}", "" if length else "silent", 1.0 + number)


def ended(path, digest, clips, error=Stop):
    with open_partial(path, digest) as part:
        for one in clips:
            part.add(one)
        raise error


def stopped(path, digest, clips):
    """Add clips, then be stopped by a signal."""
    with pytest.raises(Stop):
        ended(path, digest, clips)


def files(folder):
    return {path.name: path for path in folder.iterdir()}


def test_a_stopped_build_is_gone_on_with_and_published(tmp_path):
    path = tmp_path / "a.i16"
    stopped(path, "one", [clip(1), clip(2, 0)])
    assert set(files(tmp_path)) == {".a.i16.part", ".a.i16.part.jsonl"}
    with open_partial(path, "one") as part:
        assert part.facts == [Facts(3, "hash 1", "", 2.0), Facts(0, "hash 2", "silent", 3.0)]
        part.add(clip(3))
        part.publish(path)
    assert set(files(tmp_path)) == {"a.i16"}
    assert np.fromfile(path, "<i2").tolist() == [1, 1, 1, 3, 3, 3]


def test_other_sources_begin_anew(tmp_path):
    path = tmp_path / "a.i16"
    stopped(path, "one", [clip(1)])
    with open_partial(path, "two") as part:
        assert part.facts == []
        part.add(clip(7, 1))
        part.publish(path)
    assert np.fromfile(path, "<i2").tolist() == [7]


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_faults_of_data_and_disk_leave_nothing(tmp_path, error):
    with pytest.raises(error):
        ended(tmp_path / "a.i16", "one", [clip(1)], error)
    assert files(tmp_path) == {}


def test_a_second_build_at_once_works_aside(tmp_path):
    path = tmp_path / "a.i16"
    stopped(path, "one", [clip(1)])
    with open_partial(path, "one") as first, open_partial(path, "one") as second:
        assert (len(first.facts), second.facts) == (1, [])
        second.add(clip(1))
        second.publish(path)
        first.publish(path)
    assert set(files(tmp_path)) == {"a.i16"}
    assert np.fromfile(path, "<i2").tolist() == [1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    cut_samples=st.integers(0, 30),
    cut_lines=st.integers(0, 120),
    junk=st.sampled_from([b"", b"[3, ", b"\x00\x00", b"null\n", b'{"a": 1}\n']),
)
def test_whatever_is_cut_off_what_is_used_is_whole(tmp_path_factory, lengths, cut_samples, cut_lines, junk):
    folder = tmp_path_factory.mktemp("part")
    path, clips = folder / "a.i16", [clip(number, length) for number, length in enumerate(lengths)]
    stopped(path, "one", clips)
    samples, lines = folder / ".a.i16.part", folder / ".a.i16.part.jsonl"
    os.truncate(samples, max(0, samples.stat().st_size - cut_samples))
    os.truncate(lines, max(0, lines.stat().st_size - cut_lines))
    with open(lines, "ab") as file:
        file.write(junk)
    with open_partial(path, "one") as part:
        kept = len(part.facts)
        assert part.facts == [Facts(len(one.samples), one.content, one.reason, one.scale) for one in clips[:kept]]
        for one in clips[kept:]:
            part.add(one)
        part.publish(path)
    assert path.read_bytes() == b"".join(one.samples.tobytes() for one in clips)
    if not (cut_samples or cut_lines or junk):
        assert kept == len(clips)


def test_what_nobody_goes_on_with_is_removed(tmp_path, monkeypatch):
    stopped(tmp_path / "old.i16", "one", [clip(1)])
    os.utime(tmp_path / ".old.i16.part.jsonl", (0, 0))
    stopped(tmp_path / "new.i16", "one", [clip(1)])
    with open_partial(tmp_path / "busy.i16", "one") as part:
        part.flush()
        os.utime(tmp_path / ".busy.i16.part.jsonl", (0, 0))
        remove_stale(tmp_path)
        assert set(files(tmp_path)) == {f".{name}.i16.part{end}" for name in ("new", "busy") for end in ("", ".jsonl")}
    monkeypatch.setattr(module, "STALE_S", -1.0)
    remove_stale(tmp_path)
    assert files(tmp_path) == {}
