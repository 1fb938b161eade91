import json

import pytest

from benchmarks import storage
from benchmarks.loader import main


@pytest.mark.slow
def test_the_small_benchmark_measures_every_way(tmp_path, capsys):
    assert main(["--small", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    ways = {row["way"]: float(row["clips/s"]) for row in rows}
    for name in (
        "FLAC shards",
        "Opus shards",
        "FLAC files",
        "decoded cache",
        "per file, torchaudio's Kaldi filterbank",
    ):
        assert ways[name] > 0, name
    for name in ("webdataset", "datasets"):
        assert f"left out: {name}" in out or any(name.split("set")[0] in way.lower() for way in ways)
    scale = {
        row["at AudioSet's size"]: row["measured"]
        for row in json.loads((tmp_path / "loader_scale.json").read_text())["rows"]
    }
    assert any(name.startswith("open 2,0") for name in scale)
    assert "nan" not in scale["memory of a worker alone on the way"]


def test_storage_reads_what_was_written(tmp_path):
    assert storage.main(["--small", "--out", str(tmp_path)]) == 0
    rows = {row["store"]: row for row in json.loads((tmp_path / "storage.json").read_text())["rows"]}
    assert float(rows["indexed tar"]["warm clips/s"]) > 0
    clips = list(storage.clips(250, 500))
    for name, (write, read) in storage.STORES.items():
        if name in rows:
            (tmp_path / name).mkdir()
            write(tmp_path / name, iter(clips))
            found = read(tmp_path / name)
            assert [found(number) for number in (0, 99, 100, 249)] == [clips[number] for number in (0, 99, 100, 249)]
