import math

import pytest
import torch
from parts import make_batch, make_supervised, make_task

from vcrast.features.mixup import mixup


def make(make_encoder, plain_views, *, num_classes=3, multilabel=False, **options):
    task = make_task(num_classes, multilabel=multilabel, num_frames=8, num_mel_bins=8)
    return make_supervised(make_encoder(), plain_views(), task, **options)


class Fixed(torch.nn.Module):
    """A head that answers with given logits."""

    def __init__(self, logits):
        super().__init__()
        self.answer = torch.tensor(logits)

    def forward(self, vectors):
        return self.answer


def loss_of(objective, logits, labels):
    objective.head = Fixed(logits)
    outputs = {"logits": objective.logits(torch.zeros(len(labels), 16)), "target": torch.tensor(labels)}
    return objective.clip_losses(outputs)["loss"].item()


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
    wavs, labels, draws = torch.randn(5, 64), torch.eye(3)[[0, 1, 2, 0, 1]], make_draws(5)
    inputs = objective.prepare(make_batch(wavs, labels), draws)
    outputs = objective.represent({name: value[1:4] for name, value in inputs.items()})
    vectors = objective.encoder(objective.views.make(wavs, draws, "a")).values[1:4].mean(dim=1)
    torch.testing.assert_close(outputs["logits"], objective.head(vectors))
    assert torch.equal(outputs["target"], labels[1:4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective.represent(inputs)["logits"].dtype == torch.float32


def test_labels_are_mixed_as_the_waveforms_and_boxes_are(make_encoder, plain_views, make_draws):
    objective = make(make_encoder, plain_views, mixup_probability=0.5, cutmix_probability=0.5)
    wavs, labels, draws = torch.randn(8, 64), torch.eye(8)[:, :3], make_draws(8)
    inputs = objective.prepare(make_batch(wavs, labels), draws)
    mixed, wanted = mixup(wavs, labels, draws, probability=0.5, alpha=10.0, mix_by="clip")
    torch.testing.assert_close(inputs["target"], objective.cutmix.labels(wanted, draws))
    torch.testing.assert_close(inputs["a"], objective.cutmix.fbank(objective.views.make(mixed, draws, "a"), draws))
    assert not torch.equal(inputs["target"], labels)


def test_mistakes_are_named(make_encoder, plain_views):
    with pytest.raises(ValueError, match=r"label_smoothing=1\.0"):
        make(make_encoder, plain_views, label_smoothing=1.0)
    with pytest.raises(ValueError, match="names no classes"):
        make(make_encoder, plain_views, num_classes=0)
    with pytest.raises(ValueError, match="mixup_probability=2"):
        make(make_encoder, plain_views, mixup_probability=2.0)
