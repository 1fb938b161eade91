"""data=huggingface: what `datasets` writes is read as `datasets` reads it."""

import pickle
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from foreign.packed import CLASSES, assert_heard, dataset_dict_of, dataset_of, sounds, table_of
from sound_files import settings

from vcrast.data.audio import MEMBERS, AudioFault, read_wav
from vcrast.data.foreign import rows as rows_module
from vcrast.data.foreign.rows import RowMembers
from vcrast.data.open import open_corpus
from vcrast.data.splits import standard_split

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'vcrast[hf]'")
datasets = pytest.importorskip("datasets", reason="needs datasets, of the dev extra")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


@pytest.fixture
def made():
    return sounds(splits=("train", "train", "validation", "test"))


def opened(root, **changes):
    return open_corpus(settings("huggingface", root=str(root), **changes))


def told(corpus):
    """Name -> label, fold, of every clip."""
    return {
        Path(clip.path.split("::")[0]).name: (*(corpus.classes[label] for label in clip.labels), clip.fold)
        for clip in corpus.clips
    }


def as_theirs(dataset):
    """The same of a DatasetDict, from the library itself."""
    found = {}
    for split, part in dataset.items():
        for row in part.cast_column("audio", datasets.Audio(decode=False)):
            name = part.features["label"].int2str(row["label"])
            found[row["audio"]["path"]] = (name, standard_split(split))
    return found


def write_parquet(dataset, folder, *, files=2, row_group=4):
    """As on the hub: data/train-00000-of-00002.parquet."""
    (folder / "data").mkdir(parents=True)
    for split, part in dataset.items():
        for number in range(files):
            path = folder / "data" / f"{split}-{number:05d}-of-{files:05d}.parquet"
            part.shard(files, number).to_parquet(str(path), batch_size=row_group)
    return folder


def saved(made, folder, kind):
    dataset = dataset_dict_of(made)
    if kind == "parquet":
        return write_parquet(dataset, folder)
    dataset.save_to_disk(str(folder), num_shards=dict.fromkeys(dataset, 2))
    return folder


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_sounds_labels_and_splits_are_those_of_datasets(tmp_path, made, kind):
    root = saved(made, tmp_path / "ds", kind)
    corpus = opened(root)
    theirs = datasets.load_from_disk(str(root)) if kind == "arrow" else datasets.load_dataset(
        str(root), cache_dir=str(tmp_path / "hf")
    )  # fmt: skip
    assert corpus.classes == CLASSES == tuple(theirs["train"].features["label"].names)
    assert (corpus.folds, corpus.multilabel) == (("test", "val"), False)
    assert told(corpus) == as_theirs(theirs)
    by_name = {sound.name: sound for sound in made}
    for clip in corpus.clips:
        sound = by_name[Path(clip.path.split("::")[0]).name]
        (tmp_path / sound.name).write_bytes(sound.content)
        wav = read_wav(clip.path, sample_rate=16000)
        assert_heard(wav, read_wav(str(tmp_path / sound.name), sample_rate=16000), sound.name)
        assert_heard(wav, sound.wav, sound.name)
    assert [clip.path for clip in pickle.loads(pickle.dumps(corpus.table))] == [clip.path for clip in corpus.clips]
    blocks = Counter(corpus.table.block.tolist())
    groups = {clip.path.rpartition("/")[2] + clip.path.split("://")[1].split(".")[0] for clip in corpus.clips}
    assert len(blocks) == (6 if kind == "arrow" else len(groups))
    assert max(blocks.values()) <= (8 if kind == "arrow" else 4)


def test_one_dataset_and_folds_in_a_column(tmp_path, made):
    folds = [1 + number % 2 for number in range(len(made))]
    dataset_of(made, fold=folds).save_to_disk(str(tmp_path / "one"))
    corpus = opened(tmp_path / "one")
    assert corpus.folds == ("1", "2")
    assert Counter(clip.fold for clip in corpus.clips) == {"1": 12, "2": 12}
    assert opened(tmp_path / "one", options={"fold": False}).folds == ()
    (file,) = (tmp_path / "one").glob("*.arrow")
    assert told(opened(file)) == told(corpus), "one file"


