"""Tell a collapsed pretraining, or one that learns nothing, from a healthy one."""

import math
from types import SimpleNamespace

import pytest
import torch
from parts import make_ast, make_vcr
from shipped import shipped, shipped_options

from vcrast.evaluation.embedding import Embedded
from vcrast.features.views import build_views
from vcrast.objectives.base import Objective
from vcrast.objectives.masked import Masked
from vcrast.runs.watch import NEIGHBOURS, TEMPERATURE, CollapseWatch, LearningWatch, check_watch, warming_up


class Watched:
    """A fold whose encoder gives these embeddings, and whose last logged projections had this std."""

    def __init__(self, embeddings, std):
        self.train = SimpleNamespace(first=lambda count: embeddings[:count])
        self.log = SimpleNamespace(log=lambda *_: None, last=lambda *_: {"loss": 1.0, "std": std})
        self.config = SimpleNamespace(pretrain=SimpleNamespace(batch_size=16))
        self.said, self.fold = [], "1"
        self.summary = SimpleNamespace(warn=self.said.append)

    def embedder(self, _):
        return SimpleNamespace(
            fresh=lambda _, clips: Embedded(clips, torch.zeros(len(clips), 0), torch.arange(len(clips)))
        )

    def warning(self, objective, num_clips):
        CollapseWatch(self, objective, num_clips=num_clips).measure(9)
        return " ".join(self.said)


@pytest.fixture
def objective():
    views = build_views(shipped("views/none"), fbank=SimpleNamespace(sample_rate=16000))
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
    views = build_views(shipped("views/none"), fbank=SimpleNamespace(sample_rate=16000))
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


class Learning:
    """A fold whose embeddings at each measurement are given; half of its clips are of each class."""

    def __init__(self, *measured, name=""):
        clips = [SimpleNamespace(path=f"{number}{name}") for number in range(32)]
        dataset = SimpleNamespace(clips=clips)
        self.train = SimpleNamespace(first=lambda _: clips, sample=lambda *_, **__: Counted(dataset))
        self.config = SimpleNamespace(pretrain=SimpleNamespace(batch_size=16))
        self.summary = SimpleNamespace(warn=lambda text: self.said.append(text), content={"warnings": []})
        self.said = self.summary.content["warnings"]
        self.written, self.measured, self.fold, self.multilabel = [], iter(measured), "1", False
        self.log = SimpleNamespace(
            log=lambda stage, fold, step, values: self.written.append({"stage": stage, "step": step, **values}),
            lines=lambda *_: [*self.written, *({"loss": 9.0 - step, "lr": 0.1} for step in range(4))],
            last=lambda *_: {},
        )

    def seed(self, purpose):
        return len(purpose)

    def embedder(self, _):
        label = torch.eye(2)[torch.arange(32) % 2]
        return SimpleNamespace(fresh=lambda *_: Embedded(next(self.measured), label, torch.arange(32)))


class Counted:
    def __init__(self, dataset):
        self.clips = dataset.clips

    def __len__(self):
        return len(self.clips)


def telling(by, seed=0):
    """Embeddings (32, 8) whose two classes lie `by` apart."""
    noise = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
    return noise + by * torch.eye(8)[torch.arange(32) % 2]


def watch_over(job, num_steps=100):
    return LearningWatch(job, plain(can_collapse=False), num_clips=32, num_steps=num_steps)


def test_who_learns_nothing_is_told_once_after_a_fifth_of_the_steps():
    job = Learning(telling(0), telling(0, 1), telling(0, 2), telling(0, 3))
    watch = watch_over(job)
    watch.begin(0)
    assert job.written[0]["step"] == 0
    watch.measure(10)
    assert job.said == []
    watch.measure(20)
    watch.measure(30)
    [said] = job.said
    assert said.startswith("fold 1: pretraining learns nothing that tells classes apart, by step 20 of 100 (knn_acc")
    assert " before the first step): the loss falls as it should" in said
    assert set(watch.results()) == {"embedding_std", "effective_rank", "knn_accuracy", "start_knn_accuracy"}


def test_who_learns_is_told_nothing_and_neither_is_who_still_warms_up(monkeypatch):
    job = Learning(telling(0), telling(6))
    watch = watch_over(job)
    watch.begin(0)
    watch.measure(50)
    assert watch.last["knn_accuracy"] > 0.9
    assert job.said == []
    monkeypatch.setattr("vcrast.runs.watch.warming_up", lambda _: True)
    job = Learning(telling(0), telling(0, 1), telling(0, 2))
    watch = watch_over(job)
    watch.begin(0)
    watch.measure(50)
    assert job.said == []
    watch.measure(100)  # the last step
    assert len(job.said) == 1


def test_the_rate_of_a_warm_up_rises():
    assert warming_up([{"lr": 0.1}, {"lr": 0.2}])
    assert not warming_up([{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.2}])
    assert warming_up([{"lr": 0.1}])


def test_a_resumed_run_knows_its_start_and_clips_of_one_file_are_no_neighbours():
    job = Learning(telling(0))
    job.written = [{"stage": "pretrain", "step": 0, "knn_accuracy": 0.25}]
    watch = watch_over(job)
    watch.begin(7)
    assert watch.start["knn_accuracy"] == 0.25
    assert len(job.written) == 1
    watch.recording.zero_()
    watch.measure(50)
    assert math.isnan(watch.last["knn_accuracy"])
    assert job.said == []


def test_wrong_settings_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"pretrain\.watch=kn: did you mean knn\?"):
        check_watch("kn", None)
    unlabelled = SimpleNamespace(name="manifest", classes=())
    with pytest.raises(ValueError, match=r"pretrain\.watch=knn: needs labels, which data=manifest does not have"):
        check_watch("knn", unlabelled)
    check_watch("none", unlabelled)
    job = Learning()
    job.train.sample = lambda *_, **__: Counted(SimpleNamespace(clips=[]))
    with pytest.raises(ValueError, match="0 labelled training clips of fold 1 are watched, two are needed"):
        watch_over(job)


def test_the_neighbours_are_those_of_the_evaluation():
    own = shipped_options("evaluation/knn")["knn"]
    assert (own["k"], own["temperature"]) == (NEIGHBOURS, TEMPERATURE)
