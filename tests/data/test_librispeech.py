"""Check LibriSpeech: speakers as classes, the split within each, the download of subsets."""

import csv
import hashlib
import io
import tarfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sound_files import settings, sine, write

from vcrast.cli.data import run_download
from vcrast.cli.main import main, parser
from vcrast.data.open import open_corpus
from vcrast.data.sources import librispeech as source
from vcrast.data.sources import librispeech_download as download
from vcrast.data.sources.librispeech import Utterance, split_utterances

SPOKEN = {"dev-clean": {"84": 23, "174": 9, "1272": 3}, "dev-other": {"116": 12, "700": 2}}


def replica(root, subset="dev-clean"):
    """Speakers with as many utterances as `SPOKEN` says, in two chapters, with the transcripts that lie beside them."""
    for speaker, count in SPOKEN[subset].items():
        for number in range(count):
            chapter = f"{1000 + number % 2}"
            folder = root / "LibriSpeech" / subset / speaker / chapter
            write(folder / f"{speaker}-{chapter}-{number:04}.flac", sine(16000, hz=100 + int(speaker), seconds=0.05))
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("84-1000-0000 GO\n")
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("; ID | SEX | SUBSET\n")
    return root


def opened(root, *subsets, **values):
    options = {"subsets": list(subsets) or ["dev-clean"]}
    return open_corpus(settings("librispeech", root=str(root), options=options, **values))


def test_speakers_are_classes_split_within_each(tmp_path):
    corpus = opened(replica(tmp_path))
    assert corpus.classes == ("84", "174", "1272")  # by number
    folds = Counter((corpus.classes[clip.labels[0]], clip.fold) for clip in corpus.clips)
    assert folds == {
        ("84", "test"): 2, ("84", "val"): 2, ("84", "train"): 19, ("174", "test"): 1, ("174", "val"): 1,
        ("174", "train"): 7, ("1272", "test"): 1, ("1272", "val"): 1, ("1272", "train"): 1,
    }  # fmt: skip
    assert corpus.notes == ("librispeech: 35 of the 2703 utterances of dev-clean are here",)


