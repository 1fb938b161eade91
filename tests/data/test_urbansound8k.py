"""Check UrbanSound8K: official folds, strict metadata, the download."""

import io
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sound_files import settings, sine, write

from vcrast.data.open import open_corpus
from vcrast.data.sources import urbansound8k_download as download
from vcrast.data.sources.urbansound8k import CLASSES

HEAD = "slice_file_name,fsID,start,end,salience,fold,classID,class"


def replica(root, *, edit=lambda line: line):
    """A sound of each class in each fold; start and end are places in recordings that are not there."""
    lines = [HEAD]
    for fold in range(1, 11):
        for label, name in enumerate(CLASSES):
            file = f"{100 * fold + label}-{label}-0-0.wav"
            write(root / "audio" / f"fold{fold}" / file, sine(22050, hz=200 + 50 * label, seconds=0.05), 22050)
            lines.append(f"{file},{100 * fold + label},117.5,121.5,1,{fold},{label},{name}")
    (root / "metadata").mkdir()
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(map(edit, lines)) + "\n")
    return root


def opened(root, **values):
    return open_corpus(settings("urbansound8k", root=str(root), **values))


def test_official_folds_and_whole_files(tmp_path):
    corpus = opened(replica(tmp_path), folds="all")
    assert (corpus.classes, corpus.multilabel) == (CLASSES, False)
    assert corpus.folds == tuple(str(fold) for fold in range(1, 11))
    assert Counter(clip.fold for clip in corpus.clips) == dict.fromkeys(corpus.folds, 10)
    assert {(clip.start_s, clip.duration_s) for clip in corpus.clips} == {(0.0, None)}
    assert all(f"fold{clip.fold}" == Path(clip.path).parent.name for clip in corpus.clips)
    assert all(int(Path(clip.path).name.split("-")[1]) == clip.labels[0] for clip in corpus.clips)
    train, test = corpus.split("10")
    assert (len(train), len(test)) == (90, 10)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda line: line.replace("class", "kind"), "no column 'classID'"),
        (lambda line: line.replace(",3,1,car_horn", ",11,1,car_horn"), "line 23: fold '11' must be .* from 1 to 10"),
        (lambda line: line.replace(",3,1,car_horn", ",3,1,siren"), "line 23: classID '1' and class 'siren'"),
        (lambda line: line.replace("301-1-0-0.wav", ""), "line 23: a cell is empty"),
    ],
)
def test_faults_name_their_lines(tmp_path, edit, said):
    with pytest.raises(ValueError, match=said):
        opened(replica(tmp_path, edit=edit))


def test_lost_files_and_no_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no metadata/UrbanSound8K\.csv; run `vcrast data download urban"):
        opened(tmp_path)
    root = replica(tmp_path / "UrbanSound8K")
    (root / "audio" / "fold1" / "100-0-0-0.wav").unlink()
    (root / "audio" / "fold1" / "101-1-0-0.wav").unlink()
    with pytest.raises(ValueError, match=r"line 2: .*100-0-0-0\.wav"):
        opened(tmp_path)


def test_download(server, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.add(replica(tmp_path / "made"), arcname="UrbanSound8K")
    server.content = buffer.getvalue()

    def fetched():
        return download.download_urbansound8k(tmp_path / "here", url=server.url, pause_s=0.0)

    with pytest.raises(ValueError, match=r"is not UrbanSound8K: 100 clips in .*, expected 8732"):
        fetched()
    monkeypatch.setattr(download, "NUM_CLIPS", 100)
    folder = fetched()
    assert folder == tmp_path / "here" / "UrbanSound8K"
    assert len(opened(tmp_path / "here").clips) == 100
    assert fetched() == folder
    assert len(server.seen) == 2
    monkeypatch.setattr(download, "ARCHIVE", replace(download.ARCHIVE, url=server.url))
    (folder / "audio" / "fold1" / "100-0-0-0.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"md5 .*, expected 9aa69802bbf3; check --url"):
        fetched()
