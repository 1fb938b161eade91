"""Find the classifiers that a verb is given, and score clips with one after the other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.config.schema import DataConfig
    from vcrast.data.clip import Clip
    from vcrast.inference import Model


class Member(NamedTuple):
    """A model with a classifier.

    Attributes:
        word: as it was given.
        folder: of the exported model.
        stage: that was asked for, or `probe` where that is all there is.
        description: its `model.json`.
    """

    word: str
    folder: Path
    stage: str | None
    description: dict[str, Any]

    @property
    def name(self) -> str:
        """The word, and what of it was taken where that does not follow."""
        return self.word if self.stage is None else f"{self.word} ({self.stage})"

    @property
    def meta(self) -> dict[str, Any]:
        """What a loaded model tells of its origin."""
        from vcrast.inference.loading import stage_of

        return {**self.description["meta"], **stage_of(self.folder)}


class Scored(NamedTuple):
    """What members said of the clips that all of them could read.

    Attributes:
        clips: n of them.
        scores: (n, C) of each member, in the order of the classes of the first.
        faults: reasons of those that were left out.
    """

    clips: list[Clip]
    scores: list[Tensor]
    faults: list[str]


def find_member(word: str, *, fold: str | None, stage: str | None) -> Member:
    """The finetuned model that a word means, or else the probe where there is one.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a model without classifier, or no such fold or stage.
    """
    from vcrast.inference.loading import find_model
    from vcrast.inference.model import NO_CLASSIFIER
    from vcrast.models.export import read_description

    folder = find_model(word, fold=fold, stage=stage)
    description = read_description(folder)
    if description["head"] is None and stage is None:
        try:
            folder = find_model(word, fold=fold, stage="probe")
        except ValueError:  # there is none: the message about the first one helps more
            raise ValueError(NO_CLASSIFIER) from None
        stage, description = "probe", read_description(folder)
        say(f"{word}: the run has not finetuned: its linear probe is scored")
    if description["head"] is None:
        raise ValueError(NO_CLASSIFIER)
    return Member(word, folder, stage, description)


def load_classifier(arguments: argparse.Namespace) -> Model:
    """The model of a verb that takes one; errors as in `find_member` and `vcrast.load`."""
    from vcrast.inference import load

    found = find_member(arguments.model, fold=arguments.fold, stage=arguments.stage)
    return load(found.folder, device=arguments.device)


def check_members(members: Sequence[Member]) -> None:
    """Refuse models whose scores cannot be averaged, and say what a reader should know of those that can.

    Raises:
        ValueError: one is given twice, or has other classes than the first.
    """
    from vcrast.models.averaging import other_classes

    first = members[0]
    places = [member.folder.resolve() for member in members]
    for member, place in zip(members, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{member.word}: is given twice; each model counts once")
        labels, own = first.description["labels"], member.description["labels"]
        if set(labels) != set(own):
            raise ValueError(f"{member.word}: {other_classes(labels, own)} than {first.word}; no mean of their scores")
        if first.description["multilabel"] != member.description["multilabel"]:
            kinds = ["any number of labels a clip" if each else "one label a clip" for each in (True, False)]
            kinds = kinds if member.description["multilabel"] else kinds[::-1]
            raise ValueError(f"{member.word}: was trained for {kinds[0]}, {first.word} for {kinds[1]}")
    folds = dict.fromkeys(str(member.meta["fold"]) for member in members if "fold" in member.meta)
    if len(folds) > 1:
        say(f"models of folds {', '.join(folds)}: score them on clips that none of them was trained on")


def mean_name(members: Sequence[Member]) -> str:
    """How the scores of several members become one."""
    several = members[0].description["multilabel"]
    return "mean of sigmoid scores" if several else "mean of softmax probabilities"


def score_all(
    members: Sequence[Member], clips: Sequence[Clip], data: DataConfig, *, device: str, batch_size: int
) -> Scored:
    """Score clips with each member, its front end and length, one in memory at a time; errors as in `scores`."""
    from vcrast.inference import load

    classes = members[0].description["labels"]
    read, faults, found = list(clips), list[str](), list["Tensor"]()
    for member in members[1:]:
        load(member.folder)  # damaged ones are found before the first has scored for an hour
    for member in members:
        if len(members) > 1:
            say(f"scoring {len(read)} clips with {member.name}")
        some, score, more = scores(load(member.folder, device=device), read, data, classes, batch_size=batch_size)
        good = {id(clip) for clip in some}
        rows = [number for number, clip in enumerate(read) if id(clip) in good]
        found = [*(each[rows] for each in found), score]
        read, faults = some, [*faults, *more]
    return Scored(read, found, faults)


def mean_of(scores: Sequence[Tensor]) -> Tensor:
    """The mean of members' scores, (n, C) each, in float64 and then float32; of one they are as they were."""
    import torch

    return scores[0] if len(scores) == 1 else torch.stack(list(scores)).double().mean(dim=0).float()


def scores(
    model: Model, clips: Sequence[Clip], data: DataConfig, classes: Sequence[str], *, batch_size: int
) -> tuple[list[Clip], Tensor, list[str]]:
    """Those of the clips that can be read, their probabilities (n, C) in the order of `classes`, and others' faults.

    Raises:
        ValueError: more faults than `data.max_bad_fraction` allows.
    """
    import torch

    from vcrast.data.preflight import allowed_faults, fault_list

    places = {name: number for number, name in enumerate(classes)}
    read: list[Clip] = []
    faults: list[str] = []
    rows: list[Tensor] = []
    for some, wavs in batches(model, clips, faults, batch_size=batch_size, keep_silent=data.keep_silent):
        for named in model.predict(wavs, model.sample_rate, batch_size=batch_size):
            row = torch.empty(len(places))
            row[[places[name] for name in named]] = torch.tensor(list(named.values()))
            rows.append(row)
        read += some
    for fault in faults:
        say(f"left out: {fault}")
    if len(faults) > allowed_faults(len(clips), data.max_bad_fraction) or not rows:
        raise ValueError(
            f"{len(faults)} of {len(clips)} clips cannot be used, more than "
            f"data.max_bad_fraction={data.max_bad_fraction:g} allows{fault_list(faults)}"
        )
    return read, torch.stack(rows), faults


def batches(
    model: Model, clips: Sequence[Clip], faults: list[str], *, batch_size: int, keep_silent: bool
) -> Iterator[tuple[list[Clip], list[Tensor]]]:
    """Readable clips with their samples, about `batch_size` windows at a time; the reasons of others go to `faults`."""
    import torch

    from vcrast.data.audio import AudioFault, read_wav

    some: list[Clip] = []
    wavs: list[Tensor] = []
    for clip in clips:
        try:
            wav = read_wav(
                clip.path, sample_rate=model.sample_rate, start_s=clip.start_s, duration_s=clip.duration_s,
                keep_silent=keep_silent, time_expansion=clip.time_expansion,
            )  # fmt: skip
        except AudioFault as fault:
            faults.append(f"{clip.where}: {fault.reason}")
            continue
        some.append(clip)
        wavs.append(torch.from_numpy(wav))
        if sum(max(len(each), model.num_samples) for each in wavs) >= batch_size * model.num_samples:
            yield some, wavs
            some, wavs = [], []
    if some:
        yield some, wavs


def say(text: str) -> None:
    """A note, beside the results."""
    print(f"note: {text}", file=sys.stderr)
