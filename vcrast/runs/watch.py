"""Watch a pretraining: do embeddings collapse, does it learn to tell classes apart."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vcrast.config.metric import Metric
from vcrast.config.words import suggest
from vcrast.data.corpus import Corpus
from vcrast.evaluation.base import probe_values
from vcrast.evaluation.embedding import Embedded
from vcrast.evaluation.knn import knn_among
from vcrast.evaluation.metrics import effective_rank, embedding_std
from vcrast.objectives.base import Objective
from vcrast.runs.job import Job
from vcrast.runs.reasons import Numbers, reasons
from vcrast.training.dist import broadcast_object, is_rank_zero

log = logging.getLogger(__name__)

WATCHES = ("none", "knn")
TELLING = 16  # clips: the rank of fewer says little of an encoder
NEIGHBOURS, TEMPERATURE = 10, 0.07  # as evaluation=[knn] has them; not its settings, so that curves of runs compare
ON_A_LINE = 2.0
JUDGED_FROM = 0.2  # of the steps: a run that has learnt nothing by then is told
COLLAPSE = {
    "embedding_std": Metric("Embedding std", "fixed"),
    "effective_rank": Metric("Effective rank", better="higher"),
}
AMONG = "kNN among training clips"
LEARNING = {
    "knn_accuracy": Metric(f"Accuracy, {AMONG}", "percent", "higher"),
    "knn_mAP": Metric(f"mAP, {AMONG}", "fixed", "higher"),
    "start_knn_accuracy": Metric(f"Accuracy, {AMONG}, at step 0", "percent"),
    "start_knn_mAP": Metric(f"mAP, {AMONG}, at step 0", "fixed"),
}


def check_watch(watch: str, corpus: Corpus | None) -> None:
    """Refuse a `pretrain.watch` that there is not, or that this data cannot have; None: the data is elsewhere.

    Raises:
        ValueError: names the setting and what to do.
    """
    if watch not in WATCHES:
        raise ValueError(f"pretrain.watch={watch}: {suggest(watch, WATCHES)}")
    if watch == "knn" and corpus is not None and not corpus.classes:
        raise ValueError(
            f"pretrain.watch=knn: needs labels, which data={corpus.name} does not have; give them (of a manifest: "
            "data.label=COLUMN), or set pretrain.watch=none"
        )


def build_watch(job: Job, objective: Objective, *, num_steps: int) -> CollapseWatch:
    """What `pretrain.watch` names; errors as in `LearningWatch`."""
    num_clips = job.config.pretrain.watch_clips
    if job.config.pretrain.watch == "knn":
        return LearningWatch(job, objective, num_clips=num_clips, num_steps=num_steps)
    return CollapseWatch(job, objective, num_clips=num_clips)


class CollapseWatch:
    """Embedding std and effective rank on fixed training clips, and what the objective itself sees of a collapse.

    Attributes:
        clips: those watched.
        numbers: how its numbers are shown.
        last: those of the last measurement.
    """

    numbers: Mapping[str, Metric] = COLLAPSE

    def __init__(self, job: Job, objective: Objective, *, num_clips: int) -> None:
        self.job, self.objective = job, objective
        self.clips = job.train.first(num_clips)
        self.last: dict[str, float] = {}

    def begin(self, first: int) -> None:
        """Do what comes before step `first` of this process; with gathered weights."""

    def measure(self, step: int) -> None:
        """Measure, log, and warn when the embeddings have collapsed; with gathered weights."""
        embedded = self._embed()
        self.last = self.values(embedded)
        self.job.log.log("pretrain", self.job.fold, step, dict(self.last))
        if seen := self.collapse(embedded):
            text = f"fold {self.job.fold}, step {step}: the representations collapse ({seen}); {self.objective.remedy}"
            self._warn(text)

    def values(self, embedded: Embedded) -> dict[str, float]:
        """The numbers of embeddings of the watched clips."""
        embeddings = embedded.embedding
        std = float(embedding_std(embeddings)) if len(embeddings) > 1 else math.nan
        return {"embedding_std": std, "effective_rank": float(effective_rank(embeddings))}

    def collapse(self, embedded: Embedded) -> str | None:
        """What shows that they have collapsed; None where nothing does."""
        return self.objective.collapsed(
            self.job.log.last("pretrain", self.job.fold), self.job.config.pretrain.batch_size
        ) or alike(
            self.last["effective_rank"], self.last["embedding_std"], embedded.embedding.shape,
            by_rank=self.objective.can_collapse,
        )  # fmt: skip

    def results(self) -> dict[str, float]:
        """What the stage reports; on the first process."""
        return self.last

    def _embed(self) -> Embedded:
        return self.job.embedder("centre").fresh(self.objective.encoder, self.clips)

    def _warn(self, text: str) -> None:
        log.warning("%s", text)
        self.job.summary.warn(text)


class LearningWatch(CollapseWatch):
    """The same, and nearest neighbours: does what is learnt tell the classes apart, better than before the first step.

    Labelled training clips of the fold, drawn once, are classified by the others of them, those of a clip's own file
    left out. No test clip is looked at, and no step changes by it.

    Args:
        job: the fold.
        objective: what is trained.
        num_clips: how many clips, or all with labels if there are fewer.
        num_steps: of the stage.

    Raises:
        ValueError: fewer than two training clips with labels.
    """

    numbers: Mapping[str, Metric] = COLLAPSE | LEARNING

    def __init__(self, job: Job, objective: Objective, *, num_clips: int, num_steps: int) -> None:
        super().__init__(job, objective, num_clips=num_clips)
        self.num_steps = num_steps
        self.clips = job.train.sample(num_clips, job.seed("watched clips"), labelled=True)
        if len(self.clips) < 2:
            raise ValueError(
                f"pretrain.watch=knn: {len(self.clips)} labelled training clips of fold {job.fold} are watched, two "
                "are needed; raise pretrain.watch_clips, or set pretrain.watch=none"
            )
        places = {path: number for number, path in enumerate(dict.fromkeys(clip.path for clip in self.clips.clips))}
        self.recording = torch.tensor([places[clip.path] for clip in self.clips.clips])
        self.name = "knn_mAP" if job.multilabel else "knn_accuracy"
        self.start: Numbers = {}

    def begin(self, first: int) -> None:
        """Measure the encoder that pretraining starts from; a resumed run finds it in `metrics.jsonl`."""
        if first == 0:
            self.start = self.values(self._embed())
            self.job.log.log("pretrain", self.job.fold, 0, dict(self.start))
        else:
            lines = self.job.log.lines("pretrain", self.job.fold)
            self.start = next((line for line in lines if line["step"] == 0), {})
        self.start = broadcast_object(dict(self.start) if is_rank_zero() else {})

    def measure(self, step: int) -> None:
        """See `CollapseWatch`; also warns once where, after a fifth of the steps and the warm-up, nothing is learnt."""
        super().measure(step)
        if is_rank_zero() and step >= JUDGED_FROM * self.num_steps:
            lines = [line for line in self.job.log.lines("pretrain", self.job.fold) if "loss" in line]
            if step == self.num_steps or not warming_up(lines):
                self._judge(step, lines)

    def values(self, embedded: Embedded) -> dict[str, float]:
        """See `CollapseWatch`."""
        found, label, index = embedded
        recording = self.recording[index]
        value = math.nan
        if len(recording.unique()) > 1:
            score = knn_among(found, label, recording, k=NEIGHBOURS, temperature=TEMPERATURE)
            value = next(iter(probe_values("knn", score, label, multilabel=self.job.multilabel).values()))
        return {**super().values(embedded), self.name: value}

    def results(self) -> dict[str, Any]:
        """See `CollapseWatch`."""
        return {**self.last, **({f"start_{self.name}": self.start[self.name]} if self.start else {})}

    def _judge(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        now, before = self.last[self.name], self.start.get(self.name)
        if before is None or not math.isfinite(now) or now > before + margin(before, len(self.clips)):
            return
        told = f"fold {self.job.fold}: pretraining learns nothing"
        if any(text.startswith(told) for text in self.job.summary.content["warnings"]):
            return
        shown = LEARNING[self.name]
        seen = reasons(
            lines, before=self.start, after=self.last, objective=self.objective,
            batch_size=self.job.config.pretrain.batch_size,
        )  # fmt: skip
        self._warn(
            f"{told} that tells classes apart, by step {step} of {self.num_steps} ({self.name} {shown.text(now)}, "
            f"{shown.text(before)} before the first step): {seen}"
        )


def margin(value: float, num_clips: int) -> float:
    """By how much a share of so many clips may differ by chance: its standard error."""
    return math.sqrt(max(0.0, value * (1 - value)) / num_clips)


def warming_up(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the learning rate still rises at the last of the logged steps, or too few were to tell."""
    rates = [line["lr"] for line in lines[-2:]]
    return len(rates) < 2 or rates[0] < rates[1]


def alike(rank: float, std: float, shape: Sequence[int], *, by_rank: bool) -> str | None:
    """Say that embeddings of this shape (n, D) are all alike, or, `by_rank`, lie on a line; a few clips always do."""
    # An encoder of 192 dimensions that tells ESC-10's classes apart well had 3.7, an untrained one 4.7.
    on_a_line = by_rank and shape[0] >= TELLING and rank < ON_A_LINE
    if std < 1e-3 or on_a_line:
        return f"effective rank {rank:.1f}, std {std:.2g} of the embeddings"
    return None
