"""Write the settings of a run to its folder, read them back, complete older ones."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from vcrast.config.compose import choices, compose_raw, to_config
from vcrast.config.schema import Config, config_dir

log = logging.getLogger(__name__)


def save_config(config: Config, path: Path) -> None:
    """Write the resolved settings as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")


def load_config(path: Path) -> Config:
    """Settings saved with a run; see `read_saved`."""
    return to_config(read_saved(path))


def read_saved(path: Path) -> DictConfig:
    """Settings saved with a run, before their types are checked.

    What a newer version has added since is put at its default and named in a warning: new settings are made so that
    their default is what runs did before. Nothing that the file says is changed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that holds no settings.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a run folder holds config.yaml")
    saved = OmegaConf.load(path)
    if not isinstance(saved, DictConfig):
        raise ValueError(f"{path}: holds no settings but {type(saved).__name__}; is it the config.yaml of a run?")
    plain, defaults = OmegaConf.to_container(saved), _defaults(saved)
    assert isinstance(plain, dict)
    assert isinstance(defaults, dict)
    added = list(_complete(plain, defaults, Config))
    if added:
        log.warning("%s: written by an earlier version; at their defaults: %s", path, ", ".join(added))
    completed = OmegaConf.create(plain)
    OmegaConf.set_struct(completed, True)
    return completed


def changed(saved: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Saved settings with `key=value` changes on top.

    Raises:
        ValueError: a change that names no key.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or OmegaConf.select(saved, key, default=_MISSING) is _MISSING:
            raise ValueError(
                f"{override}: a resumed run has its groups fixed and takes key=value; {choices(saved, key)}"
            )
    merged = OmegaConf.merge(saved, OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(merged, DictConfig)
    return merged


_MISSING = object()


def _defaults(saved: DictConfig) -> Any:
    """What this version composes from the recipe and the options that the saved settings name, as far as they exist."""
    chosen = {str(key): value.get("name") for key, value in saved.items() if isinstance(value, DictConfig)}
    chosen["recipe"] = saved.get("recipe")
    return copy.deepcopy(
        _composed(
            tuple(
                f"{group}={name}"
                for group, name in chosen.items()
                if (config_dir() / str(group) / f"{name}.yaml").is_file()
            )
        )
    )


@functools.lru_cache(maxsize=64)
def _composed(overrides: tuple[str, ...]) -> Any:
    """Plain settings; kept, since composing takes half a second and many runs are of the same parts."""
    return OmegaConf.to_container(compose_raw(overrides))


def _complete(saved: dict[Any, Any], defaults: Mapping[Any, Any], schema: type) -> Iterator[str]:
    """Enter into `saved` the keys of `defaults` that it lacks; yields their dotted names.

    Args:
        saved: is changed.
        defaults: of the same version as `schema`.
        schema: dataclass whose fields the keys are. A field that is itself one is completed likewise. Of a plain
            mapping that is the settings of a swappable part, the part's own keys are, if it is the same part. Other
            mappings are the user's free choice and stay.
    """
    hints = get_type_hints(schema)
    for key, value in defaults.items():
        if key not in saved:
            saved[key] = value
            yield str(key)
        elif not (isinstance(value, dict) and isinstance(saved[key], dict)):
            continue
        elif dataclasses.is_dataclass(hints[key]):
            yield from (f"{key}.{name}" for name in _complete(saved[key], value, hints[key]))
        elif "name" in value and value["name"] == saved[key].get("name"):
            for name in value.keys() - saved[key].keys():
                saved[key][name] = value[name]
                yield f"{key}.{name}"
