import math

import pytest
import torch
from parts import make_batch, make_engine, make_supervised, make_task
from torch.nn import functional as F

from vcrast.features.mixup import mixup
from vcrast.models.backbone import Tokens
from vcrast.objectives.base import Task
from vcrast.objectives.class_weights import MAX_RATIO, class_weights
from vcrast.training.exact import Split, exact_backward


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
    outputs = {
        "logits": objective.logits(Tokens(torch.zeros(len(labels), 1, 16), (1, 1))),
        "target": torch.tensor(labels),
    }
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


def test_a_loss_for_each_class_of_clips_with_one_label(make_encoder, plain_views):
    logits, labels = [[math.log(3), 0.0, -math.log(3)]], [[1.0, 0.0, 0.0]]
    expected = -(math.log(3 / 4) + math.log(1 / 2) + math.log(3 / 4)) / 3
    assert loss_of(make(make_encoder, plain_views, loss="binary"), logits, labels) == pytest.approx(expected)
    weighted = make_supervised(make_encoder(), plain_views(), counted(), loss="binary", class_weights="balanced")
    positive, negative = class_weights("balanced", counted(multilabel=True))
    own = positive * torch.tensor([1.0, 0, 0]) + negative * torch.tensor([0.0, 1, 1])
    expected = -(own * torch.tensor([3 / 4, 1 / 2, 3 / 4]).log()).mean().item()
    assert loss_of(weighted, logits, labels) == pytest.approx(expected)
    with pytest.raises(ValueError, match="clips of this dataset may have several labels; set loss=binary"):
        make(make_encoder, plain_views, multilabel=True, loss="cross_entropy")
    with pytest.raises(ValueError, match="loss=focal: choose from auto, binary, cross_entropy"):
        make(make_encoder, plain_views, loss="focal")


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


# --- weights of classes

COUNTS = (70, 20, 10)


def counted(*, multilabel=False, counts=COUNTS, total=100):
    return Task(3, multilabel, 8, 8, ("cat", "dog", "rain"), counts, total)


def test_balanced_weights_by_hand_have_a_mean_of_one_over_the_training_clips():
    positive, _ = class_weights("balanced", counted())
    assert positive.tolist() == pytest.approx([100 / 210, 100 / 60, 100 / 30])
    assert (positive @ torch.tensor(COUNTS, dtype=torch.float32) / 100).item() == pytest.approx(1)
    positive, _ = class_weights("balanced", counted(counts=(80, 20, 0)))  # a class without clips weighs nothing anyway
    assert positive.tolist() == pytest.approx([100 / 160, 100 / 40, 1.0])


def test_balanced_weights_of_several_labels_make_both_sides_of_a_class_alike_up_to_a_limit():
    positive, negative = class_weights("balanced", counted(multilabel=True, counts=(50, 20, 0)))
    assert positive.tolist() == pytest.approx([1, 100 / 40, 1])
    assert negative.tolist() == pytest.approx([1, 100 / 160, 1])
    positive, negative = class_weights("balanced", counted(multilabel=True, counts=(1, 10_000, 5), total=10_000))
    assert (positive / negative).tolist() == pytest.approx([MAX_RATIO, 1, MAX_RATIO])
    assert (positive[0] + 9999 * negative[0]).item() == pytest.approx(10_000)  # the mean over the labels stays 1


