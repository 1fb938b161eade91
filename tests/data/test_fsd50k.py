"""Check FSD50K: official lists and splits, several labels a clip, the download."""

import hashlib
import json
import logging
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from sound_files import noise, settings, sine, write

from vcrast.cli.data import run_download
from vcrast.cli.main import parser
from vcrast.data.open import open_corpus
from vcrast.data.sources import fsd50k_download as download
from vcrast.data.sources.fsd50k import NUM_CLASSES

NAMES = ["Accelerating_and_revving_and_vroom", *(f"Class_{number}" for number in range(1, NUM_CLASSES))]
DEV = [(100 + number, [number % 7, 10], "val" if number % 4 == 3 else "train") for number in range(13)]
EVAL = [(900 + number, [number, 10, 199][: number + 1], None) for number in range(4)]
needs_zip = pytest.mark.skipif(shutil.which("zip") is None, reason="needs `zip` (Debian package zip) to split archives")


def replica(root, *, edit=lambda name, line: line, seconds=0.3):
    """Lists, vocabulary, licences and 44.1 kHz sounds as Zenodo has them, of which 17 instead of 51,197."""
    lists = {"dev.csv": ["fname,labels,mids,split"], "eval.csv": ["fname,labels,mids"]}
    for part, rows in (("dev", DEV), ("eval", EVAL)):
        for number, labels, split in rows:
            cells = [",".join(NAMES[label] for label in labels), ",".join(f"/m/{label:05x}" for label in labels)]
            end = f",{split}" if split else ""
            lists[f"{part}.csv"].append(f'{number},"{cells[0]}","{cells[1]}"{end}')
            sound = noise(round(44_100 * seconds), number)
            write(root / f"FSD50K.{part}_audio" / f"{number}.wav", sound, 44_100, subtype="PCM_16")
    lists["vocabulary.csv"] = [f"{number},{name},/m/{number:05x}" for number, name in enumerate(NAMES)]
    for name, lines in lists.items():
        path = root / "FSD50K.ground_truth" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{edit(name, line)}\n" for line in lines))
    (root / "FSD50K.metadata" / "collection").mkdir(parents=True)
    for name in download.LICENCES:
        licence = {str(number): {"license": "http://creativecommons.org/licenses/by/3.0/"} for number, *_ in DEV}
        (root / "FSD50K.metadata" / name).write_text(json.dumps(licence))
    (root / "FSD50K.doc").mkdir()
    (root / "FSD50K.doc" / "LICENSE-DATASET").write_text("CC BY 4.0")
    return root


def opened(root, **values):
    return open_corpus(settings("fsd50k", root=str(root), **values))


def test_the_official_splits_and_all_labels(tmp_path):
    corpus = opened(replica(tmp_path))
    assert (corpus.classes, corpus.multilabel, corpus.folds) == (tuple(NAMES), True, ("test", "val"))
    assert Counter(clip.fold for clip in corpus.clips) == {"train": 10, "val": 3, "test": 4}
    told = {int(Path(clip.path).stem): (list(clip.labels), clip.fold) for clip in corpus.clips}
    assert told == {number: (list(dict.fromkeys(labels)), split or "test") for number, labels, split in (*DEV, *EVAL)}
    train, test = corpus.split("test")
    assert {Path(clip.path).parent.name for clip in train} == {"FSD50K.dev_audio"}
    assert {Path(clip.path).parent.name for clip in test} == {"FSD50K.eval_audio"}


