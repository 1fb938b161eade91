"""`vcrast predict` and `vcrast embed` on what people give them."""

from __future__ import annotations

import contextlib
import csv
import functools
import http.server
import io
import json
import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from exported import RATE, make_small, write_model
from torch import nn

from vcrast.cli import files
from vcrast.cli.main import main
from vcrast.cli.progress import Progress
from vcrast.data import download
from vcrast.inference import Model, load


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run folder: one fold, pretrained and finetuned on three classes of 1 s at 8 kHz; `several`: also of any."""
    run = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    encoder, other = make_small(), make_small()
    head, fold = nn.Linear(16, 3), run / "exported" / "fold_1"
    write_model(fold / "finetuned", encoder=encoder, head=head)
    write_model(fold / "pretrained", encoder=other)
    write_model(run / "several", encoder=encoder, head=head, multilabel=True)
    return run


@pytest.fixture
def recordings(tmp_path):
    """a.wav of 1 s, b.flac of 3.3 s, deep/a.ogg of 1.5 s, and things that are no sounds."""
    folder = tmp_path / "recordings"
    (folder / "deep").mkdir(parents=True)
    (folder / "__MACOSX").mkdir()
    for number, (name, seconds) in enumerate({"a.wav": 1.0, "b.flac": 3.3, "deep/a.ogg": 1.5}.items()):
        sf.write(folder / name, noise(seconds, number), RATE)
    (folder / "__MACOSX" / "a.wav").write_bytes((folder / "a.wav").read_bytes())
    (folder / "._a.wav").write_bytes(b"x")
    (folder / "bad.wav").write_bytes(b"RIFF no sound")
    (folder / "notes.txt").write_text("no sound")
    (folder / "old.vox").write_bytes(b"no sound that is decoded")
    return folder


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=round(seconds * RATE)).clip(-4, 4) / 5


def predicted(capsys, *words):
    """The objects that --json prints, and what stands on stderr."""
    code = main(["predict", *map(str, words), "--json"])
    shown = capsys.readouterr()
    return code, [json.loads(line) for line in shown.out.splitlines()], shown.err


@contextlib.contextmanager
def served(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_folders_patterns_and_files_each_sound_once(trained, recordings, capsys):
    (recordings.parent / "link").symlink_to(recordings)
    os.symlink(recordings / "deep", recordings / "again")
    expected = load(trained).predict([recordings / "a.wav", recordings / "b.flac", recordings / "deep" / "a.ogg"])
    code, found, said = predicted(capsys, trained, recordings, recordings / "a.wav")
    assert (code, [each["path"] for each in found]) == (
        0,
        [f"{recordings}/{name}" for name in ("a.wav", "b.flac", "deep/a.ogg")],
    )
    for each, scores in zip(found, expected, strict=True):
        assert each["scores"] == pytest.approx(scores, abs=1e-6)
    assert f"note: {recordings}: 1 file (1 .vox) left out, which cannot be decoded here" in said
    assert f"note: {recordings}: 1 file (1 .txt) that are no sounds" in said
    assert "links to folders not followed, which are listed under another path: again" in said
    assert f"left out: {recordings}/bad.wav: cannot be decoded" in said
    assert said.endswith("2 of 5 files left out\n")
    assert "__MACOSX" not in said
    code, found, _ = predicted(capsys, trained, recordings.parent / "link")
    assert len(found) == 3
    code, found, _ = predicted(capsys, trained, f"{recordings}/**/a.*")
    names = ["a.wav", "again/a.ogg", "deep/a.ogg"]  # a pattern says itself which links it follows
    assert [each["path"] for each in found] == [f"{recordings}/{name}" for name in names]


def test_a_name_with_the_signs_of_a_pattern_is_that_file(trained, recordings, capsys):
    path = recordings / "a [1] (x)*.wav"
    (recordings / "a.wav").rename(path)
    assert [each["path"] for each in predicted(capsys, trained, path)[1]] == [str(path)]


def test_nothing_to_hear(trained, recordings, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    for words, code, said in (
        ([tmp_path / "texts"], 2, "no sound files there; "),
        ([tmp_path / "texts" / "*.wav"], 2, "*.wav: nothing fits this pattern"),
        ([tmp_path / "absent.wav"], 2, "absent.wav: no such file or folder"),
        ([recordings / "bad.wav"], 1, "1 of 1 files left out"),
    ):
        found = predicted(capsys, trained, *words)
        assert (found[0], found[1]) == (code, [])
        assert said in found[2]
        assert len(found[2].splitlines()) == (1 if code == 2 else 2)


def test_a_sound_from_standard_input(trained, recordings, capsys, monkeypatch):
    for name in ("a.wav", "b.flac", "deep/a.ogg"):
        data = io.BytesIO((recordings / name).read_bytes())
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data, isatty=lambda: False))
        code, (found,), said = predicted(capsys, trained, "-")
        assert (code, found["path"], said) == (0, "-", "")
        assert found["scores"] == pytest.approx(load(trained).predict(recordings / name), abs=1e-6)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False))
    assert predicted(capsys, trained, "-")[::2] == (1, "left out: -: empty file\n1 of 1 files left out\n")
    assert "can be read once" in predicted(capsys, trained, "-", "-")[2]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: True))
    assert "is a terminal" in predicted(capsys, trained, "-")[2]


def test_sounds_at_addresses(trained, recordings, capsys, monkeypatch):
    fetched = functools.partial(download.fetch, pause_s=0.0)
    monkeypatch.setattr(download, "fetch", fetched)
    with served(recordings) as url:
        code, found, said = predicted(capsys, trained, f"{url}/deep/a.ogg?key=1", f"{url}/no.wav", f"{url}/notes.txt")
        assert (code, [each["path"] for each in found]) == (0, [f"{url}/deep/a.ogg?key=1"])
        assert found[0]["scores"] == pytest.approx(load(trained).predict(recordings / "deep" / "a.ogg"), abs=1e-6)
        assert f"left out: {url}/no.wav: the server answers 404 File not found; check the address\n" in said
        assert f"left out: {url}/notes.txt: cannot be decoded" in said
        assert said.endswith("2 of 3 files left out\n")
        monkeypatch.setattr(files, "MAX_DOWNLOAD_BYTES", 1000)
        code, _, said = predicted(capsys, trained, f"{url}/a.wav")
        assert code == 1
        assert f"left out: {url}/a.wav: 0 MB, more than the 0 MB that are fetched" in said
    code, _, said = predicted(capsys, trained, f"{url}/a.wav")
    assert code == 1
    assert "Connection refused; gave up after 3 attempts\n" in said
    assert "are kept" not in said


def test_addresses_as_people_write_them(trained, recordings, tmp_path, capsys):
    (recordings / "a.wav").rename(recordings / "jürgens hund.wav")
    with served(recordings) as url:
        given = [f"{url}/jürgens hund.wav", f"{url}/j%C3%BCrgens%20hund.wav?a=[1]&b=c d#e"]
        code, found, said = predicted(capsys, trained, *given)
        assert (code, [each["path"] for each in found], said) == (0, given, "")
        assert found[0]["scores"] == found[1]["scores"]
        words = ["--format", "audacity", "--out", f"{tmp_path}/labels"]
        assert main(["predict", str(trained), *given, *words]) == 0
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["jürgens hund.txt", "jürgens hund.wav.txt"]
    capsys.readouterr()
    for word, said in (("http://[::1/x.wav", "no address (Invalid IPv6 URL)"), ("https://", "names no server")):
        code, _, found = predicted(capsys, trained, word)
        assert code == 2
        assert found.startswith(f"vcrast: error: {word}: {said}")
        assert found.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/dog.wav", "dog.wav"), ("/a/b%20c.wav?x=/y", "b c.wav"), ("/..%2F..%2Fetc%2Fdog.wav", "dog.wav"),
        ("/..%5C..%5Cdog.wav", "dog.wav"), ("/%2e%2e", "h"), ("/", "h"), ("", "h"), ("/a%00%0Ab.wav", "ab.wav"),
    ],
)  # fmt: skip
def test_an_address_names_a_file_and_never_a_folder(path, name):
    assert files._named(f"http://h{path}") == name


def test_containers_are_known_by_their_first_bytes(tmp_path):
    for head, suffix in (
        (b"\0\0\0\x20ftypM4A ", ".m4a"),
        (b"\x1aE\xdf\xa3\1", ".webm"),
        (b"RIFF", ".wav"),
        (b"", ".wav"),
    ):
        (tmp_path / "x").write_bytes(head)
        assert files._container(tmp_path / "x") == suffix


def test_windows_of_a_long_recording_have_times(trained, recordings, tmp_path, capsys):
    long = recordings / "b.flac"
    expected = load(trained).predict_windows(long, hop_s=0.5)
    assert [(each.start_s, each.end_s) for each in expected] == [
        (0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5), (2, 3), (2.5, 3.3)
    ]  # fmt: skip
    code, found, _ = predicted(capsys, trained, long, "--hop", "0.5", "--all")
    assert code == 0
    for each, heard in zip(found, expected, strict=True):
        assert (each["start"], each["end"]) == (heard.start_s, heard.end_s)
        assert each["scores"] == pytest.approx(heard.scores, abs=1e-6)
    assert main(["predict", str(trained), str(long), "--hop", "0.5", "--top", "1", "--out", f"{tmp_path}/x.csv"]) == 0
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["start"]), row["label"]) for row in rows] == [
        (heard.start_s, next(iter(heard.scores))) for heard in expected
    ]
    _, found, _ = predicted(capsys, trained, long, "--windows")
    assert [(each["start"], each["end"]) for each in found] == [
        (round(start, 4), round(start + 1, 4)) for start in (0, 0.766625, 1.533375, 2.3)
    ]


def test_label_tracks_need_no_other_option(trained, recordings, tmp_path, capsys):
    assert main(["predict", str(trained), str(recordings), "--format", "audacity", "--out", f"{tmp_path}/labels"]) == 0
    assert sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "labels").rglob("*.txt")) == [
        "labels/a.txt", "labels/b.txt", "labels/deep/a.txt",
    ]  # fmt: skip
    (likeliest,) = load(trained).predict(recordings / "a.wav", top=1)
    assert (tmp_path / "labels" / "a.txt").read_text() == f"0.000000\t1.000000\t{likeliest}\n"
    capsys.readouterr()
    several = load(trained / "several").predict(recordings / "a.wav")
    assert main(["predict", str(trained / "several"), str(recordings / "a.wav"), "--format", "audacity"]) == 0
    labels = {line.split("\t")[2] for line in capsys.readouterr().out.splitlines()}
    assert labels == {label for label, score in several.items() if score >= 0.5}


def test_which_labels_are_shown(trained, recordings, capsys):
    path = recordings / "a.wav"
    scores = load(trained).predict(path)
    second = list(scores.values())[1]
    assert list(predicted(capsys, trained, path, "--top", "1")[1][0]["scores"]) == list(scores)[:1]
    assert list(predicted(capsys, trained, path, "--top", "0")[1][0]["scores"]) == list(scores)
    assert list(predicted(capsys, trained, path, "--threshold", second - 1e-6)[1][0]["scores"]) == list(scores)[:2]
    assert predicted(capsys, trained, path, "--threshold", "1")[1][0]["scores"] == {}


def test_padding_is_said_once_and_can_be_chosen(trained, recordings, capsys):
    short = [recordings / "short1.wav", recordings / "short2.wav"]
    for number, path in enumerate(short):
        sf.write(path, noise(0.2, number), RATE)
    for pad in ("silence", "repeat"):
        _, found, said = predicted(capsys, trained, *short, "--pad", pad)
        assert found[0]["scores"] == pytest.approx(load(trained).predict(short[0], pad=pad), abs=1e-6)
        other = "repeat" if pad == "silence" else "silence"
        assert said.startswith("note: 80 % of the sounds' time is padding")
        assert said.endswith(f"compare with --pad {other}\n")
        assert said.count("\n") == 1


def test_samples_beyond_1_are_said(trained, recordings, capsys):
    sf.write(recordings / "hot.wav", 20000 * noise(1.0), RATE, subtype="FLOAT")
    _, (found,), said = predicted(capsys, trained, recordings / "hot.wav")
    assert said == f"note: samples beyond 1, divided by their full scale: {recordings}/hot.wav by 32768\n"
    assert found["scores"] == pytest.approx(load(trained).predict(20000 / 32768 * noise(1.0), RATE), abs=1e-4)


def test_vectors_of_windows_with_times(trained, recordings, tmp_path):
    out, long = tmp_path / "v.npz", recordings / "b.flac"
    words = ["embed", str(trained), str(recordings / "a.wav"), str(long), "--hop", "1", "--batch-size", "2"]
    assert main([*words, "--out", str(out)]) == 0
    found = np.load(out)
    times, vectors = load(trained).embed_windows(long, hop_s=1.0)
    assert found["paths"].tolist() == [str(recordings / "a.wav"), *[str(long)] * 4]
    np.testing.assert_allclose(np.stack([found["starts"], found["ends"]], axis=1), [(0, 1), *times])
    np.testing.assert_allclose(found["embeddings"][1:], vectors, atol=1e-6)
    assert main([*words, "--out", f"{tmp_path}/v.CSV"]) == 0
    with (tmp_path / "v.CSV").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "start", "end", *(f"d{number}" for number in range(16))]
    assert [row[:3] for row in rows][-1] == [str(long), "3.0", "3.3"]
    np.testing.assert_array_equal(np.array([row[3:] for row in rows], np.float32), found["embeddings"])


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, MemoryError])
def test_vectors_are_kept_when_embed_is_stopped(trained, recordings, tmp_path, capsys, monkeypatch, stopped):
    def read(model, path):
        if path.endswith("a.ogg"):
            raise stopped
        return real(model, path)

    real = Model.read_file
    monkeypatch.setattr(Model, "read_file", read)
    out, names = tmp_path / "v.npz", ["a.wav", "b.flac", "deep/a.ogg"]
    words = ["embed", str(trained), *(f"{recordings}/{name}" for name in names), "--out", str(out), "--batch-size", "1"]
    with contextlib.suppress(MemoryError):
        assert main(words) == 130
    assert np.load(out)["paths"].tolist() == [f"{recordings}/{name}" for name in names[:2]]
    assert capsys.readouterr().err == f"note: stopped early; the 2 vectors so far are in {out}\n"


def test_embed_takes_the_stage_that_is_named(trained, recordings, tmp_path):
    path = recordings / "a.wav"
    for stage in ("pretrained", "finetuned"):
        assert main(["embed", str(trained), str(path), "--stage", stage, "--out", f"{tmp_path}/{stage}.npz"]) == 0
        expected = load(trained, stage=stage).embed(path)
        np.testing.assert_allclose(np.load(tmp_path / f"{stage}.npz")["embeddings"][0], expected, atol=1e-6)


def test_mistakes_are_one_line(trained, recordings, capsys):
    path = str(recordings / "a.wav")
    for words, said in (
        (["predict", path, "--device", "banana"], "device=banana: no such device"),
        (["predict", path, "--top", "-1"], "--top -1: must be at least 1, or 0"),
        (["predict", path, "--top", "2", "--all"], "choose one"),
        (["predict", path, "--threshold", "50"], "--threshold 50: must lie in [0, 1]"),
        (["predict", path, "--hop", "0"], "--hop 0: must be above 0"),
        (["predict", path, "--hop", "nan"], "--hop nan: must be above 0"),
        (["predict", path, "--hop", "1e-9"], "hop_s=1e-09: must be at least one sample"),
        (["predict", path, "--window", "-2"], "--window -2: must be above 0"),
        (["predict", path, "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["predict", path, "--stage", "pretrained"], "finetune it"),
        (["predict", path, "--stage", "best"], "no stage best; choose from finetuned, pretrained"),
        (["predict", path, "--fold", "7"], "no exported fold 7"),
        (["predict", path, "--out", "x.xls"], "choose from .csv"),
        (["embed", path, "--device", "cuda:99"], "device=cuda:99"),
        (["embed", path, "--out", "x.npy"], ".npz or .csv"),
    ):
        assert main([words[0], str(trained), *words[1:]]) == 2, words
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        assert said in shown.err


def test_help_shows_examples(capsys):
    for verb in ("predict", "embed"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        shown = capsys.readouterr().out
        assert f"examples:\n  vcrast {verb} RUN " in shown


def test_progress_is_on_stderr_and_only_for_long_work(trained, recordings, capsys, monkeypatch):
    for name in ("AFTER_S", "EVERY_S"):
        monkeypatch.setattr(f"vcrast.cli.progress.{name}", 0.0)
    path = str(recordings / "b.flac")
    _, (found, _), said = predicted(capsys, trained, path, recordings / "a.wav", "--batch-size", "2")
    assert found["path"] == path
    assert [line for line in said.splitlines() if line.startswith("predict: ")] == [
        f"predict: 0 of 2 sounds, 50 % of {path}", "predict: 1 of 2 sounds", "predict: 2 of 2 sounds"
    ]  # fmt: skip


def test_progress_comes_every_few_seconds(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 2.5, 4.0, 8.0])
    monkeypatch.setattr("vcrast.cli.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress("embed", 9)
    for sounds in (1, 2.25, 3, 4):
        progress.update(sounds, "x.wav")
    progress.close()
    assert capsys.readouterr().err == "embed: 2 of 9 sounds, 25 % of x.wav\nembed: 4 of 9 sounds\n"
