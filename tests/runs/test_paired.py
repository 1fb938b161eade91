import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vcrast.cli.main import main
from vcrast.config.metric import Metric
from vcrast.evaluation.base import Evaluation, Features, measured
from vcrast.evaluation.embedding import Embedded
from vcrast.runs.compare import compare
from vcrast.runs.paired import difference_by_clip, right_clips

RIGHT_CLIPS = {
    ("a", 0): {"1": [1, 1, 0, 0], "2": [1, 0]}, ("a", 1): {"1": [1, 0, 0, 1], "2": [1, 1]},
    ("b", 0): {"1": [1, 1, 1, 1], "2": [1, 0]}, ("b", 1): {"1": [1, 1, 1, 0], "2": [0, 1]},
}  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Two variants, two seeds, two folds of four and two test clips."""
    for (name, seed), folds in RIGHT_CLIPS.items():
        folder = tmp_path / f"{name}{seed}"
        (folder / "evaluation").mkdir(parents=True)
        (folder / "config.yaml").write_text(f"recipe: r\nrun:\n  seed: {seed}\nattention:\n  name: {name}\n")
        numbers = {fold: {"evaluate": {"knn_accuracy": float(np.mean(right))}} for fold, right in folds.items()}
        shown = {"evaluate": {"knn_accuracy": Metric("kNN", "percent", "higher", headline="knn")._asdict()}}
        (folder / "summary.json").write_text(json.dumps({"recipe": "r", "folds": numbers, "metrics": shown}))
        for fold, right in folds.items():
            arrays = {"right/knn_accuracy": np.array(right, np.uint8), "index": np.arange(len(right))}
            save_file(arrays, folder / "evaluation" / f"fold_{fold}.safetensors")
    return tmp_path


def test_differences_by_clip_by_hand(runs):
    found = compare([runs])
    # Of the six clips, mean over both seeds of b less a.
    each = np.array([0, 0.5, 1, 0, -0.5, 0])
    estimate = found.difference_by_clip(found.variants[1], "evaluate.knn_accuracy")
    assert estimate.count == 6
    assert estimate.mean == pytest.approx(each.mean())
    assert estimate.error == pytest.approx(each.std(ddof=1) / 6**0.5)
    assert found.difference_by_clip(found.variants[1], "pretrain.loss") is None


def test_the_table_and_json_have_them(runs, capsys):
    assert main(["compare", str(runs), "--format", "markdown"]) == 0
    assert "| the same by clip, 6 clips |  | +16.7 ± 21.1 |" in capsys.readouterr().out
    assert main(["compare", str(runs), "--format", "json"]) == 0
    given = json.loads(capsys.readouterr().out)["variants"][1]["difference_by_clip"]["evaluate.knn_accuracy"]
    assert given["count"] == 6


def test_other_clips_or_none_are_not_compared(runs):
    one, two = {("1", 0): 1.0, ("1", 1): 0.0}, {("1", 0): 1.0}
    assert difference_by_clip({0: one}, {0: two}) is None
    assert difference_by_clip({0: one}, {1: one}) is None
    assert difference_by_clip({0: {}}, {0: {}}) is None
    assert right_clips(runs / "a0", "probe_accuracy", ["1"]) == {}
    (runs / "a0" / "evaluation" / "fold_2.safetensors").write_bytes(b"half a file")
    assert right_clips(runs / "a0", "knn_accuracy", ["1", "2"]) == {}
    (runs / "b0" / "evaluation" / "fold_1.safetensors").unlink()
    found = compare([runs])
    assert found.difference_by_clip(found.variants[1], "evaluate.knn_accuracy") is None


class Fixed(Evaluation):
    needs = Features
    metrics = {"own_accuracy": Metric("Accuracy", "percent"), "own_mAP": Metric("mAP")}  # noqa: RUF012

    def measure(self, given):
        self.score = torch.eye(3)[torch.tensor([0, 2, 1])]
        return {"own_accuracy": 1 / 3}


@pytest.mark.parametrize("multilabel", [False, True])
def test_an_evaluation_tells_which_clips_are_right(multilabel):
    clips = Embedded(torch.randn(3, 4), torch.eye(3), torch.arange(3))
    found = measured(Fixed(), Features(clips, clips, multilabel), ["x", "y", "z"]).right
    assert {name: value.tolist() for name, value in found.items()} == (
        {} if multilabel else {"own_accuracy": [1, 0, 0]}
    )
