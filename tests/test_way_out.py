"""Check what a diverged run is told to do."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vcrast.run import STAGES, run_stages
from vcrast.runs import checkpoint


@pytest.mark.parametrize(
    ("stage", "saved", "said"),
    [
        (
            "pretrain",
            7,
            r"^loss; the checkpoint of step 7 is good: .* model\.checkpoint='.*a run' and a lower optim\.lr",
        ),
        (
            "finetune",
            7,
            r"^loss; a new run with model\.checkpoint='.*a run' .stages=\[finetune,evaluate\]. and a lower",
        ),
        ("pretrain", None, "^loss; no checkpoint was written before: start a new run with a lower rate$"),
    ],
)
def test_a_diverged_stage_says_how_to_go_on(tmp_path, monkeypatch, stage, saved, said):
    folder = tmp_path / "a run"
    if saved is not None:
        checkpoint.save(folder / stage, saved, {"step": saved}, keep=1)

    def diverges(job):
        raise FloatingPointError("loss")

    monkeypatch.setitem(STAGES, stage, diverges)
    summary = SimpleNamespace(done=lambda *_: False, begin=lambda *_: None)
    job = SimpleNamespace(
        config=SimpleNamespace(stages=[stage]), fold="1", run_dir=Path(folder), summary=summary,
        checkpoints=lambda name: folder / name,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=said):
        run_stages(job, SimpleNamespace(inputs={stage: {}}))