def test_weights_by_name_and_mistakes_in_them():
    positive, negative = class_weights({"rain": 2.5}, counted())
    assert (positive.tolist(), negative.tolist()) == ([1, 1, 2.5], [1, 1, 1])
    assert class_weights(None, counted()) is None
    for option, said in (
        ("even", "class_weights=even: choose balanced, null, or a mapping"),
        ({"dogg": 1.0}, "no class 'dogg' in this data; did you mean dog?"),
        ({"dog": -1.0}, r"dog=-1\.0: must be 0 or more"),
        ({"dog": math.inf}, "dog=inf: must be 0 or more, and finite"),
    ):
        with pytest.raises(ValueError, match=said):
            class_weights(option, counted())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_of_hard_and_mixed_labels(make_encoder, plain_views, smoothing):
    objective = make_supervised(
        make_encoder(), plain_views(), counted(), class_weights="balanced", label_smoothing=smoothing
    )
    logits, hard = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    weights = torch.tensor([100 / 210, 100 / 60, 100 / 30])
    own = objective.clip_losses({"logits": logits, "target": F.one_hot(hard, 3).float()})["loss"]
    expected = F.cross_entropy(logits, hard, weight=weights, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(own, expected)
    # PyTorch's own mean divides by the weights in the batch; ours is the mean over clips.
    theirs = F.cross_entropy(logits, hard, weight=weights)
    if not smoothing:
        torch.testing.assert_close(own.sum() / weights[hard].sum(), theirs)
    mixed = torch.tensor([[0.7, 0.3, 0.0]])
    own = objective.clip_losses({"logits": logits[:1], "target": mixed})["loss"].item()
    chances = logits[0].log_softmax(dim=0)
    smooth = mixed[0] * (1 - smoothing) + smoothing / 3
    assert own == pytest.approx(-(smooth * weights * chances).sum().item(), rel=1e-5)


def test_weighted_binary_cross_entropy_by_the_definition(make_encoder, plain_views):
    task = counted(multilabel=True)
    objective = make_supervised(make_encoder(), plain_views(), task, class_weights="balanced")
    logits, target = torch.randn(5, 3), torch.rand(5, 3)
    positive, negative = (torch.tensor(COUNTS) / 100, 1 - torch.tensor(COUNTS) / 100)
    chance = logits.sigmoid()
    each = -(target * chance.log() / (2 * positive) + (1 - target) * (1 - chance).log() / (2 * negative))
    found = objective.clip_losses({"logits": logits, "target": target})["loss"]
    torch.testing.assert_close(found, each.mean(dim=1))


def test_weights_are_no_part_of_a_checkpoint(make_encoder, plain_views):
    plain = make_supervised(make_encoder(), plain_views(), counted())
    weighted = make_supervised(make_encoder(), plain_views(), counted(), class_weights="balanced")
    before = weighted.clip_losses({"logits": torch.ones(2, 3), "target": torch.eye(3)[:2]})["loss"]
    assert weighted.state_dict().keys() == plain.state_dict().keys()
    weighted.load_state_dict(plain.state_dict())
    after = weighted.clip_losses({"logits": torch.ones(2, 3), "target": torch.eye(3)[:2]})["loss"]
    assert torch.equal(before, after), "the weights come from the data, not from the checkpoint"


def step(objective, make_draws, size):
    """Gradients of one step in micro-batches of `size`, and what the engine trains."""
    engine = make_engine(objective)
    batch = make_batch(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), torch.eye(8)[:, :3])
    exact_backward(engine, objective, batch, make_draws(8), Split(size))
    return {name: weight.grad for name, weight in objective.named_parameters()}, engine


def test_any_cut_gives_the_weighted_gradient_of_the_whole_batch(make_encoder, plain_views, make_draws):
    def gradients(size):
        torch.manual_seed(0)
        mixing = {"mixup_probability": 0.5, "class_weights": "balanced"}
        return step(make_supervised(make_encoder(), plain_views(), counted(), **mixing), make_draws, size)[0]

    whole = gradients(None)
    for size in (1, 3):
        torch.testing.assert_close(gradients(size), whole, rtol=1e-4, atol=1e-6)


# --- a frozen encoder


def test_a_frozen_encoder_neither_learns_nor_costs_a_backward(make_encoder, plain_views, make_draws):
    objective = make_supervised(make_encoder(drop_path=0.5), plain_views(), make_task(3, num_frames=8, num_mel_bins=8))
    objective.train()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective.freeze_encoder()
    objective.train()
    assert objective.head.training
    assert not any(part.training for part in objective.encoder.modules())
    batch = make_batch(torch.randn(8, 64), torch.eye(8)[:, :3])
    inputs = objective.prepare(batch, make_draws(8))
    assert "a/noise" not in inputs  # no drop path
    outputs = objective.represent(inputs)
    assert outputs["logits"].requires_grad
    vectors = objective.encoder.pool(objective.encoder(inputs["a"]))
    assert not vectors.requires_grad
    torch.testing.assert_close(outputs["logits"], objective.head(vectors))
    grads, engine = step(objective, make_draws, 3)
    assert {name for name, grad in grads.items() if grad is not None} == {
        name for name, _ in objective.named_parameters() if name.startswith("head.")
    }
    engine.step(0.1)
    after = objective.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert moved == {name for name in before if name.startswith("head.")}
