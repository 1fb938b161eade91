"""Check how the best weights are chosen, and what is refused before the first step."""

import math
from types import SimpleNamespace

import pytest
import torch

from vcrast.data.clip import Clip
from vcrast.data.corpus import Corpus
from vcrast.runs.validation import Validation, check_validation, measure, split_off


def options(clips, *, metric=None, patience=None, batch_size=4):
    return SimpleNamespace(
        batch_size=batch_size, validation=SimpleNamespace(clips=clips, metric=metric, patience=patience)
    )


def corpus(*folds, multilabel=False):
    clips = tuple(Clip(f"/x/{fold}/{i}.wav", (i % 2,), fold=fold) for fold in folds for i in range(20))
    return Corpus("own", clips, ("a", "b"), multilabel, tuple(sorted({*folds} - {"train"})))


def test_the_best_value_keeps_its_weights_and_the_patience_ends():
    chosen = Validation("accuracy", patience=2)
    for step, value in enumerate([math.nan, 0.5, 0.7, 0.7, 0.6], start=1):
        assert not chosen.over
        chosen.note(step, value, lambda step=step: {"w": torch.tensor(float(step))})
    assert (chosen.best, chosen.best_step, chosen.since, chosen.over) == (0.7, 3, 2, True)
    assert chosen.weights == {"w": torch.tensor(3.0)}
    again = Validation("accuracy", patience=2)
    again.load_state_dict(chosen.state_dict())
    assert (again.best, again.best_step, again.since, again.weights) == (0.7, 3, 2, chosen.weights)


def test_without_patience_it_never_ends():
    chosen = Validation("mAP", patience=None)
    for step in range(100):
        chosen.note(step, -step, dict)
    assert not chosen.over
    assert chosen.best_step == 0


def test_weights_are_kept_even_where_no_value_is_a_number():
    chosen = Validation("accuracy", patience=1)
    chosen.note(5, math.nan, lambda: {"w": torch.tensor(5.0)})
    assert chosen.over
    assert (chosen.best, chosen.weights) == (None, {"w": torch.tensor(5.0)})


def test_measures_and_what_is_undefined():
    label = torch.eye(2)[[0, 0, 0, 1]]
    score = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert measure(score, label, metric="accuracy", multilabel=False) == 0.75
    assert measure(score, label, metric="balanced_accuracy", multilabel=False) == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(measure(score * math.nan, label, metric="mAP", multilabel=False))


def test_a_split_that_is_not_trained_on_may_validate():
    given = corpus("train", "val", "test")
    learnt, held = split_off(given.split("test")[0], options("val"), given, seed=0)
    assert (len(learnt), {clip.fold for clip in held}) == (20, {"val"})


@pytest.mark.parametrize(
    ("given", "asked", "said"),
    [
        (corpus("1", "2"), options("2"), r"clips=2: own has no such split; give a share such as 0\.1$"),
        (corpus("train", "test"), options("val"), r"clips=val: .*give a share such as 0\.1, or test$"),
        (corpus("1", "2"), options(True), "clips=True: own has no such split"),
        (corpus("1", "2"), options(0.1, metric="loss"), r"validation\.metric=loss: .*accuracy"),
        (corpus("1", "2", multilabel=True), options(0.1, metric="accuracy"), r"validation\.metric=accuracy: .*mAP"),
        (corpus("1", "2"), options(None, metric="auc"), r"validation\.metric: without effect"),
        (corpus("1", "2"), options(None, patience=3), r"validation\.patience: without effect"),
        (corpus("1", "2"), options(0.5, batch_size=11), "leaves 10 clips of fold 1 to train on, fewer than"),
    ],
)
def test_what_cannot_work_is_refused(given, asked, said):
    with pytest.raises(ValueError, match=said):
        check_validation(asked, given, ["1"] if "1" in given.folds else ["test"])
