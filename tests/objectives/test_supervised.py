import math

import pytest
import torch

from vcrast.objectives.supervised import Supervised


def make(make_encoder, plain_views, **options):
    return Supervised(
        **{"encoder": make_encoder(), "views": plain_views(), "num_classes": 3, "multilabel": False, **options}
    )


class Fixed(torch.nn.Module):
    """A head that answers with given logits."""

    def __init__(self, logits):
        super().__init__()
        self.answer = torch.tensor(logits)

    def forward(self, vectors):
        return self.answer


def loss_of(objective, logits, labels):
    objective.head = Fixed(logits)
    return objective.loss(torch.zeros(1, len(labels), 16), torch.tensor(labels))[0].item()


def test_cross_entropy_by_hand(make_encoder, plain_views):
    logits, labels = [[math.log(2), 0.0, 0.0]], [[0.7, 0.3, 0.0]]  # chances 1/2, 1/4, 1/4; a mixed label
    expected = -(0.7 * math.log(1 / 2) + 0.3 * math.log(1 / 4))
    assert loss_of(make(make_encoder, plain_views), logits, labels) == pytest.approx(expected)


def test_label_smoothing_by_hand(make_encoder, plain_views):
    logits, labels = [[math.log(2), 0.0, 0.0]], [[1.0, 0.0, 0.0]]
    expected = -(0.8 * math.log(1 / 2) + 0.1 * math.log(1 / 4) + 0.1 * math.log(1 / 4))  # 0.3 / 3 to every class
    assert loss_of(make(make_encoder, plain_views, label_smoothing=0.3), logits, labels) == pytest.approx(expected)


def test_binary_cross_entropy_by_hand(make_encoder, plain_views):
    logits, labels = [[math.log(3), 0.0, -math.log(3)]], [[1.0, 1.0, 0.0]]  # chances 3/4, 1/2, 1/4
    expected = -(math.log(3 / 4) + math.log(1 / 2) + math.log(3 / 4)) / 3
    assert loss_of(make(make_encoder, plain_views, multilabel=True), logits, labels) == pytest.approx(expected)


def test_represent_and_logits(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views)
    wavs, draws = torch.randn(5, 64), make_draws(5)
    vectors = objective.represent(objective.prepare(wavs, draws), slice(1, 4))
    expected = objective.encoder(objective.views.make(wavs, draws, "a"))[1:4].mean(dim=1)
    torch.testing.assert_close(vectors, expected.unsqueeze(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective.logits(vectors).dtype == torch.float32


def test_mistakes_are_named(make_encoder, plain_views):
    with pytest.raises(ValueError, match="needs labelled clips"):
        make(make_encoder, plain_views).loss(torch.zeros(1, 2, 16))
    with pytest.raises(ValueError, match=r"label_smoothing=1\.0"):
        make(make_encoder, plain_views, label_smoothing=1.0)
    with pytest.raises(ValueError, match="names no classes"):
        make(make_encoder, plain_views, num_classes=0)
