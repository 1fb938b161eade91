"""Find the weights that `model.checkpoint` names, and the fold they may be used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from vcrast.config.saved import read_summary
from vcrast.models.export import DESCRIPTION, UNFINISHED, WEIGHTS, exported_folds, file_sha256, is_run, read_description
from vcrast.models.kept_epochs import epoch_number

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
GIVE = "give a run, an exported model, a .safetensors file, timm:NAME or hf-hub:ORG/NAME"


class Source(NamedTuple):
    """Where weights lie.

    Attributes:
        path: of the safetensors file.
        description: `model.json` beside it, None if there is none or it is another model's.
        notes: what the user must know of the choice.
    """

    path: Path
    description: Mapping[str, Any] | None
    notes: list[str]


def find_source(
    source: str | Path, where: str, *, fold: str | None = None, data: Mapping[str, Any] | None = None
) -> Source:
    """The weights that a path means.

    Args:
        source: a `.safetensors` file, an exported model's folder, or a run: its pretrained model of this fold.
        where: beginning of messages.
        fold: that the weights are to be used in; None asks for no particular one.
        data: options of this run's data; None compares none.

    Raises:
        FileNotFoundError: no such file or folder, or nothing exported in it.
        ValueError: not a safetensors file, a folder of runs, or a run whose models have heard this fold's test clips.
    """
    path = Path(source).expanduser()
    if path.name == DESCRIPTION and path.is_file():
        path = path.parent
    if path.is_file():
        if path.suffix in PICKLES:
            raise ValueError(
                f"{where}: a pickle can run code and is not read here; `vcrast import FILE --out DIR` makes a model of "
                "the data of a checkpoint of AST, SSAST, AudioMAE, MAE-AST, transformers or timm; of other tensors "
                "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
            )
        return Source(path, described(path), heard_test(path.parent, fold, data))
    if not path.is_dir():
        raise FileNotFoundError(f"{where}: no such file or folder; {GIVE}")
    folder = path if (path / DESCRIPTION).is_file() else pretrained_of(path, where, fold=fold, data=data)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{where}: {folder} has no {WEIGHTS}; export the model again")
    description = described(folder / WEIGHTS)
    return Source(folder / WEIGHTS, description, [*heard_test(folder, fold, data), *unfinished(description)])


def unfinished(description: Mapping[str, Any] | None) -> list[str]:
    """A note on the weights of a pretraining that had not come to its end."""
    meta = description["meta"] if description is not None else {}
    step, num_steps = meta.get("step"), meta.get("num_steps")
    return [] if step is None else [f"weights of step {step} of {num_steps}: the pretraining has not come to its end"]


def described(path: Path) -> Mapping[str, Any] | None:
    """The description of a weights file.

    Raises:
        ValueError: `weights.safetensors` that is not what `model.json` was written with.
    """
    if not (path.parent / DESCRIPTION).is_file():
        return None
    description = read_description(path.parent)
    digest, expected = file_sha256(path), description["weights_sha256"]
    if digest == expected:
        return description
    if path.name != WEIGHTS:
        return None
    raise ValueError(f"{path}: damaged or replaced (sha256 {digest[:12]}, expected {expected[:12]}); export again")


def pretrained_of(run: Path, where: str, *, fold: str | None, data: Mapping[str, Any] | None) -> Path:
    """The folder of a run's pretrained model that may be used in a fold.

    Raises:
        FileNotFoundError: nothing exported yet.
        ValueError: a folder of runs, a run without pretrained models, or one whose models are of other folds.
    """
    try:
        folds = exported_folds(run)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"model.checkpoint={error}") from None
    usable = ("pretrained", UNFINISHED)
    found = {
        name: next(stages[stage] for stage in usable if stage in stages)
        for name, stages in folds.items()
        if not stages.keys().isdisjoint(usable)
    }
    if not found:
        other = next(iter(next(iter(folds.values())).values()))
        raise ValueError(f"{where}: has no pretrained model; to start from another one, name it: {other}")
    first = next(iter(found))
    if fold is None or fold in found:
        return found[first if fold is None else fold]
    same, heard = owner_facts(found[first], fold, data)
    if not heard or (len(found) == 1 and not same):
        return found[first]
    of_same = " of the same data" if same else ""
    have = f"pretrained on fold{'s' if len(found) > 1 else ''} {', '.join(found)}{of_same}, not on fold {fold}"
    raise ValueError(
        f"{where}: {have}; a model pretrained for another fold may have heard the test clips of this one: set "
        f"data.folds=[{','.join(found)}], pretrain fold {fold}, or name a model: {found[first]}"
    )


def heard_test(folder: Path, fold: str | None, data: Mapping[str, Any] | None) -> list[str]:
    """A warning if a model in a run's folder was trained on this fold's test clips, as far as the run tells."""
    theirs = folder.resolve().parent.name.removeprefix("fold_")
    same, heard = owner_facts(folder, fold, data)
    labelled = folder.name == "finetuned" or epoch_number(folder.resolve().name) is not None
    if fold is None or not same or theirs == fold or not (heard or labelled):
        return []
    return [f"trained for fold {theirs} of the same data, so it has heard test clips of fold {fold}"]


def owner_facts(folder: Path, fold: str | None, data: Mapping[str, Any] | None) -> tuple[bool, bool]:
    """Of the run that an exported model lies in: whether it has this run's data, and whether pretraining heard clips.

    Of a dataset in a mixture that has splits with names, such as `test`, `train` alone was heard, whatever its fold.

    (False, True) for a model that lies elsewhere.
    """
    run = owner(folder)
    if run is None:
        return False, True
    try:
        saved = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError):
        return False, True
    content = saved if isinstance(saved, dict) else {}
    theirs, heard = content.get("data") or {}, content.get("source") or {}
    hidden = bool(theirs.get("sources")) and fold is not None and not fold.isdecimal()
    same = data is not None and not hidden and not identities(theirs).isdisjoint(identities(data))
    return same, heard.get("name", "clips") == "clips" or bool(heard.get("real_share"))


def owner(folder: Path) -> Path | None:
    """The run that an exported model lies in; None for one that lies elsewhere."""
    folder = folder.resolve()
    run = folder.parent.parent.parent
    return run if folder.parent.parent.name == "exported" and is_run(run) else None


def clips_of(folder: Path) -> dict[str, Any]:
    """The fingerprint of the clips that an exported model's stage was begun with; nothing where no run tells it.

    Raises:
        ValueError: a damaged `summary.json`.
    """
    run = owner(folder)
    inputs = {} if run is None else read_summary(run / "summary.json").get("inputs", {})
    stages = inputs.get(folder.resolve().parent.name.removeprefix("fold_"), {})
    found: dict[str, Any] = stages.get("pretrain" if folder.name in ("pretrained", UNFINISHED) else "finetune", {})
    return dict(found.get("clips", {}))


def identities(data: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """What tells datasets apart: of the only one, or of each in a mixture."""
    sources = data.get("sources") or {}
    return {identity({"name": name, **(given or {})}) for name, given in sources.items()} or {identity(data)}


def identity(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells one dataset from another: the name; of a user's own files also the place.

    A known dataset may lie elsewhere on each machine.
    """
    name = str(data.get("name"))
    places = [data.get(key) for key in ("root", "path")] if name in ("folder", "manifest") else []
    return name, *(str(Path(place).expanduser().resolve()) if place else "" for place in places)
