"""Compare the model that weights come from with the one that a run builds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from yaml import YAMLError  # type: ignore[import-untyped]

from vcrast.config.files import option_files

Options = Mapping[str, Any]

SIZES = ("name", "embed_dim", "depth", "depths", "num_heads", "mlp_ratio")
"""What a file of `configs/model` decides, and what tells one such model from another."""
ELSEWHERE = (
    "readout", "positions", "positions_stride", "norms", "class_tokens", "patch_size", "linear", "attention", "module",
    "checkpoint", "drop_path", "patch_stride", "num_frames", "num_mel_bins", "num_channels",
)  # fmt: skip
"""Options of a model that are compared in their own words, or may differ."""
WORDS = {
    "embed_dim": "{} wide", "depth": "{} blocks", "depths": "{} blocks", "num_heads": "{} heads",
    "mlp_ratio": "MLPs {} times as wide",
}  # fmt: skip
ROUNDING = 0.01
"""Pairs of mean and std that differ by less than this share of the std are one: folds of a dataset differ so."""


class Difference(NamedTuple):
    """What differs, as a clause of a message, and the settings that would make it equal; "" for none."""

    text: str
    setting: str


def model_differences(theirs: Options, own: Options) -> list[Difference]:
    """Differences that make weights useless, or mean something else, in this run's encoder.

    Args:
        theirs: options of the model that the weights are of.
        own: of the encoder to fill. An option that one of them lacks is not compared.
    """
    shared = [key for key in SIZES if key in theirs and key in own]
    found = []
    if differing := [key for key in shared if theirs[key] != own[key]]:
        named, here = option_with(theirs), option_with(own)
        values = " ".join(f"model.{key}={theirs[key]}".replace(" ", "") for key in differing)  # lists, as typed
        settings = f"model={named}" if named else values
        text = f"weights are of {worded(theirs, differing, named)}, this run builds {worded(own, differing, here)}"
        found.append(Difference(text, settings))
    if (pair := both(theirs, own, "patch_size")) and list(pair[0]) != list(pair[1]):
        size = "[" + ",".join(map(str, pair[0])) + "]"
        found.append(Difference(f"patches of {size}, here {list(pair[1])}", f"model.patch_size={size}"))
    if (pair := both(theirs, own, "class_tokens")) and pair[0] != pair[1]:
        text = f"{pair[0]} class tokens, here {pair[1]}"
        found.append(Difference(text, f"model.class_tokens={pair[0]}"))
    if both(theirs, own, "positions") == ("sincos", "learned"):
        found.append(Difference("no learned positions", "model.positions=sincos"))
    if both(theirs, own, "positions") == ("learned", "learned"):
        found += stride_differences(theirs, own)
    if (pair := both(theirs, own, "norms")) and pair[0] != pair[1]:
        found.append(Difference(f"norms={pair[0]}, here {pair[1]}", f"model.norms={pair[0]}"))
    if pair := both(theirs, own, "linear"):
        found += linear_differences(*pair)
    return found


def stride_differences(theirs: Options, own: Options) -> list[Difference]:
    """Learned positions that were made for patches at other distances; None stands for patches that touch."""
    pair = both(theirs, own, "positions_stride")
    if pair is None or "patch_size" not in theirs or "patch_size" not in own:
        return []
    given, here = (list(stride or side["patch_size"]) for stride, side in zip(pair, (theirs, own), strict=True))
    if given == here:
        return []
    size = "[" + ",".join(map(str, given)) + "]"
    return [Difference(f"positions of patches every {size}, here {here}", f"model.positions_stride={size}")]


def linear_differences(theirs: Options, own: Options) -> list[Difference]:
    """Another kind of linear layer, or another option of it than how it begins."""
    if theirs.get("name") != own.get("name"):
        return [Difference(f"linear={theirs.get('name')}, here {own.get('name')}", f"linear={theirs.get('name')}")]
    return [
        Difference(f"linear.{key}={theirs[key]}, here {own[key]}", f"linear.{key}={theirs[key]}")
        for key in theirs
        if key in own and key not in ("module", "init") and theirs[key] != own[key]
    ]


def other_options(theirs: Options, own: Options) -> list[str]:
    """Clauses on options of a model that neither fit nor prevent loading, such as a user's own."""
    keys = [key for key in theirs if key in own and key not in (*SIZES, *ELSEWHERE) and theirs[key] != own[key]]
    return [f"it was made with model.{key}={theirs[key]}, this run has {own[key]}" for key in keys]


