"""Check Speech Commands: official lists, faults of copies, the download."""

import io
import logging
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sound_files import noise, settings, sine, write

from vcrast.cli.data import run_download
from vcrast.cli.main import parser
from vcrast.data.open import open_corpus
from vcrast.data.sources import speechcommands_download
from vcrast.data.sources.speechcommands import NOISE, WORDS
from vcrast.data.sources.speechcommands_download import content_fault, download_speechcommands

SPEAKERS = ("004ae714", "00176480", "fb9d6d23")


def replica(root, *, words=WORDS):
    """A speaker for each split says every word once; the third one twice."""
    for number, word in enumerate(words):
        for speaker in SPEAKERS:
            write(root / word / f"{speaker}_nohash_0.wav", sine(16000, hz=200 + 10 * number, seconds=0.1))
        write(root / word / f"{SPEAKERS[2]}_nohash_1.wav", noise(1600, number))
    write(root / NOISE / "white_noise.wav", noise(48000))
    (root / NOISE / "README.md").write_text("Background noise")
    (root / "LICENSE").write_text("CC BY 4.0")
    for name, speaker in (("validation_list.txt", SPEAKERS[0]), ("testing_list.txt", SPEAKERS[1])):
        (root / name).write_text("".join(f"{word}/{speaker}_nohash_0.wav\n" for word in words))
    return root


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """The bytes of the archive; its entries begin with ./ as in the real one."""
    root = replica(tmp_path_factory.mktemp("speech"))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.add(root, arcname=".")
    return buffer.getvalue()


def opened(root, **values):
    return open_corpus(settings("speechcommands", root=str(root), **values))


def test_the_lists_are_the_splits_and_the_rest_is_trained_on(tmp_path):
    corpus = opened(replica(tmp_path))
    assert (corpus.classes, corpus.multilabel, corpus.folds) == (WORDS, False, ("test", "val"))
    assert Counter(clip.fold for clip in corpus.clips) == {"train": 70, "val": 35, "test": 35}
    assert all(WORDS[clip.labels[0]] == Path(clip.path).parent.name for clip in corpus.clips)
    train, test = corpus.split("test")
    assert {Path(clip.path).name[:8] for clip in train} == {SPEAKERS[2]}
    assert {Path(clip.path).name[:8] for clip in test} == {SPEAKERS[1]}
    assert len(set(WORDS)) == 35


def test_it_is_found_below_the_root_and_where_the_download_puts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = r"data\.root=data/speechcommands has no testing_list\.txt; run `vcrast data download speechcommands`"
    with pytest.raises(FileNotFoundError, match=said):
        open_corpus(settings("speechcommands"))
    with pytest.raises(FileNotFoundError, match=r"data\.root is not set; run `vcrast data download speechcommands`"):
        open_corpus(settings("speechcommands", root=None))
    with pytest.raises(FileNotFoundError, match=r"data\.root=nowhere has no testing_list\.txt"):
        opened("nowhere")
    replica(tmp_path / "data" / "speechcommands" / "speech_commands_v0.02")
    assert len(open_corpus(settings("speechcommands")).clips) == 140


def test_other_words_are_refused_and_lost_files_are_named(tmp_path):
    replica(tmp_path / "old", words=[word for word in WORDS if word not in "backward follow forward learn visual"])
    with pytest.raises(ValueError, match=r"no recording of backward, .*this is version 0\.01.*data download"):
        opened(tmp_path / "old")
    root = replica(tmp_path / "new")
    (root / "cat" / f"{SPEAKERS[1]}_nohash_0.wav").unlink()
    assert opened(root).notes == (
        "1 of the 70 files in testing_list.txt, validation_list.txt are not there: cat/00176480_nohash_0.wav",
    )
    write(root / "banana" / f"{SPEAKERS[1]}_nohash_0.wav", noise(100))
    with pytest.raises(ValueError, match="banana: no word of Speech Commands V2; data=folder opens any words"):
        opened(root)


def fetched(server, root, content):
    server.content = content
    return download_speechcommands(root, url=server.url, pause_s=0.0)


def test_the_archive_is_fetched_checked_and_opened(server, tmp_path, packed, caplog):
    with caplog.at_level(logging.INFO):
        folder = fetched(server, tmp_path, packed)
    assert f"speech_commands_v0.02 (CC BY 4.0) is in {folder}" in caplog.text
    assert folder == tmp_path / "speech_commands_v0.02"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert not content_fault(folder)
    assert len(opened(tmp_path).clips) == 140
    assert fetched(server, tmp_path, packed) == folder, "it is there"
    assert len(server.seen) == 1
    next((folder / "cat").glob(f"{SPEAKERS[0]}*")).unlink()
    assert content_fault(folder) == "cat/004ae714_nohash_0.wav is missing or empty"
    assert not content_fault(fetched(server, tmp_path, packed))


def test_another_archive_is_deleted(server, tmp_path, packed, monkeypatch):
    monkeypatch.setattr(
        speechcommands_download, "ARCHIVE", replace(speechcommands_download.ARCHIVE, url=server.url)
    )  # the published archive has a known checksum
    with pytest.raises(ValueError, match=r"tar\.gz: sha256 .*, expected af14739ee7dc; check --url"):
        fetched(server, tmp_path, packed)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="damaged tar file"):
        fetched(server, tmp_path, packed[:-1000])
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("readme.txt"))
    with pytest.raises(ValueError, match=r"is not speech_commands_v0\.02: no testing_list\.txt; check --url"):
        fetched(server, tmp_path, other.getvalue())
    assert list(tmp_path.iterdir()) == []


def test_the_command(server, tmp_path, packed, capsys):
    server.content = packed
    words = ["data", "download", "speechcommands", "--root", str(tmp_path), "--url", server.url]
    assert run_download(parser().parse_args(words)) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "speech_commands_v0.02")