def test_several_labels_and_texts(tmp_path, made):
    several = [[number % 3, (number + 1) % 3][: 1 + number % 2] for number in range(len(made))]
    dataset = dataset_of(made, tags=several, text=[f"sound {number}" for number in range(len(made))])
    dataset = dataset.cast_column("tags", datasets.List(datasets.ClassLabel(names=list(CLASSES))))
    dataset.save_to_disk(str(tmp_path / "ds"))
    corpus = opened(tmp_path / "ds", label="tags")
    assert corpus.multilabel
    assert [list(clip.labels) for clip in corpus.clips] == several
    assert opened(tmp_path / "ds").classes == CLASSES
    assert len(opened(tmp_path / "ds", label="text").classes) == len(made)


def test_a_label_of_another_name_and_hidden_ones(tmp_path, made):
    renamed = dataset_of(made).rename_column("label", "kind").rename_column("audio", "sound")
    renamed.save_to_disk(str(tmp_path / "ds"))
    assert opened(tmp_path / "ds").classes == CLASSES
    hidden = [sound._replace(label=-1) if number == 5 else sound for number, sound in enumerate(made)]
    pq.write_table(dataset_of(hidden).data.table, tmp_path / "a.parquet")
    corpus = opened(tmp_path / "a.parquet")
    assert len(corpus.clips) == 23
    assert any("a.parquet: clip00005.flac: no label (label)" in note for note in corpus.notes)


