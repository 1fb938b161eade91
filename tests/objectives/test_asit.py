"""Check ASiT's losses, centre and teacher by hand, and its step under every cut."""

import copy
import math

import pytest
import torch
from parts import make_asit, make_ast, make_batch, make_engine, make_htsat
from ranks import in_ranks
from shipped import shipped
from torch import nn

from vcrast.features.draws import Draws
from vcrast.features.fbank import Fbank
from vcrast.features.views import Views
from vcrast.objectives.asit import Head
from vcrast.training.dist import rank_slice
from vcrast.training.exact import Split, exact_backward

BATCH = 8


class InDouble(Views):
    """Hands the encoder its views in float64; the filterbank itself always computes in fp32."""

    def make(self, wavs, draws, view):
        return super().make(wavs, draws, view).double()


def make(*, drop_path=0.3, class_tokens=1, views=None, **options):
    torch.manual_seed(0)
    encoder = make_ast(class_tokens=class_tokens, pool="class" if class_tokens else "mean", drop_path=drop_path)
    fbank = Fbank(**shipped("features/fbank", sample_rate=16000, num_mel_bins=16, mean=-4.0, std=4.0))
    own = InDouble(fbank, **shipped("views/crops", **{"crop": 0.7, **(views or {})}))
    objective = make_asit(encoder, own, **options).double()
    for name, weight in objective.named_parameters():
        if weight.ndim > 1 and weight.requires_grad and "patch_embed" not in name:
            nn.init.normal_(weight, std=0.3)
    return objective


def wavs(count=BATCH):
    return torch.randn(count, 3000, generator=torch.Generator().manual_seed(1)) * 0.1


def step(objective, size=None, *, mine=range(BATCH), number=3):
    """Gradients, loss and parts of a step, and the objective after it."""
    objective = copy.deepcopy(objective).train()
    engine = make_engine(objective)
    draws = Draws(5, number, BATCH, start=mine.start, stop=mine.stop)
    outcome = exact_backward(engine, objective, make_batch(wavs()[mine.start : mine.stop]), draws, Split(size))
    gradients = {name: weight.grad for name, weight in objective.named_parameters() if weight.requires_grad}
    objective.after_step(0.4, torch.tensor(False))
    state = {name: value for name, value in objective.state_dict().items() if "centre" in name or "teacher" in name}
    return gradients, outcome.loss, dict(outcome.parts), state


def test_losses_by_loops():
    objective = make(reconstruction_weight=0.0)
    objective.clip_centre.normal_()
    objective.token_centre.normal_()
    objective.temperature.fill_(0.06)
    draws = torch.Generator().manual_seed(3)
    shapes = {
        "student_clip": (3, 2, 7),
        "teacher_clip": (3, 2, 7),
        "student_token": (3, 2, 4, 5),
        "teacher_token": (3, 2, 4, 5),
    }
    outputs = {name: torch.rand(shape, generator=draws, dtype=torch.float64) for name, shape in shapes.items()}
    error = torch.rand(3, 2, generator=draws, dtype=torch.float64)
    objective.reconstruction_weight = 2.0
    leaves = [value.requires_grad_() for name, value in outputs.items() if "student" in name]
    found = objective.clip_losses({**outputs, "error": error})

    def chances(values, temperature):
        powers = [math.exp(value / temperature) for value in values]
        return [power / sum(powers) for power in powers]

    def entropy_of(student, teacher, centre):
        target = chances([t - c for t, c in zip(teacher.tolist(), centre.tolist(), strict=True)], 0.06)
        guess = chances(student.tolist(), 0.1)
        return -sum(t * math.log(g) for t, g in zip(target, guess, strict=True))

    for clip in range(3):
        across = [
            entropy_of(
                outputs["student_clip"][clip, crop], outputs["teacher_clip"][clip, 1 - crop], objective.clip_centre
            )
            for crop in range(2)
        ]
        within = [
            entropy_of(
                outputs["student_token"][clip, crop, n], outputs["teacher_token"][clip, crop, n], objective.token_centre
            )
            for crop in range(2)
            for n in range(4)
        ]
        assert found["clip"][clip].item() == pytest.approx(sum(across) / 2)
        assert found["token"][clip].item() == pytest.approx(sum(within) / 8)
        assert found["reconstruction"][clip].item() == pytest.approx(error[clip].mean().item())
        total = sum(across) / 2 + sum(within) / 8 + 2 * error[clip].mean().item()
        assert found["loss"][clip].item() == pytest.approx(total)
    gradient = torch.autograd.grad(found["loss"].sum(), leaves)
    student = outputs["student_clip"].detach().div(0.1).softmax(dim=2)
    target = objective.target(outputs["teacher_clip"], objective.clip_centre)
    torch.testing.assert_close(gradient[0], (student - target.flip(1)) / 0.1 / 2)


