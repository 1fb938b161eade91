"""Training batches from shards: who reads what, resumed, with faults, over HTTP."""

import multiprocessing

import pytest
import torch
from sound_files import settings
from stores import NGINX, nginx

from vcrast.data.loader import NoBatchError, training_batches
from vcrast.data.members import ADDRESS
from vcrast.data.open import open_corpus, open_data
from vcrast.data.remote import RemoteFiles
from vcrast.data.shards.open import open_shards
from vcrast.data.shards.write import pack


def batches(root, start=0, stop=9, *, num_workers=0, rank=0, world_size=1, **values):
    data = settings("shards", root=str(root), mixed_shards=2, clip_duration_s=0.25, fetch_attempts=1, **values)
    corpus = open_corpus(data)
    clips = open_data(data, corpus).dataset(corpus.clips, seed=0)
    return list(
        training_batches(
            clips, batch_size=4, seed=1, start_step=start, num_steps=stop, num_workers=num_workers, device="cpu",
            rank=rank, world_size=world_size,
        )
    )  # fmt: skip


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def damage(packed, corpus, place):
    """Change a byte of one clip."""
    found = ADDRESS.fullmatch(corpus.clips[place].path)
    with open(found[5], "r+b") as file:
        file.seek(int(found[1]) + int(found[2]) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x55]))


def test_workers_ranks_and_stops_change_nothing(packed):
    whole = batches(packed)
    assert_same(batches(packed, num_workers=2), whole)
    assert_same(batches(packed, 0, 4) + batches(packed, 4, 5) + batches(packed, 5, num_workers=1), whole)
    halves = [batches(packed, 3, 7, rank=rank, world_size=2) for rank in range(2)]
    joined = [type(a)(*(torch.cat(parts) for parts in zip(a, b, strict=True))) for a, b in zip(*halves, strict=True)]
    assert_same(joined, whole[3:7])


def test_a_damaged_clip_is_replaced_alike_wherever_reading_begins(packed, remote, caplog):
    corpus = open_corpus(settings("shards", root=str(packed)))
    damage(packed, corpus, 6)
    whole = batches(packed, max_bad_fraction=0.1)
    assert "its checksum is another one; left out" in caplog.text
    assert all(6 not in batch.index for batch in whole)
    for start in range(1, 9):
        assert_same(batches(packed, start, max_bad_fraction=0.1), whole[start:])
    assert_same(batches(packed, num_workers=2, max_bad_fraction=0.1), whole)
    damage(packed, corpus, 7)
    with pytest.raises(ValueError, match="2 of 12 clips cannot be used"):
        batches(packed)


def test_shards_say_whose_they_are(tmp_path, corpus, packing):
    origin = {"name": "folder", "options": settings("folder").options | {"num_folds": 2}}
    pack(corpus, tmp_path / "out", packing, num_workers=0, origin=origin)
    root = {"root": str(tmp_path / "out")}
    found = open_corpus(settings("folder", **root, options={"num_folds": 2}))
    assert (found.classes, found.folds, len(found.clips)) == (corpus.classes, corpus.folds, 12)
    with pytest.raises(ValueError, match=r"data.options.num_folds=3: the shards at .* were packed with 2"):
        open_corpus(settings("folder", **root, options={"num_folds": 3}))
    with pytest.raises(ValueError, match="holds shards of folder, not of esc50"):
        open_corpus(settings("esc50", **root))
    with pytest.raises(ValueError, match=r"data.label=x: shards have their own labels"):
        open_corpus(settings("shards", **root, label="x"))


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_over_http_each_shard_is_fetched_once_before_it_is_due_and_a_store_that_ends_is_said(packed, tmp_path):
    whole = batches(packed)
    with nginx(packed, tmp_path / "nginx") as (url, log):
        assert_same(batches(url, cache_dir=str(tmp_path / "cache"), num_workers=2), whole)
        fetched = [line.split()[6] for line in log.read_text().splitlines()]
        assert sorted(name for name in fetched if name.endswith(".tar")) == [f"/clips-00000{i}.tar" for i in range(3)]
        # Next time the index is here, and the manifest says that it is the right one.
        assert_same(batches(url, cache_dir=str(tmp_path / "cache")), whole)
        assert log.read_text().count("offset.npy") == 1
        assert log.read_text().count("manifest.json") == 2
        (packed / "clips-000001.tar").unlink()
        for workers in (0, 2):
            with pytest.raises(NoBatchError, match=r"clips-000001.tar: .*404"):
                batches(url, cache_dir=str(tmp_path / f"new{workers}"), num_workers=workers)
    with pytest.raises(ConnectionError, match=r"manifest.json: .*gave up after 1 attempt"):
        batches(url, cache_dir=str(tmp_path / "cache"))


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_an_index_that_is_being_replaced_is_refused(packed, tmp_path):
    (packed / "index" / "offset.npy").write_bytes(b"other")
    with (
        nginx(packed, tmp_path / "nginx") as (url, _),
        pytest.raises(ValueError, match=r"offset.npy: sha256 .*expected"),
    ):
        batches(url, cache_dir=str(tmp_path / "cache"))


def _open_at_once(url, folder, start, answers):
    start.wait()
    try:
        answers.put(len(open_shards(url, RemoteFiles(folder, 10**9)).clips))
    except Exception as error:
        answers.put(repr(error))


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_all_ranks_of_a_machine_open_an_address_at_the_same_moment(packed, tmp_path):
    context = multiprocessing.get_context("fork")
    with nginx(packed, tmp_path / "nginx") as (url, _):
        for attempt in range(5):
            start, answers = context.Barrier(8), context.Queue()
            arguments = (url, tmp_path / f"copies{attempt}", start, answers)
            ranks = [context.Process(target=_open_at_once, args=arguments) for _ in range(8)]
            for rank in ranks:
                rank.start()
            assert [answers.get(timeout=60) for _ in ranks] == [12] * 8
            for rank in ranks:
                rank.join()
