"""Compose a run's settings from `configs/` and the command line; explain mistakes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vcrast.config import own_source  # noqa: F401 Hydra finds it by its scheme
from vcrast.config.files import config_dir, options, search_path
from vcrast.config.quoting import as_list, for_hydra, literal
from vcrast.config.schema import Config, keys
from vcrast.config.words import suggest

PRIMARY = "run"


def compose(overrides: Sequence[str] = ()) -> Config:
    """The checked settings of a run.

    Args:
        overrides: `group=option` and `key=value`, as on the command line; `recipe=NAME` is one of them.

    Raises:
        ValueError: unknown group, option or key, or a value of the wrong type; the message lists the valid names.
    """
    return to_config(compose_raw(overrides))


def compose_raw(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed YAML before its types are checked; errors as in `compose`."""
    overrides = [word for given in overrides for word in of_mixture(given)]
    for word in overrides:
        group, _, option = word.rpartition(".")[2].partition("=")
        if option.startswith("_") and (config_dir() / group / f"{option}.yaml").is_file():
            raise ValueError(no_option(group, option, [name for name, _ in options(group)]))
    try:
        return _without_options_of_others(_compose_file(PRIMARY, overrides), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error, overrides)) from None


def of_mixture(word: str) -> list[str]:
    """Turn `data=[NAME,NAME]` into the mixture of these datasets; other words stay.

    >>> of_mixture("data=[esc50,librispeech]")
    ['data=mixture', 'data.sources.esc50={}', 'data.sources.librispeech={}']

    Raises:
        ValueError: a dataset twice, or none.
    """
    found = re.fullmatch(r"data=\[(.*)\]", word)
    if found is None:
        return [word]
    names = [name.strip() for name in found[1].split(",")]
    if not all(re.fullmatch(r"\w+", name) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{word}: give names of datasets, each once; another folder is data.sources.OWN.name=NAME")
    return ["data=mixture", *(f"data.sources.{name}={{}}" for name in names)]


CHOSEN_PART = re.compile(r"((?:finetune\.)?(source|attention|linear|objective|optim|schedule|engine))=([\w/]+)")


OF_COMPOSITION = "default_views"
"""Key of `configs/objective` that composition reads; no objective is given it."""


def _without_options_of_others(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Drop what a recipe sets of a part, where the user has chosen another part than the recipe's.

    `objective=supervised` with a recipe that sets `objective.projector_dims` of vcr, or `optim=lars` with one that sets
    a rate for adamw: the part chosen starts from its own file. Another kind of objective than the recipe's brings its
    own views (`default_views`), unless the command line picks some: masked patches want others than two views of a
    clip. Objectives that name the same views are of one kind: those of the recipe stay.
    """
    chosen = [found for word in overrides if (found := CHOSEN_PART.fullmatch(word))]
    if not chosen:
        return composed
    # What a recipe sets of one part does not depend on the choice of another.
    theirs = tuple(begin for found in chosen for begin in (found[0], f"{found[1]}."))
    before = _compose_file(PRIMARY, [other for other in overrides if not other.startswith(theirs)])
    for path, group, option in (found.groups() for found in chosen):
        if OmegaConf.select(before, f"{path}.name") == OmegaConf.select(composed, f"{path}.name"):
            continue
        own = read_option(group, option, whole=True)
        views = own.pop(OF_COMPOSITION, None)
        _start_from_file(composed, path, own, overrides)
        if views is None or path != group or views == _views_of(before):
            continue
        if not any(other.startswith("views=") for other in overrides):
            _start_from_file(composed, "views", read_option("views", views), overrides)
    return composed


def _views_of(composed: DictConfig) -> Any:
    """The views that the objective's own file names; None if it names none, or there is no objective."""
    name = OmegaConf.select(composed, "objective.name")
    return read_option("objective", name, whole=True).get(OF_COMPOSITION) if name else None


def _start_from_file(composed: DictConfig, path: str, own: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Replace a part by what its own file says, and by what the command line says of it."""
    part = OmegaConf.create(dict(own))
    for other in overrides:
        key = other.lstrip("+").partition("=")[0]
        if key.startswith(f"{path}."):
            OmegaConf.update(part, key.removeprefix(f"{path}."), OmegaConf.select(composed, key))
    OmegaConf.update(composed, path, part, merge=False, force_add=True)


GROUPS_OF_STAGES = re.compile(r"finetune\.(views|objective|optim|schedule)=([\w/]+)")


def in_hydras_words(word: str) -> str:
    """A word as Hydra writes it: `optim@finetune.optim=lars` picks a file, `++slurm.extra.nice=100` adds a key."""
    if word.startswith(("slurm.extra.", "data.sources.")):
        return f"++{word}"
    found = GROUPS_OF_STAGES.fullmatch(word)
    return f"{found[1]}@finetune.{found[1]}={found[2]}" if found else as_list(word)


def read_option(group: str, name: str, *, whole: bool = False) -> dict[str, Any]:
    """What one option file says, the files that it inherits included, without a run around it.

    Args:
        group: folder of `configs/`, such as `attention`.
        name: of the file.
        whole: with what only composition reads.

    Raises:
        ValueError: no such file; the message lists those that there are.
    """
    try:
        if (config_dir() / group / f"{name}.yaml").is_file():  # alone: a tenth of the time
            composed = _compose_file(f"{group}/{name}", [], whole=whole)
        else:  # Hydra begins with no file of the user's
            composed = _compose_file(PRIMARY, [f"{group}={name}"], whole=whole)
        found = OmegaConf.to_container(composed[group])
    except MissingConfigException:
        names = [known for known, _ in options(group)]
        raise ValueError(no_option(group, name, names)) from None
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _compose_file(name: str, overrides: Sequence[str], *, whole: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3", job_name="vcrast"):
        words = [for_hydra(in_hydras_words(word)) for word in overrides]
        composed = hydra_compose(name, overrides=[*words, *search_path()])
    for word in overrides:
        if word.startswith("recipe="):  # one that was begun as a copy of another may still have its name
            composed.recipe = literal(word.partition("=")[2])
    for path in () if whole else ("objective", "finetune.objective"):
        if (part := OmegaConf.select(composed, path)) is not None:
            with open_dict(part):
                part.pop(OF_COMPOSITION, None)
    return composed


ONLY_PRETRAINING = ("source", "views", "objective", "optim", "schedule")
"""Groups that no other stage reads."""


def refuse_without_effect(config: Config, overrides: Sequence[str]) -> None:
    """Refuse a word of the command line that only pretraining reads, in a run that does not pretrain.

    What a recipe chooses is not refused: a recipe holds the settings of all stages, of which a run may take some.

    Raises:
        ValueError: names the word, and the same setting of finetuning where there is one.
    """
    if "pretrain" in config.stages:
        return
    known = dict(flatten(to_dict(config)))
    for word in overrides:
        key, _, value = word.lstrip("+~").partition("=")
        own = f"finetune.{key}"
        if key.partition(".")[0] not in ONLY_PRETRAINING or "@" in key:
            continue
        there = own in known or key in ("views", "optim", "schedule")
        instead = f"finetuning has {own}={value}" if there and "finetune" in config.stages else "leave it out"
        raise ValueError(f"{word}: only pretraining reads it, which stages={config.stages} leaves out; {instead}")


def to_config(raw: Any) -> Config:
    """Check names and types of composed or saved settings.

    Raises:
        ValueError: a key that no schema has, or a value of the wrong type.
    """
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), raw)
        config = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        value = OmegaConf.select(raw, error.full_key) if error.full_key else None
        reason = str(error).splitlines()[0]
        if thousands := re.fullmatch(r"([\d.]+) ?k(?:hz)?", str(value), re.IGNORECASE):
            reason += f"; did you mean {float(thousands[1]) * 1000:.0f}?"
        raise ValueError(f"{error.full_key or 'config'}={value}: {reason}") from None
    assert isinstance(config, Config)
    _check_values(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionaries of the settings."""
    return as_dict(OmegaConf.structured(config))


def as_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries of an OmegaConf mapping."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested dictionary."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_values(config: Config) -> None:
    stages = ("pretrain", "finetune", "evaluate")
    if not config.stages:
        raise ValueError(f"stages=[]: nothing would be done; choose from {', '.join(stages)}")
    for stage in config.stages:
        if stage not in stages:
            raise ValueError(f"stages={config.stages}: {stage!r} is no stage; {suggest(stage, stages)}")
    if [stage for stage in stages if stage in config.stages] != config.stages:
        raise ValueError(f"stages={config.stages}: keep the order {', '.join(stages)}, each at most once")
    if config.precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ValueError(f"precision={config.precision}: {suggest(config.precision, ('auto', 'fp32', 'bf16', 'fp16'))}")
    if config.evaluate.windows not in ("all", "centre"):
        raise ValueError(
            f"evaluate.windows={config.evaluate.windows}: {suggest(config.evaluate.windows, ('all', 'centre'))}"
        )
    _check_ranges(config)
    for key, own in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        micro = own.micro_batch_size
        if micro != "auto" and not (isinstance(micro, int) and micro > 0):
            raise ValueError(f"{key}.micro_batch_size={micro}: must be `auto` or a positive whole number")
        if key in config.stages and micro != "auto" and micro > own.batch_size:
            raise ValueError(
                f"{key}.micro_batch_size={micro}: is a part of {key}.batch_size={own.batch_size} and cannot be "
                "larger; lower it, or raise the batch"
            )


def _check_ranges(config: Config) -> None:
    """Refuse what is no finite number, in any group, and what lies outside the range that the schema gives."""
    for key, value in flatten(to_dict(config)):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{key}={value}: must be a finite number")
    for name, field in keys(Config):
        value = attrgetter(name)(config) if {"above", "least"} & field.metadata.keys() else None
        if value is None:
            continue
        if value <= field.metadata.get("above", -math.inf):
            raise ValueError(f"{name}={value}: must be positive")
        if value < field.metadata.get("least", -math.inf):
            raise ValueError(f"{name}={value}: must not be negative")


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One line for the user: what, which value, what to do."""
    text = str(error)
    for word in overrides:
        key, _, value = word.partition("=")
        if key == "data" and Path(value).expanduser().exists():
            kind = "manifest data.path" if Path(value).expanduser().is_file() else "folder data.root"
            return f"{word}: is a path; write data={kind}={value}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        names = error.options or [name for name, _ in options(group)]
        return no_option(group, option, [name for name in names if not name.startswith("_")])
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write group=option or key=value ({text.splitlines()[0]})"
    found = re.search(r"[Cc]ould not override '([^']+)'", text)
    if isinstance(error, ConfigCompositionException) and found:
        key = found.group(1)
        groups = [item for item in overrides if "." not in item.partition("=")[0] and not item.startswith(f"{key}=")]
        written = next((item for item in overrides if item.lstrip("+~").startswith(f"{key}=")), key)
        whole = _compose_quietly(groups)
        elsewhere = [full for full, _ in flatten(as_dict(whole)) if same_setting(full, key)]
        value = written.partition("=")[1] + written.partition("=")[2]
        meant = f"did you mean {' or '.join(full + value for full in elsewhere)}?" if elsewhere else choices(whole, key)
        return f"{written}: no such setting; {meant}"
    return text.splitlines()[0]


def no_option(group: str, option: str, names: Sequence[str]) -> str:
    """Say that a group has no such option, and which it has."""
    return f"{group}={option}: no configs/{group}/{option}.yaml; {suggest(option, names)}"


def same_setting(full: str, key: str) -> bool:
    """Whether a setting has the first and last name of a key: `finetune.optim.lr` has those of `finetune.lr`.

    A key of one name is the last name of many; those of the batch system are not meant.
    """
    own, asked = full.split("."), key.split(".")
    if len(asked) == 1:
        return own[-1] == key and own[0] not in ("slurm", "launch", "evaluate")
    return len(own) > len(asked) and (own[0], own[-1]) == (asked[0], asked[-1])


def _compose_quietly(overrides: Sequence[str]) -> Any:
    try:
        return _compose_file(PRIMARY, overrides)
    except (HydraException, OmegaConfBaseException):
        return OmegaConf.create({})


def choices(config: Any, key: str) -> str:
    """Names valid where `key` was written, the closest first."""
    parts = key.split(".")
    while len(parts) > 1:
        parent = OmegaConf.select(config, ".".join(parts[:-1]), default=None)
        if isinstance(parent, DictConfig):
            if not parent:
                return f"there is none under {'.'.join(parts[:-1])}"
            end = "; slurm.extra.NAME takes any other option of sbatch" if parts[:-1] == ["slurm"] else ""
            return suggest(parts[-1], (str(name) for name in parent)) + f" (under {'.'.join(parts[:-1])})" + end
        parts.pop()
    return suggest(parts[0], (str(name) for name in config))
