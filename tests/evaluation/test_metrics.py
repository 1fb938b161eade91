import math

import pytest
import torch
import torchmetrics.functional as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vcrast.evaluation.knn import knn_predict
from vcrast.evaluation.linear_probe import fit_linear, logits_of
from vcrast.evaluation.metrics import (
    accuracy,
    auc,
    average_precision,
    balanced_accuracy,
    class_accuracy,
    class_auc,
    d_prime,
    d_prime_of,
    effective_rank,
    embedding_std,
    mean_average_precision,
)


def scored(seed, num_clips=60, num_classes=5, levels=8):
    """Scores with many ties, as quantised outputs have, and labels of rare and common classes."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (num_clips, num_classes), generator=generator).float() / levels
    labels = (torch.rand(num_clips, num_classes, generator=generator) < torch.linspace(0.1, 0.7, num_classes)).float()
    labels[0], labels[1] = 1.0, 0.0
    return scores, labels


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(3, 70), st.integers(1, 9))
def test_average_precision_and_auc_agree_with_torchmetrics(seed, num_clips, levels):
    scores, labels = scored(seed, num_clips, levels=levels)
    theirs = oracle.average_precision(scores, labels.long(), task="multilabel", num_labels=5, average=None)
    torch.testing.assert_close(average_precision(scores, labels).float(), theirs, rtol=1e-5, atol=1e-6)
    theirs = oracle.auroc(scores, labels.long(), task="multilabel", num_labels=5, average=None)
    torch.testing.assert_close(class_auc(scores, labels).float(), theirs, rtol=1e-5, atol=1e-6)


def test_accuracy_agrees_with_torchmetrics():
    torch.manual_seed(0)
    scores, classes = torch.randn(40, 4), torch.randint(4, (40,))
    theirs = oracle.accuracy(scores, classes, task="multiclass", num_classes=4, average="micro")
    assert accuracy(scores, classes).item() == pytest.approx(theirs.item())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6))
def test_balanced_accuracy_agrees_with_torchmetrics(seed, num_clips, num_classes):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(num_clips, num_classes, generator=generator)
    classes = torch.randint(num_classes, (num_clips,), generator=generator)
    asked = {"task": "multiclass", "num_classes": num_classes}
    found, present = class_accuracy(scores, classes), classes.bincount(minlength=num_classes) > 0
    theirs = oracle.recall(scores, classes, average="none", **asked)
    torch.testing.assert_close(found[present].float(), theirs[present])
    assert found[~present].isnan().all()
    if present.all():  # theirs counts a class that is only predicted as one of recall 0
        macro = oracle.accuracy(scores, classes, average="macro", **asked)
        assert balanced_accuracy(scores, classes).item() == pytest.approx(macro.item())


def test_balanced_accuracy_by_hand():
    scores = torch.eye(3)[[0, 0, 0, 1, 0]]
    classes = torch.tensor([0, 0, 0, 1, 1])  # 3 of 3 and 1 of 2; class 2 has no clips
    assert balanced_accuracy(scores, classes).item() == pytest.approx((1 + 1 / 2) / 2)
    assert accuracy(scores, classes).item() == pytest.approx(4 / 5)


def test_average_precision_by_hand():
    scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert average_precision(scores, labels).item() == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert class_auc(scores, labels).item() == pytest.approx(3 / 4)


def test_confident_logits_are_ranked_as_they_are():
    """In float32 the sigmoids of 20 and 30 are both 1."""
    scores = torch.tensor([[30.0], [20.0], [-5.0]])
    labels = torch.tensor([[1.0], [0.0], [0.0]])
    assert average_precision(scores, labels).item() == 1.0
    assert class_auc(scores, labels).item() == 1.0


def test_ties_do_not_depend_on_the_order_of_clips():
    scores, labels = torch.full((4, 1), 0.5), torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert average_precision(scores, labels[order]).item() == pytest.approx(1 / 4)
        assert class_auc(scores, labels[order]).item() == pytest.approx(1 / 2)


def test_classes_without_positives_are_left_out():
    scores, labels = scored(0)
    labels[:, 2] = 0.0
    values = average_precision(scores, labels)
    assert values[2].isnan()
    kept = values[[0, 1, 3, 4]]
    assert mean_average_precision(scores, labels).item() == pytest.approx(kept.mean().item())
    assert class_auc(scores, labels).isnan().tolist() == [False, False, True, False, False]
    labels[:, 0] = 1.0  # no negatives: a precision of 1 whatever the scores are says nothing
    assert class_auc(scores, labels)[0].isnan()
    assert average_precision(scores, labels)[0].isnan()
    kept = average_precision(scores, labels)[[1, 3, 4]]
    assert mean_average_precision(scores, labels).item() == pytest.approx(kept.mean().item())


@pytest.mark.parametrize("num_clips", [0, 1, 6])
def test_what_clips_of_one_class_do_not_define_is_nan(num_clips):
    scores, labels = torch.rand(num_clips, 3), torch.eye(3)[[1] * num_clips]
    for measure in (mean_average_precision, auc, d_prime):
        assert measure(scores, labels).isnan()
        assert measure(scores, torch.zeros(num_clips, 3)).isnan()
    found = accuracy(scores, labels.argmax(dim=1)).item()
    if num_clips:
        assert found == balanced_accuracy(scores, labels.argmax(dim=1)).item()
    else:
        assert math.isnan(found)


def test_d_prime_of_the_ast():
    assert d_prime_of(torch.tensor(0.97856, dtype=torch.float64)).item() == pytest.approx(2.8637, abs=1e-4)
    scores, labels = scored(3)
    assert d_prime(scores, labels).item() == pytest.approx(d_prime_of(auc(scores, labels)).item())


def test_d_prime_is_the_distance_of_two_gaussians():
    torch.manual_seed(0)
    labels = torch.arange(200_000).remainder(2).float().unsqueeze(1)
    scores = torch.randn(200_000, 1) + 1.5 * labels
    assert d_prime(scores, labels).item() == pytest.approx(1.5, abs=0.02)


def test_bad_scores_are_refused():
    scores, labels = scored(0)
    scores[3, 1] = torch.nan
    with pytest.raises(ValueError, match="1 of 60 clips have NaN scores"):
        mean_average_precision(scores, labels)
    with pytest.raises(ValueError, match="must both be"):
        auc(torch.zeros(60, 4), labels)


def test_collapse_metrics_tell_constant_line_and_healthy():
    torch.manual_seed(0)
    constant = torch.ones(50, 1) * torch.randn(1, 16)
    assert embedding_std(constant).item() == pytest.approx(0.0, abs=1e-6)
    assert effective_rank(constant).item() == pytest.approx(1.0, abs=1e-4)
    line = torch.randn(50, 1) * torch.randn(1, 16)
    assert embedding_std(line).item() > 0.1
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-4)
    healthy = torch.linalg.qr(torch.randn(50, 16)).Q
    assert effective_rank(healthy).item() == pytest.approx(16.0, rel=1e-4)
    assert effective_rank(torch.zeros(5, 4)).item() == 0.0


def test_effective_rank_and_std_by_hand():
    values = torch.diag(torch.tensor([3.0, 1.0]))  # shares 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(values).item() == pytest.approx(math.exp(entropy))
    assert embedding_std(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).item() == pytest.approx(2**0.5 / 2)


def slow_knn(train, labels, test, k, temperature):
    votes = torch.zeros(len(test), labels.shape[1])
    for row, clip in enumerate(test):
        similarity = F.cosine_similarity(train, clip.unsqueeze(0))
        for neighbour in similarity.argsort(descending=True)[:k].tolist():
            votes[row] += math.exp(similarity[neighbour].item() / temperature) * labels[neighbour]
    return votes / votes.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_knn_equals_the_definition(k):
    torch.manual_seed(0)
    train, test = torch.randn(30, 6), torch.randn(11, 6)
    labels = F.one_hot(torch.arange(30) % 3, 3).float()
    votes = knn_predict(train, labels, test, k=k, temperature=0.3, chunk=4)
    torch.testing.assert_close(votes, slow_knn(train, labels, test, k, 0.3), rtol=1e-4, atol=1e-6)


def test_knn_mistakes():
    with pytest.raises(ValueError, match=r"evaluation\.knn\.k=31: must lie between 1 and the 30"):
        knn_predict(torch.randn(30, 6), torch.ones(30, 2), torch.randn(2, 6), k=31, temperature=0.1)
    with pytest.raises(ValueError, match=r"evaluation\.knn\.temperature=0"):
        knn_predict(torch.randn(30, 6), torch.ones(30, 2), torch.randn(2, 6), k=3, temperature=0)


@pytest.mark.parametrize("multilabel", [False, True])
def test_linear_probe_finds_the_optimum(multilabel):
    torch.manual_seed(0)
    train = 5.0 * torch.randn(80, 6) + 3.0
    classes = (train[:, 0] + torch.randn(80) * 4 > 3).long() + 2 * (train[:, 1] > 3).long()
    labels = F.one_hot(classes, 4).double()
    found = logits_of(fit_linear(train, labels, multilabel=multilabel, steps=300, weight_decay=0.1), train)
    x = ((train - train.mean(dim=0)) / train.std(dim=0)).double()
    weight, bias = (torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 6), (4,)))
    optimizer = torch.optim.Adam([weight, bias], lr=0.05)
    for step in range(2000):  # a slow other way to the same convex optimum
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 2000)
        logits = x @ weight.T + bias
        bce, ce = F.binary_cross_entropy_with_logits(logits, labels), F.cross_entropy(logits, labels)
        loss = 4 * bce if multilabel else ce
        optimizer.zero_grad()
        (loss + 0.05 * weight.square().sum()).backward()
        optimizer.step()
    expected = (x @ weight.T + bias).detach()
    difference = found.double() - expected
    if not multilabel:  # softmax does not see a common offset
        difference = difference - difference.mean(dim=1, keepdim=True)
    assert difference.abs().max() < 2e-3


def test_linear_probe_is_deterministic_and_survives_constant_features():
    torch.manual_seed(0)
    train = torch.cat([torch.randn(40, 3), torch.ones(40, 2)], dim=1)
    labels = F.one_hot((train[:, 0] > 0).long(), 2).float()
    with torch.no_grad():
        one, two = (
            logits_of(fit_linear(train, labels, multilabel=False, steps=100, weight_decay=1e-3), train)
            for _ in range(2)
        )
    assert torch.equal(one, two)
    assert accuracy(one, labels.argmax(dim=1)).item() == 1.0


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("num_clips", [1, 5])
def test_linear_probe_of_one_class_or_one_clip_says_that_class(multilabel, num_clips):
    train = torch.randn(num_clips, 4)
    head = fit_linear(train, torch.eye(3)[[1] * num_clips], multilabel=multilabel, steps=100, weight_decay=1e-3)
    found = logits_of(head, torch.randn(7, 4))
    assert found.isfinite().all()
    assert (found.argmax(dim=1) == 1).all()