def test_the_split_is_the_published_rule_and_the_same_for_any_choice_of_subsets(tmp_path):
    alone = opened(replica(tmp_path))
    both = opened(replica(tmp_path, "dev-other"), "dev-other", "dev-clean")
    assert both.classes == ("84", "116", "174", "700", "1272")
    fold = {clip.path: clip.fold for clip in both.clips}
    assert all(fold[clip.path] == clip.fold for clip in alone.clips)
    ids = [clip.path.rpartition("/")[2].removesuffix(".flac") for clip in alone.clips if "/84/" in clip.path]
    ids.sort(
        key=lambda name: int.from_bytes(
            hashlib.blake2b(f"librispeech {name}".encode(), digest_size=8).digest(), "little"
        )
    )
    folds = {clip.path.rpartition("/")[2].removesuffix(".flac"): clip.fold for clip in alone.clips}
    assert [folds[name] for name in ids] == ["test"] * 2 + ["val"] * 2 + ["train"] * 19


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=5), order=st.randoms(use_true_random=False))
def test_every_speaker_is_trained_on_and_the_order_of_files_does_not_matter(counts, order):
    spoken = [Utterance(f"{who}-1-{i:04}", str(who), "") for who, count in enumerate(counts) for i in range(count)]
    split = split_utterances(spoken)
    for who, count in enumerate(counts):
        found = Counter(split[utterance.id] for utterance in spoken if utterance.speaker == str(who))
        held_out = max(1, count // 10)
        expected = {"test": min(held_out, count - 1), "val": min(held_out, max(0, count - 1 - held_out))}
        assert found == Counter({**expected, "train": count - sum(expected.values())})
        assert found["train"] >= 1
    order.shuffle(spoken)
    assert split_utterances(spoken) == split


def test_mistakes_name_the_setting(tmp_path):
    with pytest.raises(ValueError, match=r"data\.options\.subsets=dev-claen: .*dev-clean"):
        opened(tmp_path, "dev-claen")
    with pytest.raises(ValueError, match="name each subset once"):
        opened(tmp_path, "dev-clean", "dev-clean")
    with pytest.raises(FileNotFoundError, match="has no dev-clean; run `vcrast data download librispeech`"):
        opened(tmp_path)
    root = replica(tmp_path)
    write(root / "LibriSpeech" / "dev-clean" / "84" / "1000" / "85-1000-0000.flac", sine(16000, seconds=0.05))
    with pytest.raises(ValueError, match=r"1 files of another speaker.*\n.*85-1000-0000\.flac.* dev-clean/85/"):
        opened(root)


def test_the_same_utterance_in_two_formats_is_refused(tmp_path):
    root = replica(tmp_path)
    write(root / "LibriSpeech" / "dev-clean" / "84" / "1000" / "84-1000-0000.wav", sine(16000, seconds=0.05))
    with pytest.raises(ValueError, match="there twice, in two formats: 84-1000-0000"):
        opened(root)


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A server that has dev-clean, and only as many utterances as the replica."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.add(replica(tmp_path / "made") / "LibriSpeech", arcname="LibriSpeech")
    server.content = buffer.getvalue()
    monkeypatch.setitem(source.NUM_UTTERANCES, "dev-clean", 35)
    return server


def test_subsets_are_fetched_one_beside_the_other(published, tmp_path, capsys, monkeypatch):
    replica(tmp_path / "here", "dev-other")
    words = ["data", "download", "librispeech", "--root", str(tmp_path / "here"), "--url", published.url]
    assert run_download(parser().parse_args([*words, "--part", "dev-clean"])) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "here" / "LibriSpeech")
    assert {path.name for path in (tmp_path / "here" / "LibriSpeech").iterdir()} == {
        "dev-clean",
        "dev-other",
        "SPEAKERS.TXT",
    }
    assert len(opened(tmp_path / "here", "dev-clean", "dev-other").clips) == 49
    assert run_download(parser().parse_args([*words, "--part", "dev-clean"])) == 0
    assert len(published.seen) == 1
    with pytest.raises(ValueError, match=r"--part dev-claen: .*dev-clean"):
        run_download(parser().parse_args([*words, "--part", "dev-claen"]))
    with pytest.raises(ValueError, match="--part x: esc50 is fetched as a whole"):
        run_download(parser().parse_args(["data", "download", "esc50", "--part", "x"]))
    monkeypatch.setattr(download, "URL", published.url)
    with pytest.raises(ValueError, match=r"sha256 .*, expected 76f87d090650; check --url"):
        download.download_librispeech(tmp_path / "new", url=published.url, parts=["dev-clean"], pause_s=0.0)


def test_an_archive_that_lacks_utterances_is_no_subset(published, tmp_path, monkeypatch):
    monkeypatch.setitem(source.NUM_UTTERANCES, "dev-clean", 36)
    with pytest.raises(ValueError, match=r"is not LibriSpeech/dev-clean: 35 utterances of dev-clean, expected 36"):
        download.download_librispeech(tmp_path / "new", url=published.url, parts=["dev-clean"], pause_s=0.0)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("packed", [False, True])
def test_the_written_split_is_the_one_that_is_trained_on(tmp_path, capsys, packed):
    root, out = replica(tmp_path), tmp_path / "tables" / "split.csv"
    replica(tmp_path, "dev-other")
    subsets = "data.options.subsets=[dev-clean,dev-other]"
    words = ["librispeech", f"data.root={root}", subsets]
    if packed:
        assert main(["data", "shard", *words, "--out", str(tmp_path / "shards"), "--workers", "0"]) == 0
        words[1] = f"data.root={tmp_path}/shards"
    capsys.readouterr()
    assert main(["data", "splits", *words, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    corpus = opened(root, "dev-clean", "dev-other")
    expected = {
        clip.path.rpartition("/")[2].removesuffix(".flac"): (corpus.classes[clip.labels[0]], clip.fold)
        for clip in corpus.clips
    }
    assert list(rows[0]) == ["utterance", "speaker", "split"]
    assert {row["utterance"]: (row["speaker"], row["split"]) for row in rows} == expected
    assert len(rows) == len(expected) == 49
    utterances = [Utterance(row["utterance"], row["speaker"], "") for row in rows]
    assert split_utterances(utterances) == {row["utterance"]: row["split"] for row in rows}
    assert main(["data", "splits", *words]) == 0
    assert capsys.readouterr().out == out.read_text()
