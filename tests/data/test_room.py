"""A cache that would not fit is refused before decoding; what may fit is tried."""

from types import SimpleNamespace

import numpy as np
import pytest
from sound_files import noise, write

from vcrast.data import cache, room
from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data.clips import Clips, Columns
from vcrast.data.room import NoRoomError, check_room, estimated_seconds

NEEDED = 2 * 16000 * 10  # ten clips of one second


@pytest.fixture
def free(monkeypatch):
    """Sets what the disk has."""
    bytes_free = SimpleNamespace(free=0)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: bytes_free)

    def set_to(count):
        bytes_free.free = count

    return set_to


@pytest.fixture
def clips(tmp_path):
    """Ten clips of a second."""
    return [Clip(write(tmp_path / "audio" / f"{i}.wav", noise(8000, seed=i), 8000), (0,)) for i in range(10)]


def build(clips, folder, **more):
    options = {"sample_rate": 16000, "num_workers": 0, "max_bad_fraction": 0.5, **more}
    return open_or_build(clips, cache_dir=folder / "cache", **options)


@pytest.mark.parametrize(("share", "fits"), [(0.90, False), (0.96, True), (2.0, True)])
def test_what_cannot_fit_is_refused_with_its_size_and_what_to_set(clips, free, tmp_path, share, fits):
    free(int(share * NEEDED))
    if fits:
        assert len(build(clips, tmp_path).good) == 10
        return
    with pytest.raises(NoRoomError) as refused:
        build(clips, tmp_path)
    said = str(refused.value)
    assert "needs about 312.5 KiB for 10 clips, 281.2 KiB are free" in said
    assert all(way in said for way in ("data.cache=false", "data.cache_dir=DIR", "vcrast data shard"))
    assert "\n" not in said
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_is_there_needs_no_room(clips, free, tmp_path):
    free(10**9)
    build(clips, tmp_path)
    free(0)
    assert len(build(clips, tmp_path).good) == 10


def test_what_was_decoded_counts_and_is_kept_for_when_there_is_room(clips, free, tmp_path, monkeypatch):
    def stopped(task, decode=cache._decode):
        if task.path == clips[6].path:
            raise KeyboardInterrupt
        return decode(task)

    free(NEEDED)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_decode", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(clips, tmp_path)
    free(NEEDED // 5)
    with pytest.raises(NoRoomError, match="for 4 clips"):
        build(clips, tmp_path)
    free(NEEDED * 2 // 5)
    assert len(build(clips, tmp_path).good) == 10


def test_generated_sounds_and_unreadable_files_are_taken_for_nothing(clips, free, tmp_path):
    (tmp_path / "text.wav").write_text("no sound" * 40_000)
    odd = [Clip(str(tmp_path / "text.wav"), (0,)), *(Clip(f"synth://{i}", (0,)) for i in range(50))]
    assert estimated_seconds(Clips.of(odd)) == (0.0, 0.0)
    assert estimated_seconds(Clips.of([*clips, *odd])) == (10.0, 0.0)
    free(0)
    check_room(odd, [320_000, *[-1] * 50], sample_rate=16000, folder=tmp_path)


def test_stretches_count_as_far_as_their_file_has_them(clips):
    parts = [(0.0, 0.25), (0.5, 3.0), (0.75, None), (2.0, 1.0)]
    cut = [Clip(clips[0].path, (0,), start_s=start, duration_s=length) for start, length in parts]
    assert estimated_seconds(Clips.of(cut)) == (0.25 + 0.5 + 0.25, 0.0)


def with_seconds(seconds):
    clips = Clips.of([Clip(f"{i}.wav", (0,)) for i in range(len(seconds))])
    columns = clips.columns
    return Clips(
        Columns(columns.paths, columns.labels, columns.label_starts, columns.fold, ("",), seconds=np.array(seconds))
    )


def test_known_lengths_are_added_up_without_opening_a_file(monkeypatch):
    monkeypatch.setattr(room, "header", None)
    assert estimated_seconds(with_seconds([1.0, 2.5, 4.0])) == (7.5, 0.0)


def test_of_many_files_few_are_opened_and_chance_refuses_nothing(monkeypatch, free, tmp_path):
    lengths = np.random.default_rng(0).lognormal(1.0, 1.0, 5000)
    opened = []

    def header(path, time_expansion):
        opened.append(path)
        return 1000, round(1000 * lengths[int(path[:-4])])

    monkeypatch.setattr(room, "header", header)
    clips = Clips.of([Clip(f"{i}.wav", (0,)) for i in range(5000)])
    seconds, error = estimated_seconds(clips)
    assert len(opened) == 200
    assert abs(seconds - lengths.sum()) < error < 0.5 * seconds
    free(int(2 * 16000 * lengths.sum()))
    check_room(clips, [10**6] * 5000, sample_rate=16000, folder=tmp_path)
    free(int(2 * 16000 * lengths.sum() / 3))
    with pytest.raises(NoRoomError):
        check_room(clips, [10**6] * 5000, sample_rate=16000, folder=tmp_path)


def test_of_small_files_none_is_opened(clips, free, monkeypatch, tmp_path):
    monkeypatch.setattr(room, "header", None)
    free(10 * 100 * 20_000)
    assert len(build(clips, tmp_path).good) == 10
