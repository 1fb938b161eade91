"""Check the models that finetuning keeps of its epochs: killed, resumed, done again."""

import socket

import pytest
from safetensors.torch import load_file
from small_run import small
from torch.testing import assert_close

import vcrast
from vcrast.config.resume import resolve
from vcrast.run import check, run
from vcrast.runs.stage import Stage

pytestmark = pytest.mark.slow

SHORT = ("stages=[finetune]", "finetune.evaluate_every_epochs=9")


class Killed(BaseException):
    pass


def train(folder, *more):
    words = small(folder, *SHORT, *more)
    return run(resolve(words), words)


def weights(run, name):
    return load_file(run / "exported" / "fold_1" / name / "weights.safetensors")


def epochs(run):
    return sorted(path.name for path in (run / "exported" / "fold_1").glob("epoch_*"))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Three epochs of three steps; all but the first are kept."""
    return train(tmp_path_factory.mktemp("run") / "calm", "finetune.keep_epochs=2-3")


def test_the_named_epochs_are_models_of_their_own(calm):
    assert epochs(calm) == ["epoch_2", "epoch_3"]
    assert_close(weights(calm, "epoch_3"), weights(calm, "finetuned"), rtol=0, atol=0)
    assert not (weights(calm, "epoch_2")["head.1.weight"] == weights(calm, "finetuned")["head.1.weight"]).all()
    assert vcrast.load(calm).meta["stage"] == "finetuned"
    model = vcrast.load(calm, stage="epoch_2")
    assert (model.meta["stage"], model.meta["epoch"], len(model.labels)) == ("epoch_2", 2, 3)
    with pytest.raises(ValueError, match=r"has no stage epoch_4; choose from finetuned, epoch_N \(N: 2-3\)"):
        vcrast.load(calm, stage="epoch_4")


def test_a_killed_run_has_its_epochs_and_goes_on_to_the_same(calm, tmp_path):
    folder, begin = tmp_path / "killed", Stage.begin_step

    def dies(stage):
        if stage.done == 7:
            raise Killed
        begin(stage)

    more = ["finetune.keep_epochs=all", "checkpoint.every_steps=4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "begin_step", dies)
        with pytest.raises(Killed):
            train(folder, *more)
    assert epochs(folder) == ["epoch_1", "epoch_2"]
    with pytest.raises(FileNotFoundError, match=r"fold 1 has not ended; name one of its stages, epoch_N \(N: 1-2\)"):
        vcrast.load(folder)
    assert vcrast.load(folder, stage="epoch_2").meta["epoch"] == 2
    (folder / "exported" / "fold_1" / "epoch_2" / "model.json").unlink()  # as if the kill had come within it
    left = folder / "exported" / "fold_1" / "epoch_2" / f".weights.safetensors.0000.{socket.gethostname()}.tmp"
    left.touch()
    words = [f"run.resume={folder}"]
    run(resolve(words), words)
    assert not left.exists()
    for name in ("epoch_2", "epoch_3", "finetuned"):
        assert_close(weights(folder, name), weights(calm, name), rtol=0, atol=0)


def test_epochs_that_were_over_are_said_and_what_is_done_again_moves_them_away(calm, tmp_path, caplog):
    folder = train(tmp_path / "late", "finetune.steps=6")
    assert epochs(folder) == []
    words = [f"run.resume={folder}", "finetune.steps=9", "finetune.keep_epochs=[2,3]"]
    run(resolve(words), words)
    assert "finetune.keep_epochs was set after epoch 2, not kept" in caplog.text
    assert epochs(folder) == ["epoch_3"]
    words = [f"run.resume={folder}", "stages=[pretrain,finetune]"]
    with pytest.raises(ValueError, match="other settings"):
        resolve([*words, "finetune.freeze_encoder=true"])
    run(resolve(words), words)  # now finetuning starts from a pretraining: it is done again
    assert epochs(folder) == ["epoch_2", "epoch_3"]
    assert (folder / "earlier" / "1" / "exported" / "fold_1" / "epoch_3" / "model.json").is_file()


def test_epochs_that_do_not_come_are_refused_before_the_first_step(tmp_path):
    for more, said in (
        (["finetune.keep_epochs=2-4"], "finetune.keep_epochs=2-4: finetuning of fold 1 has 3 whole epochs"),
        (["finetune.keep_epochs=best"], "finetune.keep_epochs=best: give epochs, counted from 1, as 6-25"),
    ):
        with pytest.raises(ValueError, match=said):
            check(resolve(small(tmp_path / "x", *SHORT, *more)))
