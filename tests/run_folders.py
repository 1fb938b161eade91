"""Write run folders by hand, without a run."""

import json

import yaml

from vcrast.config.metric import Metric

SHOWN = {
    "knn_accuracy": Metric("Accuracy, nearest neighbours", "percent", "higher", "kNN", headline="knn")._asdict(),
    "own_error": Metric("Error", "fixed", "lower")._asdict(),
}


def make_run(folder, *, recipe="esc10", accuracy=None, begun=("1",), done=("1",), report=True, **more):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"recipe": recipe}))
    (folder / "overrides.txt").write_text("# now  vcrast run\n")
    numbers = {"evaluate": {"knn_accuracy": accuracy, "own_error": 1 - accuracy}} if accuracy is not None else {}
    summary = {
        "recipe": recipe, "folds": {fold: {"pretrain": {"steps": 40}, **numbers} for fold in done},
        "inputs": {fold: {"pretrain": {"steps": 40}} for fold in begun}, "metrics": {"evaluate": SHOWN}, **more,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    lines = [{"fold": begun[-1], "stage": "pretrain", "step": step, "loss": 1.0} for step in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"fold": "1", "st')
    if report:
        (folder / "report.html").write_text("<html>")
    return folder
