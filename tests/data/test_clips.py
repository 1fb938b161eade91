"""Clips as columns: the same sequence as a tuple of them, shared with other processes."""

import multiprocessing
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcrast.data.clip import Clip
from vcrast.data.clips import Clips, join
from vcrast.data.corpus import Corpus
from vcrast.data.mapped import LARGE, Lent, Mapped, attach
from vcrast.data.sampling import class_clips, sampling_chances

SECONDS = st.floats(0, 1e4, allow_nan=False)
CLIP = st.builds(
    Clip,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just("b\udcff.wav"),
    st.lists(st.integers(0, 6), max_size=4, unique=True).map(tuple),
    start_s=st.just(0.0) | SECONDS,
    duration_s=st.none() | SECONDS,
    fold=st.sampled_from(["", "train", "val", "test", "1", "2"]),
    line=st.integers(0, 2**31 - 1),
    extra=st.just({}) | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
CLIPS = st.lists(CLIP, max_size=12)


def everything(clips):
    return [(clip, clip.extra) for clip in clips]


@given(CLIPS, st.data())
def test_columns_hold_what_the_clips_do(clips, data):
    table = Clips.of(clips)
    assert everything(table) == everything(clips) == everything(table[i] for i in range(len(clips)))
    places = data.draw(st.lists(st.integers(0, len(clips) - 1), max_size=8)) if clips else []
    part = table.take(places)
    assert everything(part) == [(clips[i], clips[i].extra) for i in places]
    assert everything(part.take(range(len(part)))[::-1]) == everything([clips[i] for i in places][::-1])
    values, counts = part.labels()
    assert values.tolist() == [label for clip in part for label in clip.labels]
    assert counts.tolist() == [len(clip.labels) for clip in part]
    assert [part.labels_of(i) for i in range(len(part))] == [list(clip.labels) for clip in part]
    assert everything(pickle.loads(pickle.dumps(part))) == everything(part)
    assert part == tuple(part)
    assert part != [*part, Clip("one more", ())]


def test_places_beyond_the_end_are_no_clips():
    table = Clips.of([Clip("a", ()), Clip("b", ())])
    assert table[-1].path == "b"
    for place in (2, -3):
        with pytest.raises(IndexError):
            table[place]


@given(CLIPS, CLIPS, CLIPS)
def test_joined_clips_say_where_they_are_from(first, second, third):
    parts = [Clips.of(first), Clips.of(second).take(range(len(second))[::-1]), Clips.of(third)]
    maps = [range(7), range(10, 17), [6, 5, 4, 3, 2, 1, 0]]
    joined = join(parts, maps)
    told = [(number, clip) for number, part in enumerate(parts) for clip in part]
    assert joined.part.tolist() == [number for number, _ in told]
    for mine, (number, clip) in zip(joined, told, strict=True):
        assert mine.labels == tuple(maps[number][label] for label in clip.labels)
        assert (mine.segment, mine.fold, mine.line, mine.extra) == (clip.segment, clip.fold, clip.line, clip.extra)
    assert everything(pickle.loads(pickle.dumps(joined))) == everything(joined)


@given(st.lists(CLIP, min_size=1, max_size=12))
def test_counts_and_chances_are_those_of_a_loop(clips):
    counts = [sum(label in clip.labels for clip in clips) for label in range(7)]
    assert class_clips(clips, 7) == tuple(counts)
    bare = sum(not clip.labels for clip in clips)
    kinds = sum(count > 0 for count in counts) + (bare > 0)
    chances = [(sum(1 / counts[label] for label in clip.labels) if clip.labels else 1 / bare) / kinds for clip in clips]
    np.testing.assert_allclose(sampling_chances(clips, "balanced").numpy(), chances, rtol=1e-12)


@pytest.mark.parametrize(
    ("fold", "train", "test"),
    [("1", "b t u", "a"), ("val", "a b t u", "v"), ("test", "a b t u", "x")],
)
def test_each_dataset_of_a_mixture_is_split_by_its_own_rule(fold, train, test):
    folds = Clips.of([Clip("a", (), fold="1"), Clip("b", (), fold="2")])
    fixed = Clips.of([Clip("t", (), fold="train"), Clip("v", (), fold="val"), Clip("x", (), fold="test")])
    corpus = Corpus(
        "mixture", join([folds, fixed, Clips.of([Clip("u", ())])], [(), (), ()]), (), False, ("1", "2", "test", "val")
    )
    learnt, tested = corpus.split(fold)
    assert [" ".join(clip.path for clip in part) for part in (learnt, tested)] == [train, test]


def _read(clips, asked, answers):
    for place in iter(asked.get, None):
        answers.put((clips[place], isinstance(clips.rows, np.memmap)))


def test_another_process_maps_what_this_one_holds():
    many = Clips.of(Clip(f"folder/{number}.wav", (number % 5,), fold=str(number % 3)) for number in range(200_000))
    part = many.take(np.arange(len(many))[::-1])
    assert part.rows.nbytes > LARGE
    sent = pickle.dumps(part)
    assert len(sent) < 5000, "sent by value"
    context = multiprocessing.get_context("spawn")
    asked, answers = context.Queue(), context.Queue()
    other = context.Process(target=_read, args=(part, asked, answers))
    other.start()
    try:
        for place in (0, 123_456, 199_999):
            asked.put(place)
            assert answers.get(timeout=60) == (part[place], True)
    finally:
        asked.put(None)
        other.join(60)


def test_a_memory_map_is_lent_by_the_name_of_its_file(tmp_path):
    numbers = np.arange(LARGE, dtype=np.int32)
    np.save(tmp_path / "a.npy", numbers)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    lent = Lent().lend(mapped[1000 : LARGE // 2])
    assert isinstance(lent, Mapped)
    assert lent.path == str(tmp_path / "a.npy")
    assert (attach(lent) == numbers[1000 : LARGE // 2]).all()


def test_what_cannot_be_written_is_sent_by_value(monkeypatch):
    def full(**_):
        raise OSError("disk full")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    numbers = np.arange(LARGE)
    assert Lent().lend(numbers) is numbers
