"""Check the contract of an evaluation: options, metrics and what it is given."""

import pytest
import torch
from torch.nn import functional as F

from vcrast.config.compose import compose
from vcrast.config.metric import Metric
from vcrast.evaluation.base import Evaluation, Features, Predictions, build_evaluations, measured, undefined_lines
from vcrast.evaluation.classifier import Classifier
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.metrics import accuracy, average_precision, class_auc, mean_average_precision

KNN = {"module": "vcrast.evaluation.knn", "k": 3, "temperature": 0.1}
PROBE = {"module": "vcrast.evaluation.linear_probe", "steps": 50, "weight_decay": 1e-3, "export": True}
CLASSES = ("cat", "rain", "dog")


class Constant(Evaluation):
    """Has a number of its own, and no baseline."""

    needs = Features
    metrics = {"constant": Metric("A constant")}  # noqa: RUF012

    def measure(self, given):
        return {"constant": 1.0}


def features(multilabel=False):
    """Two classes that lie apart, 20 training and 10 test clips."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for num_clips in (20, 10):
        classes = torch.arange(num_clips) % 2
        embedding = torch.randn(num_clips, 6, generator=generator) + 4 * F.one_hot(classes, 6)
        parts.append(Embedded(embedding, F.one_hot(classes, 2).float(), torch.arange(num_clips)))
    return Features(*parts, multilabel)


def test_the_shipped_choice_builds_and_measures_what_it_describes():
    built = build_evaluations(compose([]).evaluation)
    assert set(built) == {"classifier", "linear_probe", "knn"}
    score = torch.tensor([[0.9, 0.2], [0.4, 0.6], [0.3, 0.7], [0.8, 0.1]])
    label = torch.eye(2)[[0, 1, 0, 1]]
    for multilabel in (False, True):
        given = {Features: features(multilabel), Predictions: Predictions(score, label, multilabel)}
        for each in built.values():
            found = each.measure(given[each.needs])
            assert found
            assert found.keys() <= each.metrics.keys() <= each.described().keys()
            assert any(name.endswith("accuracy") for name in found) != multilabel


def test_a_baseline_is_described_beside_the_number_and_never_heads_a_comparison():
    described = build_evaluations({"knn": KNN})["knn"].described()
    assert set(described) == {"knn_accuracy", "knn_mAP", "untrained_knn_accuracy", "untrained_knn_mAP"}
    own, before = described["knn_accuracy"], described["untrained_knn_accuracy"]
    assert (before.label, before.short) == ("Accuracy, nearest neighbours, untrained", "untrained kNN")
    assert (before.format, before.better) == (own.format, own.better)
    assert (own.headline, before.headline) == ("knn", None)
    assert Constant().described() == Constant.metrics


@pytest.mark.parametrize(("name", "options", "prefix"), [("knn", KNN, "knn"), ("linear_probe", PROBE, "probe")])
def test_probes_of_clips_with_many_labels_give_map_instead_of_accuracy(name, options, prefix):
    measure = build_evaluations({name: options})[name].measure
    assert measure(features()) == {f"{prefix}_accuracy": 1.0}
    assert measure(features(multilabel=True)) == {f"{prefix}_mAP": 1.0}


def test_more_neighbours_than_clips_are_all_clips():
    given = features()
    one, other = (build_evaluations({"knn": {**KNN, "k": k}})["knn"].measure(given) for k in (20, 500))
    assert one == other


def test_the_classifier_is_measured_by_the_known_metrics():
    score, label = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)), torch.eye(3)[torch.arange(30) % 3]
    classifier = build_evaluations({"classifier": {"module": "vcrast.evaluation.classifier"}})["classifier"]
    found = classifier.measure(Predictions(score, label, multilabel=False))
    assert found["accuracy"] == pytest.approx(accuracy(score, label.argmax(dim=1)).item())
    assert found["mAP"] == pytest.approx(mean_average_precision(score, label).item())
    assert "accuracy" not in classifier.measure(Predictions(score, label, multilabel=True))


def predicted(classes, *, multilabel=False, seed=0):
    score = torch.rand(len(classes), 3, generator=torch.Generator().manual_seed(seed))
    return Predictions(score, torch.eye(3)[classes], multilabel)


def test_numbers_that_the_test_clips_do_not_define_come_with_the_reason():
    found = measured(Classifier(), predicted([1] * 6), CLASSES)
    said = "all 6 test clips are of class rain"
    assert found.undefined == {"mAP": said, "auc": said, "d_prime": said}
    assert found.values["accuracy"] == found.values["balanced_accuracy"] == found.by_class["class_accuracy"]["rain"]
    assert undefined_lines(found.undefined) == [f"mAP, auc, d_prime undefined: {said}"]
    assert set(measured(Classifier(), predicted([2]), CLASSES).undefined.values()) == {
        "there is only one test clip (dog)"
    }
    empty = Predictions(torch.rand(4, 3), torch.zeros(4, 3), multilabel=True)
    assert measured(Classifier(), empty, CLASSES).undefined["mAP"] == "none of the 4 test clips has a label"
    both = Predictions(torch.rand(4, 3), torch.tensor([[1.0, 1.0, 0.0]] * 4), multilabel=True)
    assert "no class is carried by some of the 4" in measured(Classifier(), both, CLASSES).undefined["auc"]
    none = Predictions(torch.empty(0, 3), torch.empty(0, 3), multilabel=False)
    assert measured(Classifier(), none, CLASSES).undefined["accuracy"] == "none of the test clips could be read"


def test_a_perfect_ranking_says_why_its_d_prime_is_infinite():
    right = measured(Classifier(), Predictions(torch.eye(3), torch.eye(3), multilabel=False), CLASSES)
    assert right.undefined == {"d_prime": "the AUC is 1, at which d-prime is infinite"}
    wrong = measured(Classifier(), Predictions(1 - torch.eye(3), torch.eye(3), multilabel=False), CLASSES)
    assert wrong.undefined == {"d_prime": "the AUC is 0, at which d-prime is infinite"}


def test_each_class_by_itself():
    score = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    label = torch.eye(3)[[0, 1, 1, 1]]
    found = measured(Classifier(), Predictions(score, label, multilabel=False), CLASSES).by_class
    assert found["class_clips"] == {"cat": 1, "rain": 3, "dog": 0}
    assert found["class_accuracy"] == {"cat": 1.0, "rain": pytest.approx(2 / 3), "dog": None}
    assert found["class_auc"] == {"cat": 1.0, "rain": 1.0, "dog": None}
    found = measured(Classifier(), Predictions(score, label, multilabel=True), CLASSES).by_class
    assert found["class_AP"]["rain"] == average_precision(score, label)[1].item()
    assert found["class_auc"]["cat"] == class_auc(score, label)[0].item()


class Fails(Constant):
    """Cannot measure what it is given."""

    def measure(self, given):
        raise ValueError("needs two\nclasses")


def test_an_evaluation_that_refuses_leaves_its_numbers_undefined_and_the_others_alone():
    found = measured(Fails(), features(), CLASSES)
    assert found.undefined == {"constant": "needs two classes"}
    assert list(found.values) == ["constant"]
    bad = predicted([0, 1])
    bad.score[1, 1] = torch.nan
    assert set(measured(Classifier(), bad, CLASSES).undefined.values()) == {"1 of 2 clips have NaN scores"}
    both = found.joined(measured(Constant(), features(), CLASSES).of_untrained())
    assert both.values["untrained_constant"] == 1.0
    assert both.undefined == {"constant": "needs two classes"}


def test_frozen_features_without_a_test_clip_that_can_be_read():
    nothing = Embedded(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64))
    for name, options in (("knn", KNN), ("linear_probe", PROBE)):
        [evaluation] = build_evaluations({name: options}).values()
        found = measured(evaluation, features()._replace(test=nothing), CLASSES)
        assert set(found.undefined.values()) == {"none of the test clips could be read"}


def test_the_probe_hands_on_the_classifier_that_it_has_fitted():
    given = features()
    probe = build_evaluations({"linear_probe": PROBE})["linear_probe"]
    assert probe.heads() == {}
    probe.measure(given)
    head = probe.heads()["probe"]
    right = (head(given.test.embedding).argmax(dim=1) == given.test.label.argmax(dim=1)).float().mean()
    assert {"probe_accuracy": right.item()} == probe.measure(given)
    silent = build_evaluations({"linear_probe": {**PROBE, "export": False}})["linear_probe"]
    silent.measure(given)
    assert silent.heads() == {}


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("nearest", {}, KeyError, "nearest"),
        ("knn", {**KNN, "neighbours": 3}, ValueError, r"neighbours: .*knn has no such option"),
        ("knn", {**KNN, "k": "many"}, ValueError, r"k='many': .* expects int"),
        ("knn", {**KNN, "k": 0}, ValueError, r"evaluation\.knn\.k=0: must be 1 or more"),
        ("knn", {**KNN, "temperature": 0.0}, ValueError, r"evaluation\.knn\.temperature=0\.0: must be above 0"),
        ("linear_probe", {**PROBE, "steps": 0}, ValueError, r"evaluation\.linear_probe\.steps=0: must be 1 or more"),
        ("linear_probe", {**PROBE, "weight_decay": -1.0}, ValueError, r"weight_decay=-1\.0: must not be negative"),
    ],
)
def test_mistakes_are_named(name, options, error, said):
    with pytest.raises(error, match=said):
        build_evaluations({name: options})