def test_without_types_of_datasets(tmp_path, made):
    pq.write_table(table_of(made, other=["x"] * len(made)), tmp_path / "train.parquet", row_group_size=5)
    corpus = opened(tmp_path, options={"classes": list(CLASSES)})
    assert corpus.classes == CLASSES
    assert len(np.unique(corpus.table.block)) == 5
    bare = pa.table({"sound": [sound.content for sound in made]})
    pq.write_table(bare, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"none of sound; set data.options.audio="):
        opened(tmp_path)
    corpus = opened(tmp_path, options={"audio": "sound"})
    assert [len(read_wav(clip.path, sample_rate=16000)) for clip in corpus.clips] == [8000] * 24


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_rows_without_bytes_are_files(tmp_path, made, kind):
    (tmp_path / "ds" / "wavs").mkdir(parents=True)
    some = []
    for number, sound in enumerate(made):
        if number % 2:
            some.append(sound)
            continue
        (tmp_path / "ds" / "wavs" / sound.name).write_bytes(sound.content)
        some.append(sound._replace(content=None, name=f"wavs/{sound.name}"))
    some.append(made[0]._replace(content=None, name="wavs/gone.wav"))
    table = dataset_of(some).data.table
    if kind == "parquet":
        pq.write_table(table, tmp_path / "ds" / "a.parquet", row_group_size=7)
    else:
        with pa.ipc.new_stream(str(tmp_path / "ds" / "a.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    corpus = opened(tmp_path / "ds")
    assert [Path(clip.path.split("::")[0]).name for clip in corpus.clips] == [sound.name for sound in made]
    assert corpus.clips[0].path == str(tmp_path / "ds" / "wavs" / made[0].name)
    assert corpus.content == "", "files outside are checked as any others"
    assert any("row 24: wavs/gone.wav: no bytes, and no such file" in note for note in corpus.notes)
    with pytest.raises(ValueError, match="1 of 25 samples cannot be used"):
        opened(tmp_path / "ds", max_bad_fraction=0.0)


def test_row_groups_are_kept_within_bounds(tmp_path, made, monkeypatch):
    root = write_parquet(dataset_dict_of(made), tmp_path / "ds")
    kept = rows_module._Kept()
    monkeypatch.setattr(rows_module, "_kept", kept)
    corpus = opened(root, row_groups_mb=1e-6)
    for clip in corpus.clips:
        read_wav(clip.path, sample_rate=16000)
    assert len(kept.groups) == 1
    reads, sounds_of = [], rows_module.sounds_of
    monkeypatch.setattr(rows_module, "sounds_of", lambda *given: reads.append(given) or sounds_of(*given))
    kept.groups.clear()
    members = RowMembers(1 << 30)
    for _ in range(2):
        for clip in corpus.clips:
            members(clip.path)
    assert len(reads) == len(np.unique(corpus.table.block)), "each is read once"


def test_row_groups_that_would_be_read_for_every_clip_are_said(tmp_path, made, monkeypatch):
    root = write_parquet(dataset_dict_of(made), tmp_path / "ds", row_group=2)
    said = "mixes row groups of .* are read for each clip anew"

    def notes(**changes):
        return " ".join(opened(root, **changes).notes)

    assert not re.search(said, notes())
    assert re.search(f"data.mixed_shards=None {said}", notes(mixed_shards=None, row_groups_mb=0.2))
    assert not re.search(said, notes(mixed_shards=1, row_groups_mb=0.2))
    monkeypatch.setattr("vcrast.data.sources.huggingface.LARGE_GROUP_MB", 0.01)
    assert "write them anew with row_group_size=100" in notes()


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_damaged_files_are_named(tmp_path, made, kind):
    root = saved(made, tmp_path / "ds", kind)
    corpus = opened(root)
    file = Path(corpus.clips[0].path.split("::")[1])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"1 of 6 files\n  \S*{file.name}: cannot be read: cut or damaged"):
        opened(root)
    with pytest.raises(AudioFault, match="cut or damaged"):
        read_wav(corpus.clips[0].path, sample_rate=16000)
    file.unlink()
    with pytest.raises(AudioFault, match="missing file"):
        read_wav(corpus.clips[0].path, sample_rate=16000)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        opened(root)


def test_addresses_that_are_none():
    members = RowMembers(0)
    with pytest.raises(AudioFault, match="expected arrow://"):
        members("arrow://x/a.wav::b.arrow")


def test_the_content_tells_other_sounds(tmp_path, made):
    root = saved(made, tmp_path / "ds", "parquet")
    first = opened(root).content
    assert first
    moved = root.rename(tmp_path / "moved")
    assert opened(moved).content == first
    file = next(iter(moved.rglob("test*.parquet")))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    assert opened(moved).content != first


def test_splits_of_other_names(tmp_path, made):
    half = {"train.clean.100": dataset_of(made[:12]), "test.other": dataset_of(made[12:])}
    datasets.DatasetDict(half).save_to_disk(str(tmp_path / "a"))
    assert opened(tmp_path / "a").table.folds == {"train", "test"}
    part = datasets.DatasetDict({"en": half["train.clean.100"], "fr": half["test.other"]})
    part.save_to_disk(str(tmp_path / "b"))
    assert opened(tmp_path / "b").folds == ("en", "fr")
    datasets.DatasetDict({"validation": part["en"], "test": part["fr"]}).save_to_disk(str(tmp_path / "c"))
    with pytest.raises(ValueError, match="has the splits test, val and none called train"):
        opened(tmp_path / "c")
    assert opened(tmp_path / "c" / "test").folds == ()
    (tmp_path / "c" / "test" / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"test/state.json: is damaged, no JSON"):
        opened(tmp_path / "c" / "test")


def test_files_of_the_cache_are_no_data(tmp_path, made):
    root = saved(made, tmp_path / "ds", "arrow")
    stray = next(iter(root.rglob("*.arrow")))
    stray.with_name("cache-0123.arrow").write_bytes(stray.read_bytes())
    assert len(opened(root).clips) == len(made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"audio": "sound"}, r"data.options.audio=sound: no such column; choose from audio, label"),
        ({"audio": "label"}, r"data.options.audio=label: holds int64"),
        ({"classes": ["a"]}, r"label=2: has no name among 1 classes|label=1: has no name among 1 classes"),
    ],
)
def test_wrong_settings(tmp_path, made, options, said):
    pq.write_table(table_of(made), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=said):
        opened(tmp_path, options=options)


def test_pyarrow_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"data=huggingface needs pyarrow: pip install 'vcrast\[hf\]'"):
        opened(tmp_path)


def test_classes_of_other_files_must_be_the_same(tmp_path, made):
    dataset_of(made[:12]).to_parquet(str(tmp_path / "train-0.parquet"))
    other = dataset_of(made[12:]).cast_column("label", datasets.ClassLabel(names=["rain", "dog", "siren"]))
    other.to_parquet(str(tmp_path / "test-0.parquet"))
    with pytest.raises(ValueError, match="label: its classes are others in other files"):
        opened(tmp_path)


def test_members_are_sent_to_other_processes(tmp_path, made):
    opened(saved(made, tmp_path / "ds", "parquet"), row_groups_mb=3.0)
    assert pickle.loads(pickle.dumps(MEMBERS["parquet"])) == RowMembers(3 << 20)
