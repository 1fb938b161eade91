"""Run pretraining with `watch=knn` and all evaluations: interrupted, resumed, compared."""

import json

import pytest
from safetensors.torch import load_file
from small_run import stop_and_go_on, weights_hash
from test_run import run_here

pytestmark = pytest.mark.slow

PRETRAIN = ("stages=[pretrain]", "data.options.num_clips=40", "pretrain.steps=6")
WATCHED = (
    *PRETRAIN[1:], "stages=[pretrain,evaluate]", "pretrain.watch=knn", "pretrain.watch_every_epochs=1",
    "checkpoint.every_steps=2", "evaluation=[knn,linear_probe,layers_probe,quality]", "evaluation.layers_probe.steps=5",
    "evaluation.quality.pairs=1", "evaluation.quality.clips=16",
)  # fmt: skip
OF_THE_CLOCK = ("time", "samples_per_s", "data_s", "compute_s", "wall_s", "peak_memory_bytes")


def lines_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in OF_THE_CLOCK} for line in lines]


def numbers_of(folder):
    [fold] = json.loads((folder / "summary.json").read_text())["folds"].values()
    return {
        stage: {key: value for key, value in own.items() if key not in OF_THE_CLOCK} for stage, own in fold.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("watch") / "run", *WATCHED)


def test_watching_changes_no_bit_of_the_weights(watched, tmp_path):
    plain = run_here(tmp_path / "run", *PRETRAIN)
    name = "exported/fold_1/pretrained/weights.safetensors"
    one, other = (load_file(folder / name) for folder in (watched, plain))
    assert one.keys() == other.keys()
    assert all(one[key].equal(other[key]) for key in one)
    unwatched = [line for line in lines_of(plain) if "loss" in line]
    assert unwatched == [line for line in lines_of(watched) if "loss" in line]
    assert not any("knn_accuracy" in line or line["step"] == 0 for line in lines_of(plain))


def test_it_stops_and_goes_on_to_the_same_numbers(watched, tmp_path, monkeypatch):
    stop_and_go_on(lambda folder: run_here(folder, *WATCHED), tmp_path / "run", monkeypatch, at=4)
    assert lines_of(tmp_path / "run") == lines_of(watched)
    assert numbers_of(tmp_path / "run") == numbers_of(watched)
    assert weights_hash(tmp_path / "run") == weights_hash(watched)


def test_its_numbers_are_in_log_summary_and_report(watched):
    found = numbers_of(watched)
    curve = [line for line in lines_of(watched) if "knn_accuracy" in line]
    assert [line["step"] for line in curve] == [0, 2, 4, 6]
    assert found["pretrain"]["start_knn_accuracy"] == curve[0]["knn_accuracy"]
    assert found["pretrain"]["knn_accuracy"] == curve[-1]["knn_accuracy"]

    for name in ("rankme", "alpha", "lidar", "layers_accuracy", "untrained_lidar", "untrained_layers_accuracy"):
        assert found["evaluate"][name] is not None
    assert sum(found["evaluate"]["layer_weights"].values()) == pytest.approx(1.0)
    assert "kNN among training clips" in (watched / "report.html").read_text()
    assert "layers_probe: weights of the layers 0: " in (watched / "train.log").read_text()
