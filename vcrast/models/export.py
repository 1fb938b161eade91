"""Write and read exported models: `weights.safetensors` and `model.json`, data only.

`model.json` is written last and holds the hash of the weights: a folder without it holds no model, and weights that
were replaced without it are noticed.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vcrast.config.atomic import remove_abandoned, write_atomic
from vcrast.config.version import __version__
from vcrast.config.words import natural
from vcrast.models.backbone import Backbone
from vcrast.models.classifier import TokenHead
from vcrast.models.kept_epochs import epoch_number, in_words, kept_in

FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
UNFINISHED = "unfinished"
"""A pretraining that has not come to its end, as far as its last checkpoint."""
STAGES = ("finetuned", "pretrained", "probe", UNFINISHED)
OF_THE_MODEL = "of_the_model"
"""A head that `Backbone.build_head` builds."""
TRUSTED = ("vcrast.", "extensions.")
ADDED: dict[str, dict[str, Any]] = {
    "model": {"class_tokens": 0, "pool": "mean", "readout": "pool", "positions_stride": None, "norms": "pre",
        "norm_eps": 1e-6},
    "features": {"window": "hann"},
}  # fmt: skip
"""Options of the AST and of `Fbank` that older exports do not name, and what they computed."""
KEYS = (
    "model", "features", "labels", "multilabel", "head", "sample_rate", "clip_duration_s", "pad", "meta",
    "weights_sha256",
)  # fmt: skip


def export(
    folder: Path,
    *,
    encoder: Backbone,
    features: Mapping[str, Any],
    labels: Sequence[str],
    multilabel: bool,
    head: nn.Module | None,
    sample_rate: int,
    clip_duration_s: float,
    pad: str,
    meta: Mapping[str, Any],
) -> None:
    """Write a model that `vcrast.load` can rebuild: `weights.safetensors` and `model.json`.

    Args:
        folder: created if missing; an export in it is replaced.
        encoder: the trained backbone, made by `build_backbone`.
        features: the keywords of `Fbank`, mean and std included.
        labels: class names in the order of the head's outputs.
        multilabel: scores are sigmoids of their own rather than one softmax.
        head: the classifier, on the clip's vector or a `TokenHead`; None after pretraining alone.
        sample_rate: of the waveforms, Hz.
        clip_duration_s: what the model was trained on.
        pad: how shorter clips are filled, `silence`, `repeat` or `zeros`.
        meta: whatever else a reader may want to know; plain data.

    Raises:
        ValueError: options that are not plain data, or a head that cannot be described by its layers.
    """
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    if head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    described = describe(
        encoder, head=head, features=features, labels=labels, multilabel=multilabel, sample_rate=sample_rate,
        clip_duration_s=clip_duration_s, pad=pad, meta=meta,
    )  # fmt: skip
    write_export(Path(folder), tensors, described)


def describe(
    encoder: Backbone,
    *,
    head: nn.Module | None,
    features: Mapping[str, Any],
    sample_rate: int,
    labels: Sequence[str],
    **others: Any,
) -> dict[str, Any]:
    """What `model.json` says of a model besides the hash of its weights; arguments and errors as in `export`."""
    return {
        "model": encoder.options,
        "features": {"sample_rate": sample_rate, **features},
        "labels": list(labels),
        "head": None if head is None else describe_head(head),
        "sample_rate": sample_rate,
        **others,
    }


def write_export(folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write both files, each aside, synced and renamed.

    Raises:
        ValueError: a description that is not plain data.
        OSError: the disk is full or the folder cannot be written.
    """
    # Checked before anything is written: an export that cannot be described must not replace a good one.
    plain = to_plain(description, "model.json")
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    # Copies, because safetensors refuses tensors that share memory.
    blob = save(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, {"format": "pt"}
    )
    plain = {"format": FORMAT, "vcrast": __version__, **plain, "weights_sha256": hashlib.sha256(blob).hexdigest()}
    write_atomic(folder / WEIGHTS, blob)
    write_atomic(folder / DESCRIPTION, json.dumps(plain, indent=2, allow_nan=False) + "\n")


def read_description(folder: Path) -> dict[str, Any]:
    """`model.json` of an exported folder, checked.

    Raises:
        ValueError: damaged, of a newer format, or naming a module that this package does not trust.
    """
    path = folder / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); export the model again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        version = found.get("format") if isinstance(found, dict) else None
        raise ValueError(f"{path}: format {version}, this vcrast reads {FORMAT}; export again or update vcrast")
    absent = [key for key in KEYS if key not in found]
    if absent:
        raise ValueError(f"{path}: lacks {', '.join(absent)}; export the model again")
    _refuse_foreign_modules(found["model"], path)
    if isinstance(found["model"], dict) and found["model"].get("name") == "ast":
        found["model"] = {**ADDED["model"], **found["model"]}
    if isinstance(found["features"], dict):
        found["features"] = {**ADDED["features"], **found["features"]}
    return found


