"""`vcrast data shard` and `vcrast data verify` as typed."""

import json

import numpy as np
import pytest
import soundfile as sf

from vcrast.cli.main import main


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        path = tmp_path / "sounds" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, 8000), 16000)
    return tmp_path


def shard(folder, *more):
    words = ["folder", f"data.root={folder / 'sounds'}", "--out", str(folder / "out"), "--workers", "0"]
    return main(["data", "shard", *words, *more])


def test_packing_checking_and_finding_damage(folder, capsys):
    assert shard(folder, "--clips-per-shard", "4", "data.sample_rate=8000") == 0
    told = capsys.readouterr()
    assert told.out == f"{folder / 'out'}\n"
    assert "6 clips in 2 shards" in told.err
    assert json.loads((folder / "out" / "manifest.json").read_text())["sample_rate"] == 8000
    assert main(["data", "verify", str(folder / "out"), "--decode"]) == 0
    assert capsys.readouterr().out == "6 clips in 2 shards of folder: all as they were written\n"
    with (folder / "out" / "clips-000001.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"damage")
    assert main(["data", "verify", str(folder / "out")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clips-000001.tar: its sha256 is another one"
    assert lines[1].endswith(".wav: damaged")
    assert lines[-1] == "6 clips in 2 shards of folder: 1 files damaged"
    # Removed, the damaged shard is written again, with the bytes of the manifest.
    (folder / "out" / "clips-000001.tar").unlink()
    assert shard(folder, "--clips-per-shard", "4", "data.sample_rate=8000") == 0
    assert main(["data", "verify", str(folder / "out")]) == 0


def test_one_machine_of_two(folder, capsys, caplog):
    caplog.set_level("INFO")
    assert shard(folder, "--clips-per-shard", "4", "--part", "2/2") == 0
    assert "1 of 2 are missing, which other parts write" in caplog.text
    assert not (folder / "out" / "manifest.json").exists()
    assert main(["data", "prepare", "shards", f"data.root={folder / 'out'}"]) == 2
    assert "packing it was not finished" in capsys.readouterr().err
    assert shard(folder, "--clips-per-shard", "4", "--part", "1/2") == 0
    assert main(["data", "prepare", "shards", f"data.root={folder / 'out'}"]) == 0
    assert "6 clips, 2 classes, folds: 1 2 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--part", "3/2"], "--part: 3/2: give i/n"),
        (["--part", "2"], "--part: 2: give i/n"),
        (["--codec", "ogg"], "--codec ogg: "),
        (["--codec", "opus", "data.sample_rate=44100"], "--codec opus: has no sample rate of 44100 Hz"),
        (["--clips-per-shard", "0"], "--clips-per-shard 0: must be at least 1"),
        (["data.root=/nowhere"], "/nowhere: no such folder"),
        (["data.rot=1"], "data.rot"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, words, told):
    try:
        code = shard(folder, *words)
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in error


def test_no_shards_there(tmp_path, capsys):
    assert main(["data", "verify", str(tmp_path)]) == 2
    assert f"data.root={tmp_path}: has no manifest.json; make shards with" in capsys.readouterr().err
