"""Find the settings and folder of a run: a new one, or one that goes on."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vcrast.config.compose import compose, flatten, refuse_without_effect, to_config, to_dict
from vcrast.config.quoting import PATHS, home, literal, split_source
from vcrast.config.saved import changed, load_config, read_saved, read_summary
from vcrast.config.schema import FOLDERS_OF_SOUNDS, FREE, Config, keys

FREE_ON_RESUME = tuple(name for name, field in keys(Config) if field.metadata.get("free_on_resume"))
"""Settings and groups of settings that may differ when a run goes on, as their schema says."""

RULES: dict[str, Mapping[str, Any]] = {name: field.metadata for name, field in keys(Config)}
RULES |= dict.fromkeys(FOLDERS_OF_SOUNDS, FREE)
STAGES = ("pretrain", "finetune", "evaluate")
TRAINING = ("pretrain", "finetune")


def resolve(overrides: Sequence[str]) -> Config:
    """The settings of the run that a command line asks for, `run.dir` filled in.

    Raises:
        ValueError: a wrong setting or one without effect, a folder that holds another run, or `run.resume=never` on a
            folder that holds one.
        FileNotFoundError: `run.resume` names a folder without a run.
    """
    asked = [word.partition("=")[2] for word in overrides if word.startswith("run.resume=")]
    if asked and asked[-1] not in ("auto", "never"):
        return _resumed(
            Path(home("run.resume", literal(asked[-1]))),
            [word for word in overrides if not word.startswith("run.resume=")],
        )
    config = anchored(compose(overrides))
    if config.run.dir is None:
        config.run.dir = f"runs/{config.recipe}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    saved = Path(config.run.dir) / "config.yaml"
    if saved.is_file() and holds_work(saved.parent):
        if config.run.resume == "never":
            raise ValueError(f"run.dir={config.run.dir}: holds a run already; choose another folder or run.resume=auto")
        _refuse_changes(load_config(saved), config)
    else:  # a run that has pretrained goes on with the words that it was begun with
        refuse_without_effect(config, overrides)
    return config


def anchored(config: Config) -> Config:
    """The settings with absolute paths of what a run reads, so that it goes on from another folder, or moved.

    Relative paths, those in a recipe as well, begin in the working directory. What is not there stays as it was typed.
    """
    for key in PATHS:
        *groups, name = key.split(".")
        options = vars(config)
        for group in groups:
            options = options[group] if isinstance(options[group], dict) else vars(options[group])
        value = options.get(name)
        if groups == ["run"] or not isinstance(value, str):
            continue
        model, place = split_source(home(key, value))
        path = Path(place).absolute()
        if key == "data.cache_dir" or path.exists():
            options[name] = model + str(path)
    for source in filter(None, config.data.sources.values()):
        for name in {"root", "path"} & source.keys():
            if isinstance(source[name], str) and (path := Path(source[name]).expanduser().absolute()).exists():
                source[name] = str(path)
    return config


def names_folder(overrides: Sequence[str]) -> bool:
    """Whether a command line says where its run lies; otherwise the folder is named after the time."""
    return any(word.lstrip("+").startswith(("run.dir=", "run.resume=")) for word in overrides)


def claim(folder: Path) -> Path:
    """Make a folder that nobody else has: this one, or `<name>_2`, `<name>_3`, ... beside it.

    Runs that are started in one second, on several GPUs or from a script, get different folders.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            own.mkdir()
        except FileExistsError:
            continue
        return own
    raise AssertionError("there is always another number")


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """`claim`, taken back if what is done with the folder fails before anything is in it."""
    own = claim(folder)
    try:
        yield own
    except BaseException:
        give_back(own)
        raise


def give_back(folder: Path) -> None:
    """Remove a claimed folder that has stayed empty."""
    with suppress(OSError):
        folder.rmdir()


def is_one_of(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of these settings, or within one of these groups."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def holds_work(folder: Path) -> bool:
    """Whether a run has got as far as its first checkpoint; before that, its settings may still be corrected."""
    return (folder / "checkpoints").is_dir() or (folder / "summary.json").is_file()


def stage_settings(config: Config, stage: str) -> dict[str, Any]:
    """The settings that the numbers of a stage depend on, by dotted key; its length, which may change, is left out."""
    return {key: value for key, value in flatten(to_dict(config)) if _counts_for(key, stage)}


def _counts_for(key: str, stage: str) -> bool:
    while key:  # the innermost rule counts
        rule = RULES.get(key, {})
        if "free_on_resume" in rule or "length" in rule:
            return False
        if "read_by" in rule:
            return stage in rule["read_by"]
        key = key.rpartition(".")[0]
    return True


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings that are not the same: `optim.lr: 0.001 -> 0.002`."""
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]


def _resumed(folder: Path, overrides: Sequence[str]) -> Config:
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"run.resume={folder}: no config.yaml there; name the folder that a run printed")
    saved = read_saved(folder / "config.yaml")
    config = anchored(to_config(changed(saved, [word for word in overrides if not word.startswith("recipe=")])))
    config.run.dir = str(folder)
    _refuse_changes(to_config(saved), config)
    return config


def _refuse_changes(saved: Config, config: Config) -> None:
    """Refuse other settings for a training stage that has begun in some fold; an evaluation may be done again.

    Raises:
        ValueError: names them, and the way to get what was asked for.
    """
    folder = Path(str(config.run.dir))
    for stage, settings in _begun(folder, saved):
        changed = differences(settings, stage_settings(config, stage))
        if not changed:
            continue
        shown = "; ".join(changed[:8])
        if stage == "finetune" and all(text.startswith("finetune.") for text in changed):
            raise ValueError(
                f"run.dir={folder}: finetuning has begun with other settings ({shown}); start a new run with them and "
                f'{shlex.quote(f"model.checkpoint={folder}")} "stages=[finetune,evaluate]", which keeps the pretraining'
            )
        raise ValueError(
            f"run.dir={folder}: holds a run with other settings ({shown}); "
            "choose another run.dir, or go on with run.resume=FOLDER and the old settings"
        )


def _begun(folder: Path, saved: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each training stage that has begun, once for every fold, and the settings that it was begun with.

    They stand in summary.json; a run of an earlier version has only its config.yaml.
    """
    summary = read_summary(folder / "summary.json")
    for stage in TRAINING:
        kept = [fold[stage]["settings"] for fold in summary.get("inputs", {}).values() if stage in fold]
        yield from ((stage, settings) for settings in kept)
        done = any(stage in fold for fold in summary.get("folds", {}).values())
        if not kept and (done or any((folder / "checkpoints").glob(f"fold_*/{stage}/step_*"))):
            yield stage, stage_settings(saved, stage)