def test_pixels_are_compared_where_they_were_corrupted():
    objective = make(drop_path=0.0, views={"crop": 1.0})
    clean, hidden = torch.randn(2, 18, 16).double(), torch.rand(2, 18, 16) < 0.4
    tokens = objective.encoder(clean)
    found = objective.pixel_error(tokens, clean, hidden)
    guess = objective.decoder(tokens.values)
    for clip in range(2):
        total, count = 0.0, 0
        for token in range(guess.shape[1]):
            time, frequency = divmod(token, 2)
            for row in range(4):
                for column in range(8):
                    t, f = 4 * time + row, 8 * frequency + column
                    if hidden[clip, t, f]:
                        total += abs((guess[clip, token, 8 * row + column] - clean[clip, t, f]).item())
                        count += 1
        assert found[clip].item() == pytest.approx(total / count)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_every_cut_gives_the_whole_batchs_step(size):
    objective = make()
    for found, expected in zip(step(objective, size), step(objective), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def step_of_part():
    return step(make(), 3, mine=rank_slice(BATCH))


@pytest.mark.slow
def test_two_processes_give_the_whole_batchs_step(tmp_path):
    gradients, loss, parts, state = step(make())
    for found in in_ranks(2, step_of_part, folder=tmp_path):
        torch.testing.assert_close(found[1:], (loss, parts, state), rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found[0], gradients, rtol=1e-9, atol=1e-11)


def test_the_centre_is_the_running_mean_of_the_teachers_outputs():
    objective = make(momentum=0.9, centre_momentum=0.8).train()
    inputs = objective.prepare(make_batch(wavs()), Draws(5, 0, BATCH))
    outputs = objective.represent(inputs)
    objective.clip_losses(outputs)
    weight = {name: value.clone() for name, value in objective.teacher["clip"].network.named_parameters()}
    objective.clip_head.prototypes.data += 1.0
    skipped = copy.deepcopy(objective)
    skipped.after_step(0.5, torch.tensor(True))
    assert skipped.clip_centre.abs().max() == 0
    torch.testing.assert_close(dict(skipped.teacher["clip"].network.named_parameters()), weight)
    objective.after_step(0.5, torch.tensor(False))
    torch.testing.assert_close(objective.clip_centre, 0.2 * outputs["teacher_clip"].mean(dim=(0, 1)))
    torch.testing.assert_close(objective.token_centre, 0.2 * outputs["teacher_token"].mean(dim=(0, 1, 2)))
    moved = objective.teacher["clip"].network.prototypes
    expected = 0.95 * weight["prototypes"] + 0.05 * objective.clip_head.prototypes  # half way from 0.9 to 1
    torch.testing.assert_close(moved, expected)
    assert objective.temperature.item() == pytest.approx(0.07)  # its rise ends after 0.3 of the steps
    objective.prepare(make_batch(wavs()), Draws(5, 1, BATCH))
    assert objective.num_seen == 0


def test_the_teacher_hears_clean_crops_and_the_student_corrupted_ones():
    objective = make()
    inputs = objective.prepare(make_batch(wavs()), Draws(5, 0, BATCH))
    assert inputs["a"].shape == (BATCH, 12, 16)
    assert (inputs["a"] != inputs["a/seen"]).any()
    torch.testing.assert_close(inputs["a"][~inputs["a/hidden"]], inputs["a/seen"][~inputs["a/hidden"]])
    with torch.no_grad():
        before = objective.represent(inputs)
        inputs["a/seen"] = torch.randn_like(inputs["a/seen"])
        after = objective.represent(inputs)
    torch.testing.assert_close(after["teacher_clip"], before["teacher_clip"])
    assert not torch.allclose(after["student_clip"][:, 0], before["student_clip"][:, 0])
    torch.testing.assert_close(after["student_clip"][:, 1], before["student_clip"][:, 1])


def test_without_a_class_token_the_vector_is_the_mean():
    objective = make(class_tokens=0, reconstruction_weight=0.0)
    assert objective.decoder is None
    outputs = objective.represent(objective.prepare(make_batch(wavs()), Draws(5, 0, BATCH)))
    assert outputs["student_clip"].shape == (BATCH, 2, 7)
    assert "error" not in outputs


def test_several_channels_and_a_backbone_without_patches():
    views = make().views
    objective = make_asit(make_ast(num_channels=3), views)
    clean, hidden = torch.randn(2, 3, 18, 16), torch.rand(2, 18, 16) < 0.4
    assert objective.pixel_error(objective.encoder(clean), clean, hidden).shape == (2,)
    with pytest.raises(ValueError, match=r"HTSAT does not tell .* or set objective\.reconstruction_weight=0"):
        make_asit(make_htsat(), views)
    swin = make_asit(make_htsat(), views, reconstruction_weight=0.0).double()
    assert step(swin)[1].isfinite()


def test_head_is_a_cosine_whatever_the_scale():
    head = Head(6, [8, 4], 5).double()
    vectors = torch.randn(3, 2, 6, dtype=torch.float64)
    hidden = head.layers(vectors)
    expected = torch.cosine_similarity(hidden.unsqueeze(-2), head.prototypes, dim=-1)
    torch.testing.assert_close(head(vectors), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": {"patch_drop": 0.5}}, "chooses the hidden patches itself; set views.patch_drop=0"),
        ({"student_temperature": 0.0}, "objective.student_temperature=0.0"),
        ({"teacher_temperature": [0.04]}, "objective.teacher_temperature="),
        ({"momentum": 1.5}, "objective.momentum=1.5"),
        ({"corruption": {"share": [0.5, 0.7]}}, "objective.corruption: align"),
        ({"head_dims": []}, "objective.head_dims="),
        ({"reconstruction_weight": -1.0}, "objective.reconstruction_weight=-1.0"),
        ({"views": {"crop": 0.0}}, "views.crop=0.0: must lie above 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace(".", r"\.")):
        make(**options).prepare(make_batch(wavs()), Draws(5, 0, BATCH))
