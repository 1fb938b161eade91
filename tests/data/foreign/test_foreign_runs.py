"""Runs on what others have packed end with the weights of a run on the files themselves."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packed import CLASSES, dataset_dict_of, sounds, write_tar
from small_run import SMALL, weights_hash

from vcrast.cli.data import add_parser
from vcrast.cli.main import main
from vcrast.config.resume import resolve
from vcrast.run import run

pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'vcrast[hf]'")
pytest.importorskip("datasets", reason="needs datasets, of the dev extra")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
KINDS = ("manifest", "webdataset", "arrow", "parquet")
SPLITS = ("test", "train")  # in the order in which files are listed


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The same 60 sounds as files, in tars, and as Arrow and Parquet files; in the same order."""
    folder = tmp_path_factory.mktemp("packed")
    # No MP3: its decoder rounds up or down from one call to the next, and weights are compared to the bit.
    made = sounds(60, seconds=1.0, splits=("train", "train", "train", "test"), formats=("wav", "flac", "ogg", "wav"))
    some = sorted(made, key=lambda one: one.split)
    lines = ["path,label,fold"]
    for one in some:
        (folder / one.name).write_bytes(one.content)
        lines.append(f"{one.name},{CLASSES[one.label]},{one.split}")
    (folder / "list.csv").write_text("\n".join(lines))
    parts = {split: [one for one in some if one.split == split] for split in SPLITS}
    datasets = dataset_dict_of(some)
    datasets.save_to_disk(str(folder / "arrow"))
    (folder / "parquet" / "data").mkdir(parents=True)
    for split, part in parts.items():
        for start in range(0, len(part), 16):
            members = []
            for one in part[start : start + 16]:
                about = json.dumps({"label": CLASSES[one.label]}).encode()
                members += [(one.name, one.content), (f"{one.name.partition('.')[0]}.json", about)]
            write_tar(folder / "webdataset" / f"{split}-{start:06d}.tar", members)
        datasets[split].to_parquet(
            str(folder / "parquet" / "data" / f"{split}-00000-of-00001.parquet"), batch_size=8
        )  # fmt: skip
    return folder


def data_words(roots, kind):
    if kind == "manifest":
        return ["data=manifest", f"data.path={roots / 'list.csv'}", "data.cache=false"]
    name = "webdataset" if kind == "webdataset" else "huggingface"
    return [f"data={name}", f"data.root={roots / kind}"]


def words(roots, kind, folder, *more):
    """A small run on files that are read by two processes, all of them mixed: in the same order, however packed."""
    left_out = ("data.options.", "data.num_workers=", "evaluation.")
    own = [word for word in SMALL if not word.startswith(left_out)]
    return [
        *own, *data_words(roots, kind), "data.num_workers=2", "data.mixed_shards=null", "checkpoint.every_steps=2",
        f"data.cache_dir={folder.parent / 'cache'}", f"run.dir={folder}",
        "stages=[pretrain,finetune]", *more,
    ]  # fmt: skip


def run_here(overrides):
    return run(resolve(overrides), overrides)


@pytest.fixture(scope="module")
def finished(roots, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "manifest"
    run_here(words(roots, "manifest", folder))
    return folder


def killed_once(overrides, folder):
    """Run until some steps are logged, and kill."""
    begun = subprocess.Popen(
        [sys.executable, "launch/local.py", *overrides], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        lines, deadline = folder / "metrics.jsonl", time.monotonic() + 120
        while begun.poll() is None and time.monotonic() < deadline:
            if lines.exists() and len(lines.read_text().splitlines()) > 3:
                break
            time.sleep(0.02)
        assert begun.poll() is None, "it ended too soon"
    finally:
        begun.kill()
        begun.wait()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_run_is_that_of_the_files_killed_or_not(roots, finished, tmp_path, kind):
    overrides = words(roots, kind, tmp_path / "run", *([] if kind == "arrow" else ["pretrain.log_every_steps=1"]))
    if kind != "arrow":
        killed_once(overrides, tmp_path / "run")
    run_here(overrides)
    assert weights_hash(tmp_path / "run") == weights_hash(finished)


def test_a_finished_model_is_scored_on_each(roots, finished, tmp_path):
    scores = {}
    for kind in KINDS:
        out = tmp_path / kind
        assert main(["evaluate", str(finished), *data_words(roots, kind), "data.folds=[test]", "--out", str(out)]) == 0
        found = json.loads((out / "metrics.json").read_text())
        scores[kind] = json.dumps({key: found[key] for key in found if key not in ("data", "model")}, sort_keys=True)
    assert len(set(scores.values())) == 1, scores


def vcrast_data(*given):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *given])
    return args.run(args)


def test_prepare_and_stats_are_those_of_the_files(roots, tmp_path, capsys):
    said, counts = {}, {}
    for kind in KINDS:
        (first, *rest) = data_words(roots, kind)
        own = [*rest, f"data.cache_dir={tmp_path / kind}", "data.num_workers=2"]
        assert vcrast_data("prepare", first.removeprefix("data="), *own, "data.cache=true") == 0
        counts[kind] = capsys.readouterr().out.splitlines()[1].partition(" in /")[0]
        assert len(list((tmp_path / kind).glob("*.i16"))) == 1
        assert vcrast_data("stats", first.removeprefix("data="), *own) == 0
        said[kind] = capsys.readouterr().out
    assert set(counts.values()) == {"60 clips of 60.0 s in all, at 16000 Hz"}, counts
    assert len(set(said.values())) == 1, said


def test_changed_sounds_are_decoded_again(roots, tmp_path, capsys):
    """A sound in a larger file that changed, of the same size at the same place."""
    tar = tmp_path / "w" / "train-0.tar"
    tar.parent.mkdir()
    tar.write_bytes((roots / "webdataset" / "train-000000.tar").read_bytes())
    own = ["prepare", "webdataset", f"data.root={tar}", f"data.cache_dir={tmp_path / 'cache'}", "data.cache=true"]
    assert vcrast_data(*own) == 0
    content = bytearray(tar.read_bytes())
    content[2000:2400] = bytes(400)
    tar.write_bytes(content)
    os.utime(tar, ns=(1, 1))
    assert vcrast_data(*own) == 0
    assert len(list((tmp_path / "cache").glob("*.i16"))) == 2
    os.utime(tar, ns=(2, 2))
    assert vcrast_data(*own) == 0
    assert len(list((tmp_path / "cache").glob("*.i16"))) == 2, "only touched"
    capsys.readouterr()


def test_a_mixture(roots, tmp_path):
    """Tars and rows in one run, read by two processes."""
    overrides = [word for word in words(roots, "webdataset", tmp_path / "run") if not word.startswith("data=")]
    overrides = [word for word in overrides if not word.startswith(("data.root=", "pretrain.steps="))]
    run_here(
        [
            *overrides, "data=[webdataset,huggingface]", f"data.sources.webdataset.root={roots / 'webdataset'}",
            f"data.sources.huggingface.root={roots / 'parquet'}", "data.cache=false", "data.weights=[1,3]",
            "data.mixed_shards=2", "pretrain.steps=4", "stages=[pretrain]",
        ]
    )  # fmt: skip
    log = (tmp_path / "run" / "train.log").read_text()
    assert "a mixture of 60 of webdataset, 60 of huggingface" in log