def read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of an exported folder, on CPU.

    Raises:
        ValueError: they are not the ones that `model.json` was written with.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing beside {DESCRIPTION}; export the model again")
    digest = file_sha256(path)
    if digest != sha256:
        raise ValueError(f"{path}: damaged or replaced (sha256 {digest[:12]}, expected {sha256[:12]}); export again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None


def file_sha256(path: Path) -> str:
    """The hash of a file's content, as `model.json` has it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_export(run: Path, *, fold: str | int | None, stage: str | None) -> Path:
    """The folder with `model.json` that `run` means: itself, or one under `exported/`.

    Raises:
        FileNotFoundError: no such folder, or nothing exported yet.
        ValueError: no such fold or stage there, or a folder of runs; the message lists those that are.
    """
    if run.name in (WEIGHTS, DESCRIPTION) and run.is_file():
        run = run.parent
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such folder; name a run folder (runs/<recipe>/<time>) or an exported model")
    if (run / DESCRIPTION).is_file():
        if fold is not None or stage is not None:
            raise ValueError(f"{run}: is one exported model; name the run folder to choose fold or stage")
        return run
    name, stages = stages_of(run, fold)
    whole = [each for each in stages if epoch_number(each) is None]
    epochs = in_words(number for each in stages if (number := epoch_number(each)) is not None)
    kept = [f"epoch_N (N: {epochs})"] if epochs else []
    if stage is not None and stage not in stages:
        raise ValueError(f"{run}: fold {name} has no stage {stage}; choose from {', '.join([*whole, *kept])}")
    if stage is None and not whole:
        raise FileNotFoundError(f"{run}: finetuning of fold {name} has not ended; name one of its stages, {kept[0]}")
    return stages[stage] if stage is not None else stages[whole[0]]


def stages_of(run: Path, fold: str | int | None) -> tuple[str, dict[str, Path]]:
    """A fold, the first if None, and its exported models by stage; errors as in `exported_folds`, or no such fold."""
    found = exported_folds(run)
    name = next(iter(found)) if fold is None else str(fold)
    if name not in found:
        raise ValueError(f"{run}: no exported fold {name}; choose from {', '.join(found)}")
    return name, found[name]


def exported_folds(run: Path) -> dict[str, dict[str, Path]]:
    """The exported models of a run by fold and stage; folds in natural order, finetuned before pretrained.

    Args:
        run: a run folder, its `exported/`, or one fold's folder.

    Raises:
        FileNotFoundError: nothing exported yet.
        ValueError: a folder of runs; names the newest.
    """
    found = _folds(run / "exported" if (run / "exported").is_dir() else run)
    if found:
        return found
    if not is_run(run) and (inside := runs_inside(run)):
        shown = ", ".join(map(str, inside[:3])) + (f" and {len(inside) - 3} more" if len(inside) > 3 else "")
        raise ValueError(f"{run}: is a folder of runs; name one of its runs: {shown}")
    raise FileNotFoundError(
        f"{run}: no exported model yet; pretraining and finetuning write one when they end. "
        f"Go on with `vcrast run {shlex.quote(f'run.resume={run}')}`"
    )


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "config.yaml").is_file() and any(
        (folder / name).exists() for name in ("overrides.txt", "summary.json", "exported", "checkpoints")
    )


def runs_inside(folder: Path) -> list[Path]:
    """Runs up to two levels below a folder, the newest first; only those with exported models, if any has one."""
    found = [path.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for path in folder.glob(pattern)]
    runs = sorted(filter(is_run, found), key=lambda run: (run / "config.yaml").stat().st_mtime, reverse=True)
    return [run for run in runs if (run / "exported").is_dir()] or runs


def _folds(exported: Path) -> dict[str, dict[str, Path]]:
    """Folders by fold and stage; folds in natural order, finetuned before pretrained."""
    found: dict[str, dict[str, Path]] = {}
    for folder in sorted((path for path in exported.iterdir() if path.is_dir()), key=lambda path: natural(path.name)):
        stages = _stages(folder)
        if (folder / DESCRIPTION).is_file():
            stages.setdefault("exported", folder)
        if stages:
            found[folder.name.removeprefix("fold_")] = stages
    own = _stages(exported)
    return {exported.name.removeprefix("fold_"): own} if own else found


def _stages(folder: Path) -> dict[str, Path]:
    """The models in a fold's folder, those of single epochs last."""
    whole = {stage: folder / stage for stage in STAGES if (folder / stage / DESCRIPTION).is_file()}
    return whole | {path.name: path for path in kept_in(folder, DESCRIPTION).values()}


def describe_head(head: nn.Module) -> list[dict[str, Any]]:
    """A classifier's layers as plain data.

    Raises:
        ValueError: a layer that is neither LayerNorm nor Linear (dropout is left out), or a module that computes
            something other than its layers one after the other: `model.json` could not rebuild it.
    """
    if isinstance(head, TokenHead):
        return [{"name": "", "kind": OF_THE_MODEL, "num_classes": head.num_classes}]
    layers: list[dict[str, Any]] = []
    for name, layer in head.named_modules():
        if isinstance(layer, nn.LayerNorm):
            layers.append({"name": name, "kind": "layer_norm", "dim": layer.normalized_shape[0], "eps": layer.eps})
        elif isinstance(layer, nn.Linear):
            sizes = {"dim_in": layer.in_features, "dim_out": layer.out_features, "bias": layer.bias is not None}
            layers.append({"name": name, "kind": "linear", **sizes})
        elif not isinstance(layer, nn.Dropout | nn.Identity) and not list(layer.children()):
            raise ValueError(f"head: cannot export a {type(layer).__name__}; use LayerNorm, Linear and Dropout")
    _check_rebuilt(head, layers)
    return layers


def build_head(layers: list[dict[str, Any]], encoder: Backbone | None = None) -> nn.Module:
    """The classifier that `describe_head` described, with random weights.

    Args:
        layers: as described.
        encoder: that builds one of its own kind; None where there is none to build.

    Raises:
        ValueError: a layer that is not known, or an encoder that has no classifier of its own.
    """
    if layers[0]["kind"] == OF_THE_MODEL:
        own = None if encoder is None else encoder.build_head(layers[0]["num_classes"])
        if own is None:
            raise ValueError(f"{DESCRIPTION}: the model has no classifier of its own, but names it as its head")
        return own
    built = {layer["name"]: _build_layer(layer) for layer in layers}
    return built[""] if "" in built else nn.Sequential(OrderedDict(built))


def load_head(head: nn.Module, folder: Path) -> None:
    """Fill a classifier with the weights of an exported folder.

    Raises:
        ValueError: the folder holds no classifier, or one of another shape.
    """
    tensors = read_weights(folder, read_description(folder)["weights_sha256"])
    fill(head, tensors, "head.", folder)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, folder: Path) -> None:
    """Load the tensors whose names begin with `prefix`; every weight must be there and fit."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ValueError(
            f"{folder / WEIGHTS}: does not fit the {prefix.rstrip('.')} of {DESCRIPTION}: {reason}"
        ) from None


def to_plain(value: Any, where: str) -> Any:
    """Mappings, sequences and paths as what JSON knows.

    Raises:
        ValueError: anything else; names where.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    # Sequence would be too narrow: OmegaConf's lists are none.
    if hasattr(value, "__iter__") and not isinstance(value, Tensor | bytes | set):
        return [to_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
    raise ValueError(f"{where}: {type(value).__name__} is not plain data (text, numbers, lists, mappings)")


def _build_layer(layer: Mapping[str, Any]) -> nn.Module:
    if layer["kind"] == "layer_norm":
        return nn.LayerNorm(layer["dim"], eps=layer["eps"])
    if layer["kind"] == "linear":
        return nn.Linear(layer["dim_in"], layer["dim_out"], bias=layer["bias"])
    raise ValueError(f"{DESCRIPTION}: unknown layer {layer['kind']!r} in the head; choose from layer_norm, linear")


@torch.no_grad()
def _check_rebuilt(head: nn.Module, layers: list[dict[str, Any]]) -> None:
    weight = next((tensor for tensor in head.parameters()), None)
    if not layers or weight is None or any("." in layer["name"] for layer in layers):
        raise ValueError(f"head: cannot export {type(head).__name__}; make it a Linear, or a Sequential of layers")
    copy = build_head(layers).to(weight).eval()
    copy.load_state_dict(head.state_dict())
    width = int(layers[0]["dim"] if layers[0]["kind"] == "layer_norm" else layers[0]["dim_in"])
    probe = torch.linspace(-1, 1, 2 * width, device=weight.device, dtype=weight.dtype).reshape(2, width)
    training = head.training
    expected = head.eval()(probe)
    head.train(training)
    if not torch.allclose(copy(probe), expected):
        raise ValueError(f"head: {type(head).__name__} computes something other than its layers one after the other")


def _refuse_foreign_modules(options: Any, path: Path) -> None:
    """`module:` imports code; a downloaded model may only name what is installed with this package."""
    if isinstance(options, list):
        for item in options:
            _refuse_foreign_modules(item, path)
    if not isinstance(options, dict):
        return
    module = options.get("module")
    if module is not None and not (isinstance(module, str) and module.startswith(TRUSTED)):
        raise ValueError(
            f"{path}: names the module {module!r}; only modules under {' and '.join(TRUSTED)} are imported"
        )
    for item in options.values():
        _refuse_foreign_modules(item, path)
