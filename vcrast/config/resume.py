"""Find the settings and folder of a run: a new one, or one that goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from vcrast.config.compose import compose, flatten, refuse_without_effect, to_config, to_dict
from vcrast.config.saved import changed, load_config, read_saved
from vcrast.config.schema import Config, keys

FREE_ON_RESUME = tuple(name for name, field in keys(Config) if field.metadata.get("free_on_resume"))
"""Settings and groups of settings that may differ when a run goes on, as their schema says."""


def resolve(overrides: Sequence[str]) -> Config:
    """The settings of the run that a command line asks for, `run.dir` filled in.

    Raises:
        ValueError: a wrong setting or one without effect, a folder that holds another run, or `run.resume=never` on a
            folder that holds one.
        FileNotFoundError: `run.resume` names a folder without a run.
    """
    asked = [word.partition("=")[2] for word in overrides if word.startswith("run.resume=")]
    if asked and asked[-1] not in ("auto", "never"):
        return _resumed(Path(asked[-1]), [word for word in overrides if not word.startswith("run.resume=")])
    config = compose(overrides)
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


def is_one_of(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of these settings, or within one of these groups."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def holds_work(folder: Path) -> bool:
    """Whether a run has got as far as its first checkpoint; before that, its settings may still be corrected."""
    return (folder / "checkpoints").is_dir() or (folder / "summary.json").is_file()


def _resumed(folder: Path, overrides: Sequence[str]) -> Config:
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"run.resume={folder}: no config.yaml there; name the folder that a run printed")
    saved = read_saved(folder / "config.yaml")
    config = to_config(changed(saved, [word for word in overrides if not word.startswith("recipe=")]))
    _refuse_changes(to_config(saved), config)
    config.run.dir = str(folder)
    return config


def _refuse_changes(saved: Config, config: Config) -> None:
    before, after = dict(flatten(to_dict(saved))), dict(flatten(to_dict(config)))
    changed = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not is_one_of(key, FREE_ON_RESUME)
    ]
    if changed:
        raise ValueError(
            f"run.dir={config.run.dir}: holds a run with other settings ({'; '.join(changed[:8])}); "
            "choose another run.dir, or go on with run.resume=FOLDER and the old settings"
        )
