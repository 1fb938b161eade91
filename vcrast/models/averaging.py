"""Average exported models of one architecture, front end, classes and fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcrast.config.compose import flatten
from vcrast.models.backbone import build_backbone
from vcrast.models.checkpoint_source import clips_of, owner_facts
from vcrast.models.description import ROUNDING
from vcrast.models.export import read_description, read_weights

Description = Mapping[str, Any]

OF_TRAINING = ("drop_path", "checkpoint")
"""Options of a model that change nothing once it is trained."""
OF_A_FILE = ("format", "vcrast", "weights_sha256")
SHOWN = 3
UNRELATED = 0.5  # cosine of two models' matrices: epochs of a run and runs from one start lie near 1, others near 0


def average(folders: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The uniform mean of the weights of exported models.

    Parameters, and running statistics of BatchNorm, are averaged in float64. Other buffers, such as counters and drawn
    directions, are the last model's, as in PyTorch's AveragedModel.

    Args:
        folders: of two models or more, each with `model.json`.

    Returns:
        The tensors by name, what `write_export` needs to describe them, and what the user must know.

    Raises:
        ValueError: fewer than two, one of them twice, damaged ones, or models that do not go together; says why.

    Source: Izmailov et al. 2018, arXiv:1803.05407; the AST averages epochs 6-25 of the balanced AudioSet.
    """
    descriptions = [read_description(folder) for folder in folders]
    check_alike(folders, descriptions)
    tensors, notes = mean_of(folders, descriptions)
    return tensors, joined(folders, descriptions), [*other_clips(folders), *notes]


def check_alike(folders: Sequence[Path], descriptions: Sequence[Description]) -> None:
    """Refuse models whose mean would be no model.

    Raises:
        ValueError: names two of them and what differs.
    """
    if len(folders) < 2:
        raise ValueError(f"{', '.join(map(str, folders))}: a mean needs two models or more")
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise ValueError(f"{twice}: is given twice")
    for folder, description in zip(folders[1:], descriptions[1:], strict=True):
        found = [
            *differences(descriptions[0], description),
            *other_fold(folders[0], folder, descriptions[0], description),
        ]
        if found:
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise ValueError(f"{folder}: cannot be averaged with {folders[0]}: {'; '.join(found[:SHOWN])}{more}")


def differences(first: Description, other: Description) -> list[str]:
    """What of two models must agree and does not, as clauses on the second one."""
    found = []
    if first["labels"] != other["labels"]:
        found.append(other_classes(first["labels"], other["labels"]))
    if first["multilabel"] != other["multilabel"]:
        found.append(f"multilabel={other['multilabel']}, not {first['multilabel']}")
    if (first["head"] is None) != (other["head"] is None):
        found.append("it has no classifier" if other["head"] is None else "it has a classifier, the first has none")
    elif first["head"] != other["head"]:
        found.append("its classifier has other layers")
    for part, keys in (("model", OF_TRAINING), ("features", ("mean", "std"))):
        ours, theirs = (
            {key: value for key, value in flatten(each[part]) if key not in keys} for each in (first, other)
        )
        found += [
            f"{part}.{key}={theirs.get(key)}, not {ours.get(key)}"
            for key in dict.fromkeys([*ours, *theirs])
            if ours.get(key) != theirs.get(key)
        ]
    found += [
        f"{key}={other[key]}, not {first[key]}"
        for key in ("sample_rate", "clip_duration_s", "pad")
        if first[key] != other[key]
    ]
    if text := other_normalisation(first["features"], other["features"]):
        found.append(text)
    return found


def other_classes(first: Sequence[str], other: Sequence[str]) -> str:
    """How two lists of classes differ."""
    added, absent = ([name for name in some if name not in rest] for some, rest in ((other, first), (first, other)))
    if not added and not absent:
        return "its classes are in another order"
    parts = [f"{what} {', '.join(some[:SHOWN])}" for what, some in (("has", added), ("lacks", absent)) if some]
    return f"it has other classes ({'; '.join(parts)})"


def other_normalisation(first: Description, other: Description) -> str:
    """A clause on the pairs of mean and std if they differ by more than rounding, else ""."""
    pairs: list[tuple[Any, Any]] = [(each.get("mean"), each.get("std")) for each in (first, other)]
    if pairs[0] == pairs[1]:
        return ""
    (mean, std), (other_mean, other_std) = pairs
    if None not in (*pairs[0], *pairs[1]) and max(abs(mean - other_mean), abs(std - other_std)) <= ROUNDING * std:
        return ""
    return f"it was normalised with mean {other_mean} and std {other_std}, not {mean} and {std}"


