"""Check the model that is made of a pretraining which has not come to its end."""

import json

import pytest
import torch
from small_run import small

import vcrast
from vcrast.config.resume import resolve
from vcrast.models.export import read_description
from vcrast.run import run
from vcrast.runs import checkpoint
from vcrast.runs.stage import Stage
from vcrast.runs.unfinished import recover

pytestmark = pytest.mark.slow


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that ended in the middle of its pretraining, after the checkpoint of step 7 of 12."""
    folder = tmp_path_factory.mktemp("run") / "killed"
    words = small(folder, "checkpoint.every_steps=7")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "begin_step", dies_at(9))
        with pytest.raises(Killed):
            run(resolve(words), words)
    return folder


def dies_at(step):
    begin, begun = Stage.begin_step, []

    def begin_step(self):
        begun.append(1)
        if len(begun) > step:
            raise Killed
        begin(self)

    return begin_step


def test_it_embeds_with_the_weights_of_the_last_checkpoint(killed, caplog):
    model = vcrast.load(killed)
    assert f"{killed}: pretraining of fold 1 has come to step 7 of 12; these are its weights then" in caplog.text
    saved = checkpoint.load(checkpoint.find_latest(killed / "checkpoints" / "fold_1" / "pretrain"))
    weights = model.encoder.state_dict()
    for name, value in saved["engine"]["module"].items():
        if name.startswith("encoder."):
            assert torch.equal(weights[name.removeprefix("encoder.")], value), name
    assert (model.meta["step"], model.meta["num_steps"], model.meta["stage"]) == (7, 12, "unfinished")
    assert model.embed(torch.randn(16000).numpy(), 16000).shape == (32,)
    with pytest.raises(ValueError, match="has no classifier"):
        model.predict(torch.randn(16000).numpy(), 16000)


def test_another_run_starts_from_it_and_says_so(killed, tmp_path):
    words = small(tmp_path / "next", f"model.checkpoint={killed}", "stages=[finetune]")
    folder = run(resolve(words), words)
    warnings = json.loads((folder / "summary.json").read_text())["warnings"]
    said = f"model.checkpoint={killed}: weights of step 7 of 12: the pretraining has not come to its end"
    assert any(said in text for text in warnings), warnings


def test_what_is_there_of_the_step_is_kept_and_the_end_replaces_it(killed):
    recover(killed)
    made = killed / "exported" / "fold_1" / "unfinished"
    before = (made / "model.json").stat().st_mtime_ns
    assert recover(killed, fold="2") == []
    assert recover(killed, fold="1")
    assert (made / "model.json").stat().st_mtime_ns == before
    again = [f"run.resume={killed}", "stages=[pretrain]"]
    run(resolve(again), again)
    assert not made.exists()
    assert recover(killed) == []
    assert "step" not in read_description(killed / "exported" / "fold_1" / "pretrained")["meta"]


def test_what_is_no_run_is_left_alone(tmp_path):
    assert recover(tmp_path) == []
    assert recover(tmp_path / "nothing") == []
