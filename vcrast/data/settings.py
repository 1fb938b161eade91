"""Refuse settings that the chosen source would ignore."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from vcrast.config.schema import DataConfig
from vcrast.config.words import suggest


def refuse_settings(
    data: DataConfig, *, options: Collection[str], root: bool = True, path: bool = False, label: bool = False
) -> None:
    """Raise for a setting that is given and has no effect on this source, and for an option that is not given.

    Args:
        data: the settings.
        options: keys of `data.options` that the source reads; configs/data/ has their defaults, no source has.
        root: whether it reads `data.root`.
        path: whether it reads `data.path`.
        label: whether it reads `data.label`.

    Raises:
        ValueError: naming the setting, and the valid ones.
    """
    for name, used in (("root", root), ("path", path), ("label", label)):
        value = getattr(data, name)
        if value is not None and not used:
            raise ValueError(f"data.{name}={value}: data={data.name} does not use it; leave it null")
    for key in data.options:
        if key not in options:
            names = suggest(str(key), options) if options else "it takes none"
            raise ValueError(f"data.options.{key}: data={data.name} has no such option; {names}")
    missing = [key for key in options if key not in data.options]
    if missing:
        raise ValueError(f"data.options.{missing[0]} is not set; configs/data/{data.name}.yaml has its usual value")


def existing_folder(data: DataConfig) -> Path:
    """Return `data.root` as a folder.

    Raises:
        FileNotFoundError: it is not set, or no folder.
    """
    if data.root is None:
        raise FileNotFoundError(f"data={data.name}: set data.root=FOLDER")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={data.root}: no such folder")
    return root


def published_folder(
    data: DataConfig, inside: str, needed: Collection[str | Path], *, download: str | None = None
) -> Path:
    """Find where a known dataset lies: `data.root`, or a folder in it.

    Args:
        data: the settings.
        inside: the folder that the dataset's archive makes.
        needed: what must be there.
        download: the name that `vcrast data download` knows it by; None is that of the source.

    Raises:
        FileNotFoundError: it is not there; says how to get it.
    """
    how = f"run `vcrast data download {download or data.name}` or set data.root=FOLDER"
    if data.root is None:
        raise FileNotFoundError(f"{data.name}: data.root is not set; {how}")
    start = Path(data.root).expanduser()
    for root in (start, start / inside):
        if all((root / name).exists() for name in needed):
            return root
    raise FileNotFoundError(f"{data.name}: data.root={data.root} has no {next(iter(needed))}; {how}")
