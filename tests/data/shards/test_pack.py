"""Packing: each clip once, and the same bytes from any machine and number of attempts."""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from sound_files import noise, settings, write

from vcrast.data.audio import read_wav
from vcrast.data.members import name_of
from vcrast.data.open import open_corpus
from vcrast.data.shards import write as writing
from vcrast.data.shards.layout import Manifest
from vcrast.data.shards.open import open_shards
from vcrast.data.shards.write import Faults, pack, packing_order


def files(folder):
    """Every file below a folder, and a hash of it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def test_every_clip_is_there_once_with_its_labels_fold_and_samples(corpus, packed, remote):
    manifest, clips = open_shards(str(packed), remote)
    assert manifest.num_clips == len(clips) == 12
    assert [shard.clips for shard in manifest.shards] == [5, 5, 2]
    told = {Path(clip.path).name: clip for clip in corpus.clips}
    assert sorted(Path(name_of(clip.path)).name for clip in clips) == sorted(told)
    for place, clip in enumerate(clips):
        before = told[Path(name_of(clip.path)).name]
        assert (clip.labels, clip.fold) == (before.labels, before.fold)
        wav = read_wav(before.path, sample_rate=16000)
        np.testing.assert_array_equal(read_wav(clip.path, sample_rate=16000), np.rint(wav * 32768) / 32768)
        assert clips.seconds(place) == len(wav) / 16000
    assert manifest.classes == corpus.classes


def test_anything_that_reads_tar_files_reads_shards(corpus, packed):
    seen = []
    for path in sorted(packed.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for sound, about in zip(members[::2], members[1::2], strict=True):
                assert sound.name.split(".")[0] == about.name.split(".")[0]
                facts = json.loads(tar.extractfile(about).read())
                clip = corpus.clips[int(sound.name.split(".")[0])]
                assert facts["labels"] == [corpus.classes[label] for label in clip.labels]
                assert facts["fold"] == clip.fold
                assert clip.path.endswith(facts["path"])
                assert tar.extractfile(sound).read(4) == b"fLaC"
                seen.append(clip.path)
    assert sorted(seen) == sorted(clip.path for clip in corpus.clips)
    assert len({tuple(np.diff(sorted(int(Path(path).stem) for path in seen[:5])))}) == 1
    assert json.loads((packed / "wids.json").read_text())["shardlist"][2] == {"url": "clips-000002.tar", "nsamples": 2}


def test_parts_in_any_order_and_processes_give_the_same_bytes(tmp_path, corpus, packing, packed):
    whole = files(packed)
    assert pack(corpus, tmp_path / "parts", packing, part=(2, 2), num_workers=1) is None
    manifest = pack(corpus, tmp_path / "parts", packing, part=(1, 2), num_workers=2)
    assert isinstance(manifest, Manifest)
    assert files(tmp_path / "parts") == whole
    assert pack(corpus, tmp_path / "parts", packing, num_workers=0) == manifest, "nothing is left to do"


@settings_of_hypothesis(max_examples=8)
@given(st.data())
def test_a_stopped_packing_goes_on_with_the_same_bytes(corpus, data):
    with tempfile.TemporaryDirectory() as folder:
        out, packing = Path(folder) / "out", writing.Packing("flac", 16000, 3, keep_silent=False, max_bad_fraction=0.0)
        pack(corpus, out, packing, num_workers=0)
        whole = files(out)
        # Whatever a kill -9 may leave: shards without their rows, rows without the index, the index without a manifest.
        for name in data.draw(st.lists(st.sampled_from(sorted(set(whole) - {"plan.json"})), unique=True, min_size=1)):
            (out / name).unlink()
        (out / "manifest.json").unlink(missing_ok=True)
        pack(corpus, out, packing, num_workers=0)
        assert files(out) == whole


def test_another_input_is_not_packed_into_the_same_folder(tmp_path, corpus, packing, packed):
    fewer = replace(corpus, clips=corpus.clips[:11])
    for clips, how, told in (
        (corpus, replace(packing, codec="opus"), "codec=flac, now opus"),
        (corpus, replace(packing, clips_per_shard=4), "clips_per_shard=5, now 4"),
        (fewer, packing, "clips=12, now 11"),
        (replace(corpus, classes=("a", "b", "d")), packing, "other clips or labels"),
    ):
        with pytest.raises(ValueError, match=told):
            pack(clips, packed, how, num_workers=0)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.tar").touch()
    with pytest.raises(ValueError, match="tar files of something else"):
        pack(corpus, tmp_path / "theirs", packing, num_workers=0)


def test_unreadable_clips_are_named_counted_and_left_out(tmp_path, packing, remote):
    for number in range(8):
        write(tmp_path / "s" / "ab"[number % 2] / f"{number}.wav", noise(4000, number))
    write(tmp_path / "s" / "a" / "silent.wav", np.zeros(4000, np.float32))
    corpus = open_corpus(settings("folder", root=str(tmp_path / "s")))
    manifest = pack(corpus, tmp_path / "out", packing, num_workers=0)
    assert [name for name, _ in manifest.left_out] == ["a/silent.wav"]
    assert manifest.num_clips == len(open_shards(str(tmp_path / "out"), remote).clips) == 8
    write(tmp_path / "s" / "b" / "silent.wav", np.zeros(4000, np.float32))
    corpus = open_corpus(settings("folder", root=str(tmp_path / "s")))
    with pytest.raises(Faults, match=r"(?s)2 of 10 clips.*allows 1.*a/silent.wav: silent.*b/silent.wav"):
        pack(corpus, tmp_path / "other", packing, num_workers=0)
    assert not (tmp_path / "other" / "manifest.json").exists()


def test_clips_of_one_recording_and_names_of_any_bytes(tmp_path, packing, remote):
    odd = os.fsdecode(b"caf\xe9 ::x.wav")
    write(tmp_path / "long.wav", noise(16000))
    shutil.copy(tmp_path / "long.wav", tmp_path / odd)
    (tmp_path / "m.csv").write_bytes(
        b"path,start,duration,label,who\nlong.wav,0,0.25,a,x\nlong.wav,0.5,0.25,b,\n" + os.fsencode(odd) + b",,,a,y\n"
    )
    corpus = open_corpus(settings("manifest", path=str(tmp_path / "m.csv"), options={"encoding": "latin-1"}))
    pack(corpus, tmp_path / "out", packing, num_workers=0)
    clips = {name_of(clip.path): clip for clip in open_shards(str(tmp_path / "out"), remote).clips}
    assert sorted(clips) == sorted([os.fsdecode(b"caf\xe9 :x.wav"), "long.wav@0.0", "long.wav@0.5"])
    np.testing.assert_allclose(
        read_wav(clips["long.wav@0.5"].path, sample_rate=16000), noise(16000)[8000:12000], atol=2**-15
    )


def test_a_full_disk_is_said_and_leaves_no_half_shard(tmp_path, corpus, packing, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("vcrast.data.shards.tar.publish", full)
        with pytest.raises(OSError, match=r"clips-00000\d.tar: No space left.*again"):
            pack(corpus, tmp_path / "out", packing, num_workers=0)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["plan.json"]
    assert pack(corpus, tmp_path / "out", packing, num_workers=0) is not None


def test_shards_hold_clips_of_all_places():
    order = packing_order(10_000)
    assert sorted(order.tolist()) == list(range(10_000))
    for shard in order.reshape(10, 1000):
        assert abs(shard.mean() - 5000) < 5 * 10_000 / np.sqrt(12 * 1000), "a shard is a sample of the whole"
