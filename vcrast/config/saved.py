"""Write and read the settings that a run keeps with it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from vcrast.config.atomic import write_atomic
from vcrast.config.compose import choices, read_option, to_config
from vcrast.config.quoting import as_list, escape, home, literal, text_settings
from vcrast.config.schema import Config

PART = re.compile(
    r"((?:finetune\.)?(source|features|views|model|attention|linear|objective|optim|schedule|engine|evaluation))"
    r"=(\w+|\[\w+(?:,\w+)*\])"
)
MEND = "delete it and give the words of overrides.txt with run.dir=FOLDER again, which goes on"


def save_config(config: Config, path: Path) -> None:
    """Write the resolved settings as YAML."""
    write_atomic(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def load_config(path: Path) -> Config:
    """Settings saved with a run; errors as in `read_saved`."""
    return to_config(read_saved(path))


def read_saved(path: Path) -> DictConfig:
    """Settings saved with a run, in a form that `changed` takes; names and types are those of this version.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no settings, or those of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a run folder holds config.yaml")
    try:
        saved = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: damaged ({' '.join(str(error).split())[:120]}); {MEND}") from None
    if not isinstance(saved, DictConfig):
        raise ValueError(f"{path}: holds no settings but {type(saved).__name__}; is it the config.yaml of a run?")
    if not saved:
        raise ValueError(f"{path}: damaged, it is empty; {MEND}")
    try:
        to_config(saved)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; edited, or another version of vcrast wrote it: start anew in another run.dir"
        ) from None
    OmegaConf.set_struct(saved, True)
    OmegaConf.set_struct(saved.slurm.extra, False)  # its keys are those of sbatch
    return saved


def read_summary(path: Path) -> dict[str, Any]:
    """What a run's `summary.json` holds; nothing where there is none.

    Raises:
        ValueError: a damaged file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        found = error
    if isinstance(found, dict):
        return found
    raise ValueError(
        f"{path}: damaged ({found if isinstance(found, ValueError) else 'no mapping'}); delete it: pretraining is "
        "found again from its checkpoint, what follows is done again"
    )


def changed(saved: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Saved settings with changes on top: first `group=option` of parts, such as `engine=deepspeed`, then `key=value`.

    Raises:
        ValueError: a change that names no key, or no option.
    """
    groups = {word: found for word in overrides if (found := PART.fullmatch(as_list(word)))}
    if groups:
        saved = copy.deepcopy(saved)
        for path, group, option in (found.groups() for found in groups.values()):
            OmegaConf.update(saved, path, read_option(group, option), merge=False, force_add=True)
        return changed(saved, [word for word in overrides if word not in groups])
    for override in overrides:
        key, equals, _ = override.partition("=")
        known = key.startswith("slurm.extra.") or OmegaConf.select(saved, key, default=_MISSING) is not _MISSING
        if not equals or not known:
            raise ValueError(
                f"{override}: a resumed run takes key=value, and group=option of its parts; {choices(saved, key)}"
            )
    merged = OmegaConf.merge(saved, *map(_change, overrides))
    assert isinstance(merged, DictConfig)
    return merged


def _change(override: str) -> DictConfig:
    """One `key=value` as settings; text is taken as it was typed, anything else is YAML."""
    key, _, value = override.partition("=")
    if key not in text_settings() or value in ("", "null"):
        return OmegaConf.from_dotlist([override])
    changed = OmegaConf.create({})
    OmegaConf.update(changed, key, escape(home(key, literal(value))))
    return changed


_MISSING = object()