def front_end_differences(theirs: Options, own: Options) -> list[Difference]:
    """Differences of two front ends that change what a token stands for; mean and std do not.

    Args:
        theirs: keywords of `Fbank`, as `model.json` has them.
        own: likewise, of this run.
    """
    found = []
    for key in theirs:
        if key in ("mean", "std", "module") or key not in own:
            continue
        same = theirs[key] == own[key]
        if key == "high_freq_hz":
            same = top_hz(theirs) == top_hz(own) or (theirs[key] == own[key] and theirs[key] <= 0)
        if not same:
            place = {"sample_rate": "data.sample_rate", "name": "features"}.get(key, f"features.{key}")
            found.append(Difference(f"{place}={theirs[key]}, here {own[key]}", f"{place}={theirs[key]}"))
    return found


def top_hz(features: Options) -> float:
    """Upper edge of the last filter: 0 and less count from half the rate."""
    edge = float(features["high_freq_hz"])
    return edge if edge > 0 else features["sample_rate"] / 2 + edge


def other_normalisation(theirs: Options, own: Options) -> str:
    """A clause on the pairs of mean and std if they differ by more than rounding, else ""."""
    if any(features.get(key) is None for features in (theirs, own) for key in ("mean", "std")):
        return ""
    mean, std, own_mean, own_std = theirs["mean"], theirs["std"], own["mean"], own["std"]
    if max(abs(mean - own_mean), abs(std - own_std)) <= ROUNDING * std:
        return ""
    return (
        f"learnt from filterbanks normalised with mean {mean:.6g} and std {std:.6g}, this run's have its own data's "
        f"{own_mean:.6g} and {own_std:.6g}, as the AST does; data.mean={mean} data.std={std} would keep the old pair"
    )


def tensor_sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The options of an AST that the shapes of its tensors tell; none if they are not an AST's."""
    kernel, hidden = weights.get("patch_embed.proj.weight"), weights.get("blocks.0.fc1.weight")
    if kernel is None or hidden is None or kernel.ndim != 4 or hidden.ndim != 2 or hidden.shape[1] != kernel.shape[0]:
        return {}
    blocks = {match[1] for name in weights if (match := re.match(r"blocks\.(\d+)\.", name))}
    return {
        "embed_dim": kernel.shape[0],
        "depth": len(blocks),
        "mlp_ratio": hidden.shape[0] / hidden.shape[1],
        "patch_size": list(kernel.shape[2:]),
        "positions": "learned" if {"pos_embed.table", "pos_embed"} & set(weights) else "sincos",
        "class_tokens": len(weights.get("class_token", ())),
        "linear": {"name": "real"},
    }


def option_with(options: Options) -> str:
    """The file of `configs/model` that builds such a model, "" for none."""
    given, files = [key for key in SIZES if key in options], option_files("model")
    for name in files:
        found = read_sizes(name, files)
        if len(given) > 1 and all(found.get(key) == options[key] for key in given):
            return name
    return ""


def read_sizes(name: str, files: Mapping[str, Path]) -> Options:
    """A file of `configs/model` over those that it inherits; Hydra would take a second for it."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(files[name]), resolve=False)
    except (KeyError, OSError, YAMLError, OmegaConfBaseException):  # a user's own, which is being written
        return {}
    own = content if isinstance(content, dict) else {}
    inherited = [base for base in own.get("defaults", []) if isinstance(base, str) and base not in ("_self_", name)]
    return {**{key: value for base in inherited for key, value in read_sizes(base, files).items()}, **own}


def worded(options: Options, differing: list[str], name: str) -> str:
    """A model in words: `model=tiny (192 wide, 12 blocks, 3 heads)`."""
    told = [key for key in WORDS if key in options and (key != "mlp_ratio" or key in differing)]
    sizes = ", ".join(WORDS[key].format(options[key]) for key in told)
    kind = f"model={name}" if name else f"a model of name={options['name']}" if "name" in differing else "a model"
    return f"{kind} ({sizes})"


def both(theirs: Options, own: Options, key: str) -> tuple[Any, Any] | None:
    """An option of either, None if one lacks it."""
    return (theirs[key], own[key]) if key in theirs and key in own else None
