from __future__ import annotations

import json
from types import SimpleNamespace

from parts import make_ast
from shipped import shipped

from vcrast.models.export import export
from vcrast.runs.job import Job
from vcrast.runs.summary import Summary


def test_what_is_said_of_a_checkpoint_reaches_the_log_and_the_summary_once(tmp_path, caplog):
    """Another normalisation, and a model of another fold of the same data."""
    folder = tmp_path / "run" / "exported" / "fold_1" / "pretrained"
    features = shipped("features/fbank", num_mel_bins=16, sample_rate=16000, mean=-4.0, std=2.0)
    export(
        folder, encoder=make_ast(), features=features, labels=(), multilabel=False, head=None, sample_rate=16000,
        clip_duration_s=1.0, pad="silence", meta={},
    )  # fmt: skip
    (folder.parents[2] / "config.yaml").write_text("data: {name: esc50}\n")
    summary = Summary(tmp_path / "summary.json", recipe="r", classes=())
    config = SimpleNamespace(model={"checkpoint": str(folder)}, data=SimpleNamespace(name="esc50"))
    mine = {**features, "mean": -6.0}
    job = SimpleNamespace(config=config, fold="2", summary=summary, fbank_options=lambda: mine)
    for _ in "finetune", "evaluate":
        assert Job.load_checkpoint(job, make_ast()) == str(folder)
    summary.write()
    first, second = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert f"model.checkpoint={folder}: trained for fold 1 of the same data" in first
    assert "mean -4 and std 2" in second
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [first, second]
    config.model["checkpoint"] = None
    assert Job.load_checkpoint(job, make_ast()) == "scratch"
