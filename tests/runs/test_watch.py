"""Tell a collapsed pretraining from a healthy one, however few clips are watched."""

from types import SimpleNamespace

import pytest
import torch
from parts import make_ast, make_vcr

from vcrast.objectives.base import Objective
from vcrast.objectives.masked import Masked
from vcrast.runs.watch import CollapseWatch


class Watched:
    """A fold whose encoder gives these embeddings, and whose last logged projections had this std."""

    def __init__(self, embeddings, std):
        self.train = SimpleNamespace(first=lambda count: embeddings[:count])
        self.log = SimpleNamespace(log=lambda *_: None, last=lambda *_: {"loss": 1.0, "std": std})
        self.config = SimpleNamespace(pretrain=SimpleNamespace(batch_size=16))
        self.said, self.fold = [], "1"
        self.summary = SimpleNamespace(warn=self.said.append)

    def embedder(self, _):
        return SimpleNamespace(fresh=lambda _, clips: SimpleNamespace(embedding=clips))

    def warning(self, objective, num_clips):
        CollapseWatch(self, objective, num_clips=num_clips).measure(9)
        return " ".join(self.said)


@pytest.fixture
def objective():
    views = SimpleNamespace(patch_drop=0.0, patch_drop_mode="drop")
    return make_vcr(make_ast(), views, dims=(32, 32, 32))


def plain(**options):
    """An objective that sees no collapse by itself."""
    return SimpleNamespace(
        encoder=None, remedy="", collapsed=lambda *_: Objective.collapsed(None, {}, 16), **options
    )  # fmt: skip


def few_kinds(num_clips=64, dims=32):
    """Embeddings of three kinds of sound around a common mean, as toy runs have them, collapsed or not: rank 3.2."""
    kinds = torch.randn(3, dims)[torch.arange(num_clips) % 3]
    return 1.0 + 0.35 * kinds + 0.02 * torch.randn(num_clips, dims)


@pytest.mark.parametrize("num_clips", [1, 2, 3, 8, 16, 48, 64])
def test_the_projections_tell_collapse_at_any_number_of_watched_clips(objective, num_clips):
    assert Watched(few_kinds(), 0.47).warning(objective, num_clips) == ""
    said = Watched(few_kinds(), 0.017).warning(objective, num_clips)
    assert "collapse (the projections' std is 0.017, where 1 can be reached)" in said


def test_a_low_std_is_healthy_where_the_batch_allows_no_more():
    views = SimpleNamespace(patch_drop=0.0, patch_drop_mode="drop")
    wide = make_vcr(make_ast(), views, dims=(8, 8, 4096))
    assert wide.collapsed({"std": 0.09}, 12) is None
    assert wide.collapsed({"std": 0.012}, 12) == "the projections' std is 0.012, where 0.2 can be reached"
    assert wide.collapsed({}, 12) is None


@pytest.mark.parametrize("num_clips", [2, 16, 64])
def test_embeddings_that_are_all_alike_are_collapse_whatever_the_objective(num_clips):
    alike = torch.ones(64, 32) + 1e-5 * torch.randn(64, 32)
    assert "of the embeddings" in Watched(alike, None).warning(plain(can_collapse=True), num_clips)
    assert "of the embeddings" in Watched(alike, None).warning(plain(can_collapse=False), num_clips)


def test_embeddings_on_a_line_are_collapse_where_enough_clips_are_watched(objective):
    line = torch.randn(64, 1) * torch.randn(32)
    assert "effective rank 1.0" in Watched(line, 0.5).warning(objective, 16)
    assert Watched(line, 0.5).warning(objective, 2) == ""


def test_few_directions_are_no_alarm_where_the_loss_cannot_be_low_without_telling_clips_apart():
    line = torch.randn(64, 1) * torch.randn(32)
    assert "effective rank 1.0" in Watched(line, None).warning(plain(can_collapse=True), 16)
    assert Watched(line, None).warning(plain(can_collapse=Masked.can_collapse), 16) == ""