def test_it_is_found_below_the_root_and_audio_may_have_been_converted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = r"data\.root=data/fsd50k has no FSD50K.ground_truth/vocabulary.csv; run `vcrast data download fsd50k`"
    with pytest.raises(FileNotFoundError, match=said):
        open_corpus(settings("fsd50k"))
    root = replica(tmp_path / "data" / "fsd50k" / "FSD50K")
    (root / "FSD50K.dev_audio" / "100.wav").unlink()
    with pytest.raises(ValueError, match=r"line 2: .*FSD50K\.dev_audio/100\.wav: missing file"):
        open_corpus(settings("fsd50k"))
    converted = write(root / "FSD50K.dev_audio" / "100.flac", sine(32_000), 32_000)
    assert open_corpus(settings("fsd50k")).clips[0].path == str(Path(converted).relative_to(tmp_path))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("dev.csv", "split", "fold", "dev.csv: no column 'split'"),
        ("dev.csv", "train", "test2", "line 2: split 'test2' must be train or val"),
        ("dev.csv", "100,", "a100,", "line 2: fname 'a100' must be a number"),
        ("eval.csv", "Class_10", "Klass_10", r"line 3: label 'Klass_10' is not in vocabulary\.csv"),
        ("eval.csv", '900,"Accelerating_and_revving_and_vroom"', "900,", "line 2: a cell is empty"),
        ("vocabulary.csv", "199,", "200,", "199 classes, expected 200\n  line 200: not `199,<name>,<mid>`"),
        ("vocabulary.csv", "8,Class_8,", "8,Class_7,", "line 9: Class_7 is there twice"),
        ("vocabulary.csv", ",/m/00003", "", "line 4: not `3,<name>,<mid>`: 3,Class_3"),
    ],
)
def test_faults_name_their_lines(tmp_path, file, old, new, said):
    root = replica(tmp_path, edit=lambda name, line: line.replace(old, new) if name == file else line, seconds=0.01)
    with pytest.raises(ValueError, match=said):
        opened(root)


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A server with the eleven files, made by `zip`: the development set's zip lies in six, the other's in two."""
    made = replica(tmp_path / "made")
    for folder in sorted(made.iterdir()):
        split = ["-s", "64k", "-0"] if folder.name.endswith("_audio") else []
        subprocess.run(["zip", "-q", "-r", *split, f"../{folder.name}.zip", folder.name], cwd=made, check=True)
    server.files = {path.name: path.read_bytes() for path in tmp_path.glob("FSD50K.*")}
    assert sorted(server.files) == sorted(f"{folder}{end}" for folder, ends in download.FILES.items() for end in ends)
    monkeypatch.setattr(download, "NUM_CLIPS", {"dev": 13, "eval": 4})
    server.folder = server.url.rpartition("/")[0]
    return server


@needs_zip
def test_all_folders_are_fetched_joined_and_opened(published, tmp_path, capsys, caplog):
    here = tmp_path / "here"
    words = ["data", "download", "fsd50k", "--root", str(here), "--url", published.folder]
    with caplog.at_level(logging.INFO):
        assert run_download(parser().parse_args(words)) == 0
    assert f"FSD50K (CC BY 4.0) is in {here}; each clip has a licence of its own" in caplog.text
    assert capsys.readouterr().out.strip() == str(here)
    assert sorted(path.name for path in here.iterdir()) == sorted(download.FILES)
    assert len(opened(here).clips) == 17
    for path in (tmp_path / "made").rglob("*.*"):
        if path.is_file():
            assert (here / path.relative_to(tmp_path / "made")).read_bytes() == path.read_bytes()
    assert len(published.seen) == 11
    assert run_download(parser().parse_args(words)) == 0
    assert len(published.seen) == 11, "it is there"
    (here / "FSD50K.eval_audio" / "900.wav").write_bytes(b"")
    assert run_download(parser().parse_args(words)) == 0
    assert len(published.seen) == 13, "only what is broken is fetched"
    assert (here / "FSD50K.eval_audio" / "900.wav").stat().st_size


@needs_zip
def test_a_broken_part_is_fetched_again_and_whole_ones_are_kept(published, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "URL", published.folder)  # the published files have known checksums

    def fetched():
        return download.download_fsd50k(tmp_path / "here", url=published.folder, pause_s=0.0)

    with pytest.raises(ValueError, match=r"FSD50K\.ground_truth\.zip: md5 .*, expected ca27382c195e; check --url"):
        fetched()
    sums = {name: f"md5:{hashlib.md5(data).hexdigest()}" for name, data in published.files.items()}
    known = {folder: {end: sums[folder + end] for end in ends} for folder, ends in download.FILES.items()}
    monkeypatch.setattr(download, "FILES", known)
    whole = published.files["FSD50K.dev_audio.z03"]
    published.files["FSD50K.dev_audio.z03"] = whole[:-1] + b"?"
    with pytest.raises(ValueError, match=r"FSD50K\.dev_audio\.z03: md5 "):
        fetched()
    assert sorted(path.name for path in (tmp_path / "here").glob("*.z*")) == [
        "FSD50K.dev_audio.z01",
        "FSD50K.dev_audio.z02",
    ]
    published.files["FSD50K.dev_audio.z03"] = whole
    published.seen.clear()
    fetched()
    assert len(published.seen) == 6, "the third to the sixth, and two of the evaluation set"
    assert len(opened(tmp_path / "here").clips) == 17


@needs_zip
def test_what_lacks_clips_is_not_fsd50k(published, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "NUM_CLIPS", {"dev": 40_966, "eval": 10_231})
    with pytest.raises(ValueError, match=r"is not FSD50K\.ground_truth: 13 clips in dev\.csv, expected 40966"):
        download.download_fsd50k(tmp_path / "here", url=published.folder, pause_s=0.0)
    monkeypatch.setattr(download, "NUM_CLIPS", {"dev": 13, "eval": 4})
    for ending in (".z01", ".zip"):
        published.files[f"FSD50K.eval_audio{ending}"] = b"<html>moved</html>"
    with pytest.raises(ValueError, match=r"FSD50K\.eval_audio\.zip: damaged zip file"):
        download.download_fsd50k(tmp_path / "here", url=published.folder, pause_s=0.0)
    assert not list((tmp_path / "here").glob("*.z*"))
