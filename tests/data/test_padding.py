"""How much of what a model hears is padding."""

from __future__ import annotations

from pathlib import Path

import pytest
from sound_files import noise, write

from vcrast.data.cache import open_or_build
from vcrast.data.clip import Clip
from vcrast.data.dataset import ClipDataset
from vcrast.data.padding import clip_lengths, padding_in_use, padding_note


def dataset(folder: Path, lengths: list[int], *, pad: str = "silence", cached: bool = False) -> ClipDataset:
    clips = [Clip(str(write(folder / f"{i}.wav", noise(length, seed=i))), (0,)) for i, length in enumerate(lengths)]
    store = None
    if cached:
        store = open_or_build(clips, sample_rate=16000, cache_dir=folder / "c", num_workers=0, max_bad_fraction=0.5)
    return ClipDataset(clips, num_classes=1, sample_rate=16000, clip_duration_s=0.1, pad=pad, store=store, seed=0)


@pytest.mark.parametrize("cached", [False, True])
def test_lengths_come_from_the_cache_or_the_headers(tmp_path: Path, cached: bool) -> None:
    assert clip_lengths(dataset(tmp_path, [400, 1600, 5000], cached=cached)) == [400, 1600, 5000]


def test_length_of_a_stretch_and_of_a_bad_file(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.wav", noise(8000), rate=8000))
    (tmp_path / "b.wav").write_text("no sound")
    clips = [Clip(path, (0,), start_s=0.25, duration_s=0.5), Clip(path, (0,), start_s=0.25), Clip(path, (0,)),
             Clip(path, (0,), start_s=0.75, duration_s=9.0), Clip(str(tmp_path / "b.wav"), (0,))]  # fmt: skip
    data = ClipDataset(clips, num_classes=1, sample_rate=16000, clip_duration_s=0.1, pad="repeat", store=None, seed=0)
    assert [data.length(i) for i in range(5)] == [8000, 12000, 16000, 4000, 0]


def test_note_by_hand() -> None:
    # 3/4 and 7/8 and 1/2 of 16,000 samples are missing: 70.8 % on average
    note = padding_note([4000, 2000, 8000], num_samples=16000, sample_rate=16000)
    assert note is not None
    assert note.startswith("71 % of the clips' time is padding: half of them are no longer than 0.25 s")
    assert "data.clip_duration_s=0.5 holds 95 % of them, 2 times cheaper" in note
    assert padding_note([8000, 8000], num_samples=16000, sample_rate=16000) is None, "half is not most"
    assert padding_note([], num_samples=16000, sample_rate=16000) is None


@pytest.mark.parametrize(
    ("lengths", "pad", "used"),
    [([1600] * 200, "silence", "repeat"), ([1600] * 199 + [100], "silence", "repeat"),
     ([1600] * 190 + [100] * 10, "silence", "silence"), ([100], "repeat", "repeat")],
)  # fmt: skip
def test_a_model_pads_as_in_training_if_it_was_padded_there(
    lengths: list[int], pad: str, used: str, tmp_path: Path
) -> None:
    assert padding_in_use(dataset(tmp_path, lengths, pad=pad)) == used