def other_fold(first: Path, second: Path, one: Description, two: Description) -> list[str]:
    """A clause if the models are of two folds: each has heard test clips of the other, and so would their mean have.

    Pretraining on generated sound alone hears none.
    """
    folds = [each["meta"].get("fold") for each in (one, two)]
    heard = [
        each["head"] is not None or owner_facts(folder, None, None)[1]
        for folder, each in ((first, one), (second, two))
    ]  # fmt: skip
    if None in folds or folds[0] == folds[1] or not any(heard):
        return []
    return [f"it was trained for fold {folds[1]}, not {folds[0]}, and has heard that fold's test clips"]


def other_clips(folders: Sequence[Path]) -> list[str]:
    """Notes on models whose runs split the same fold into other clips, as far as the runs tell."""
    clips = [clips_of(folder) for folder in folders]
    return [
        f"{folder}: its fold has {own['train']} training and {own['test']} test clips, that of {folders[0]} "
        f"{clips[0]['train']} and {clips[0]['test']}, or others; one may have heard test clips of the other"
        for folder, own in zip(folders, clips, strict=True)
        if own and clips[0] and own["digest"] != clips[0]["digest"]
    ]


def mean_of(folders: Sequence[Path], descriptions: Sequence[Description]) -> tuple[dict[str, Tensor], list[str]]:
    """The mean of the tensors of models that are alike, one model at a time in memory; and notes on it."""
    kept, statistics = buffers_of(build_backbone(descriptions[0]["model"]))
    first = read_weights(folders[0], descriptions[0]["weights_sha256"])
    averaged = {name for name, value in first.items() if value.is_floating_point() and name not in kept}
    sums = {name: first[name].double() for name in averaged}
    last, notes, drawn = first, [], set()
    for folder, description in zip(folders[1:], descriptions[1:], strict=True):
        last = read_weights(folder, description["weights_sha256"])
        check_tensors(first, last, folder, folders[0])
        if (cosine := likeness(first, last, averaged - statistics)) < UNRELATED:
            notes.append(
                f"{folder}: its weights have little in common with those of {folders[0]} (cosine {cosine:.2f}); a mean "
                "of models that were not trained from one start is worth little: score them together with "
                "`vcrast evaluate` instead"
            )
        for name in averaged:
            sums[name] += last[name]
        drawn |= {name for name in kept if name in first and not torch.equal(first[name], last[name])}
    if floats := sorted(name for name in drawn if first[name].is_floating_point()):
        more = f" (and {len(floats) - 1} like it)" if len(floats) > 1 else ""
        notes.append(f"{floats[0]}, which no mean can be taken of, is the last model's{more}")
    if averaged & statistics:
        notes.append("running statistics of BatchNorm are the mean of the models', not those of the averaged weights")
    means = {name: (sums[name] / len(folders)).to(value.dtype) for name, value in first.items() if name in averaged}
    return {**last, **means}, notes


def buffers_of(encoder: nn.Module) -> tuple[set[str], set[str]]:
    """Names, as in an export, of the buffers that are not averaged, and of the statistics of BatchNorm, which are."""
    norms = [(name, part) for name, part in encoder.named_modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    statistics = {f"encoder.{name}.running_{end}" for name, _ in norms for end in ("mean", "var")}
    return {f"encoder.{name}" for name, _ in encoder.named_buffers()} - statistics, statistics


def check_tensors(first: Mapping[str, Tensor], other: Mapping[str, Tensor], folder: Path, reference: Path) -> None:
    """Refuse tensors of other names or shapes, which descriptions that agree may still have.

    Raises:
        ValueError: names one.
    """
    for name in sorted(first.keys() | other.keys()):
        shapes = [tuple(each[name].shape) if name in each else "missing" for each in (other, first)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{folder}: cannot be averaged with {reference}: {name} is {shapes[0]}, not {shapes[1]}")


def likeness(first: Mapping[str, Tensor], other: Mapping[str, Tensor], names: set[str]) -> float:
    """The cosine of all matrices of two models, taken as one vector each; 1 where there is none."""
    products = torch.zeros(3, dtype=torch.float64)
    for name in names:
        if first[name].ndim > 1:
            one, two = first[name].double().flatten(), other[name].double().flatten()
            products += torch.stack([one @ two, one @ one, two @ two])
    return float(products[0] / (products[1] * products[2]).sqrt()) if products[1:].all() else 1.0


def joined(folders: Sequence[Path], descriptions: Sequence[Description]) -> dict[str, Any]:
    """The description of a mean: what its models share, and under `averaged` which they are."""
    metas = [each["meta"] for each in descriptions]
    shared = {key: value for key, value in metas[0].items() if all(meta.get(key) == value for meta in metas)}
    members = [
        {"model": str(folder), "weights_sha256": each["weights_sha256"]}
        | {key: value for key, value in each["meta"].items() if key not in shared}
        for folder, each in zip(folders, descriptions, strict=True)
    ]
    own = {key: value for key, value in descriptions[0].items() if key not in OF_A_FILE}
    return {**own, "meta": {**shared, "averaged": members}}
