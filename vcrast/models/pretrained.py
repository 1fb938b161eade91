"""Load weights into an encoder: an export of ours, or a timm vision transformer."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vcrast.config.quoting import split_source
from vcrast.models.attention import Attention
from vcrast.models.backbone import Backbone
from vcrast.models.block import NORM_EPS
from vcrast.models.checkpoint_source import find_source
from vcrast.models.description import (
    Difference,
    front_end_differences,
    model_differences,
    other_normalisation,
    other_options,
    tensor_sizes,
)
from vcrast.models.export import file_sha256, to_plain
from vcrast.models.pos_embed import LearnedPositions
from vcrast.models.timm_weights import (
    SOURCES,
    Vit,
    Weights,
    check_name,
    find_grid,
    from_timm,
    is_vit,
    move_class_tokens,
    read_timm,
    refuse_unsupported,
    said_of,
)
from vcrast.models.transfer import AS_AST, Transfer, fit_positions, refuse_kernels, transfer_of

log = logging.getLogger(__name__)

SETTING = "model.checkpoint="
BESIDE = re.compile(
    r"(cls_token|dist_token|reg_token|mask_token|pos_embed|head|head_dist|fc|fc_norm|mlp_head|classifier|pre_logits"
    r"|attn_pool|projector|predictor|decoder\w*)(\.|$)"
)
"""Names of what may lie beside an encoder in a file and is not taken over."""


def load_encoder(
    encoder: Backbone,
    source: str | Path,
    *,
    transfer: Transfer = AS_AST,
    features: Mapping[str, Any] | None = None,
    fold: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> list[str]:
    """Fill an encoder with trained weights; logs what was taken over and what was not.

    Args:
        encoder: of the same sizes as the weights; stride and clip length may differ.
        source: a `.safetensors` file of ours or of a timm ViT, an exported model, a run, `timm:NAME@FILE`, or
            `timm:NAME` or `hf-hub:ORG/NAME`, which timm downloads.
        transfer: how image kernels and positions are fitted.
        features: keywords of this run's `Fbank`, compared with those that the weights learnt with; None compares none.
        fold: that the weights are used in; of a run its model is taken.
        data: options of this run's data, which tell whether the weights have heard the fold's test clips.

    Returns:
        What the user must be told, one line each: positions that were dropped, another normalisation, and the like.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no safetensors file, or weights that do not fit the encoder or learnt with another front end.
    """
    where = f"{SETTING}{source}"
    if (named := timm_source(source)) is not None:
        own = encoder.from_timm(*named, where, kernels=transfer.kernels)
        if own is not None:
            notes = fill(encoder, own, where)
        else:
            vit = read_timm(named[0], where, num_mel_bins=getattr(encoder, "num_mel_bins", None), file=named[1])
            notes = load_vit(encoder, vit.weights, where, vit, transfer=transfer)
    else:
        found = find_source(source, where, fold=fold, data=data)
        notes = [*found.notes]
        if found.description is not None:
            notes += compare(found.description, encoder.options, where, features)
        weights, beside = read_file(found.path, where)
        ours = found.description is not None or encoder.state_dict().keys() <= weights.keys()
        if is_vit(weights) and not ours:  # HTS-AT's have such names, too
            notes += load_vit(encoder, weights, where, beside=beside, transfer=transfer)
        else:
            refuse_kernels(transfer, where)
            notes += fill(encoder, weights, where, beside, positions=transfer.positions)
        if found.description is None and features is not None:
            log.info("%s: no model.json beside it says which front end the weights learnt with", where)
    return [f"{where}: {note}" for note in notes]


def checkpoint_digest(model: Mapping[str, Any], *, fold: str, data: Mapping[str, Any]) -> str | None:
    """The content of the file behind `model.checkpoint`, in 16 digits; None without one, or where it cannot be read.

    Weights that timm downloads are those of their name. Arguments as in `check_checkpoint`.
    """
    source = model.get("checkpoint")
    named = None if source is None else timm_source(source)
    if source is None or (named is not None and named[1] is None):
        return None
    try:
        if named is not None and named[1] is not None:
            return file_sha256(named[1])[:16]
        return file_sha256(find_source(source, f"{SETTING}{source}", fold=fold, data=data).path)[:16]
    except (OSError, ValueError):  # a run whose stages are done does not need it any more; one that does will say so
        return None


def check_checkpoint(
    model: Mapping[str, Any],
    *,
    linear: Mapping[str, Any],
    features: Mapping[str, Any],
    fold: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a `model.checkpoint` that cannot be loaded, as far as that shows before an encoder is built.

    Args:
        model: options of the run's model.
        linear: options of its linear layers.
        features: keywords of the run's `Fbank`; mean and std are not needed.
        fold: see `load_encoder`.
        data: see `load_encoder`.

    Raises:
        FileNotFoundError: see `load_encoder`.
        ValueError: see `load_encoder`.
    """
    source, transfer = model.get("checkpoint"), transfer_of(model)
    if source is None:
        return
    where = f"{SETTING}{source}"
    if (named := timm_source(source)) is not None:
        check_name(named[0], where, weights=named[1] is None)
        if named[1] is not None and not named[1].is_file():
            raise FileNotFoundError(f"{where}: no such file; give timm:NAME@FILE, or timm:NAME to download it")
        return
    found = find_source(source, where, fold=fold, data=data)
    if found.description is not None:
        refuse_kernels(transfer, where)
        compare(found.description, {**model, "linear": linear}, where, features)


def timm_source(source: str | Path) -> tuple[str, Path | None] | None:
    """What timm calls the model that a source names, and the file of its weights, if any; None if it is not timm's."""
    prefix, path = split_source(str(source))
    if prefix:
        return prefix.removeprefix("timm:").removesuffix("@"), Path(path).expanduser()
    return (path.removeprefix("timm:"), None) if path.startswith(("timm:", *SOURCES)) else None


def compare(
    description: Mapping[str, Any], own: Mapping[str, Any], where: str, features: Mapping[str, Any] | None = None
) -> list[str]:
    """Compare a model's description with this run's encoder and front end.

    Returns:
        What differs and does no harm.

    Raises:
        ValueError: all that does, and the settings that would make both equal.
    """
    options, theirs = to_plain(own, "model"), description["features"]
    differences = model_differences(description["model"], options)
    notes = other_options(description["model"], options)
    if features is not None:
        plain = to_plain(features, "features")
        differences += front_end_differences(theirs, plain)
        notes += [text] if (text := other_normalisation(theirs, plain)) else []
    refuse(differences, where)
    return notes


def refuse(differences: list[Difference], where: str) -> None:
    """Refuse weights of another model.

    Raises:
        ValueError: there are differences; names them and the settings.
    """
    if differences:
        settings = dict.fromkeys(setting for _, setting in differences if setting)
        texts = "; ".join(text for text, _ in differences)
        raise ValueError(f"{where}: does not fit this run: {texts}; set {' '.join(settings)}, or choose other weights")


def read_file(path: Path, where: str) -> tuple[Weights, Weights]:
    """The encoder's part of a safetensors file, and what lies beside it.

    Raises:
        ValueError: another file, or one of several encoders.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{where}: not a readable safetensors file ({error})") from error
    if any(re.search(r"attention\.(attention|self)\.(query|q_proj)", name) for name in tensors):
        raise ValueError(
            f"{where}: has the names of Hugging Face transformers; `vcrast import FILE --out DIR` makes a model of it"
        )
    kernel = "patch_embed.proj.weight"
    prefixes = [name.removesuffix(kernel) for name in tensors if name.endswith(kernel)]
    if any(name.startswith("encoder.") for name in tensors):
        prefixes = ["encoder."]
    if len(prefixes) > 1:
        raise ValueError(f"{where}: holds several encoders ({', '.join(prefixes)}); keep the tensors of one")
    prefix = prefixes[0] if prefixes else ""
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return inside, {name: value for name, value in tensors.items() if not name.startswith(prefix)}


def load_vit(
    encoder: Backbone,
    weights: Weights,
    where: str,
    vit: Vit | None = None,
    beside: Mapping[str, Tensor] | None = None,
    *,
    transfer: Transfer = AS_AST,
) -> list[str]:
    """Fill an encoder with a timm ViT's weights; returns what the user must know.

    Args:
        encoder: to be filled.
        weights: of the ViT.
        where: beginning of messages.
        vit: the model as timm built it, None if there is only a file.
        beside: what else lies in the file.
        transfer: see `load_encoder`.

    Raises:
        ValueError: the ViT does not fit, or positions of which the grid cannot be told.
    """
    refuse_unsupported(weights, where)
    if not encoder.options.get("num_channels", 1) == 1:
        raise ValueError(f"{where}: weights of one channel, this run's features have several; set features=fbank")
    grid = None if vit is None else vit.grid
    doubt, positions = "", getattr(encoder, "pos_embed", None)
    if grid is None and "pos_embed" in weights and isinstance(positions, LearnedPositions):
        time, frequency, _ = positions.table.shape
        grid, doubt = find_grid(weights, (time, frequency), where)
    ours = from_timm(weights, grid, kernels=transfer.kernels)
    if count := encoder.options.get("class_tokens", 0):
        move_class_tokens(weights, ours, count, grid, where)
    if vit is not None and "num_heads" in encoder.options:
        sizes = {"num_heads": vit.num_heads, **tensor_sizes(ours)}
        refuse(model_differences(sizes, to_plain(encoder.options, "model")), where)
    eps = NORM_EPS if vit is None else vit.eps
    notes = [doubt, *said_of(weights, eps, encoder.options.get("norm_eps", eps))]
    notes += fill(encoder, ours, where, beside, positions=transfer.positions)
    if grid is not None and isinstance(positions, LearnedPositions):
        log.info("%s: positions read as %s", where, grid.text())
    return [note for note in notes if note]


def fill(
    encoder: Backbone,
    weights: Weights,
    where: str,
    beside: Mapping[str, Tensor] | None = None,
    *,
    positions: str | None = None,
) -> list[str]:
    """Copy weights by name, after fitting learned positions to the encoder's grid; logs how many, and what is left out.

    What belongs to an attention backend may be missing, superfluous or of another size, so that weights learnt under
    one backend load under another.

    Args:
        encoder: to be filled.
        weights: by the encoder's names; a head or decoder among them is left out.
        where: beginning of messages.
        beside: tensors that are left out in any case.
        positions: see `Transfer`.

    Returns:
        What the user must know: positions that are not used.

    Raises:
        ValueError: other names or shapes that differ.
    """
    own, notes = encoder.state_dict(), []
    left = {name: value for name, value in weights.items() if name not in own and BESIDE.match(name)}
    weights = {name: value for name, value in weights.items() if name not in left}
    given = len(weights.keys() & own.keys())
    if "mask_token" in own and "mask_token" not in weights:
        weights["mask_token"] = own["mask_token"]
    left.pop("mask_token", None)  # of a pretraining that masked; this stage does not
    if left.keys() & {"pos_embed.table", "pos_embed"}:
        notes = ["its learned positions are not used under model.positions=sincos; set model.positions=learned"]
    if "pos_embed.table" in weights:
        weights["pos_embed.table"] = fit_positions(
            weights["pos_embed.table"], own["pos_embed.table"].shape, how=positions
        )
    weights = fit_backends(encoder, encoder.fit_weights(weights), where)
    refuse(model_differences(tensor_sizes(weights), tensor_sizes(own)), where)
    refuse_others(weights, own, where)
    encoder.load_state_dict(weights)
    rest = left_out({**left, **(beside or {})})
    name = where.removeprefix(SETTING)
    log.info("encoder weights from %s: %d of %d tensors%s", name, given, len(own), rest and f"; left out: {rest}")
    return notes


def refuse_others(weights: Weights, own: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors of other names or shapes than the encoder's.

    Raises:
        ValueError: names the first ones.
    """
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not in the encoder" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, the encoder's {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ValueError(f"{where}: does not fit this encoder: {shown}; choose the model and linear it was made with")


def left_out(tensors: Mapping[str, Tensor]) -> str:
    """The parts that tensors belong to, with the classes of a head: `head (527 classes), cls_token`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parts.setdefault(name.partition(".")[0], {})[name] = value
    texts = []
    for part, inside in parts.items():
        layers = [value for value in inside.values() if value.ndim == 2]
        is_head = layers and ("head" in part or part in ("fc", "classifier"))
        size = f" ({len(layers[-1])} classes)" if is_head else f" ({len(inside)} tensors)" if len(inside) > 1 else ""
        texts.append(part + size)
    return ", ".join(texts)


def fit_backends(encoder: Backbone, weights: Weights, where: str) -> Weights:
    """The weights, with the encoder's own tensors where the file has none for its attention backends; logs which."""
    mixes = tuple(f"{name}.mix." for name, part in encoder.named_modules() if isinstance(part, Attention))
    built = {name: value for name, value in encoder.state_dict().items() if name.startswith(mixes)}
    given = {name: value for name, value in weights.items() if name.startswith(mixes)}
    fitting = {name for name in given if name in built and given[name].shape == built[name].shape}
    for names, what in ((given.keys() - fitting, "left out"), (built.keys() - fitting, "kept as built")):
        if names:
            log.info("%s: another attention backend; %s: %s", where, what, ", ".join(sorted(names)))
    rest = {name: value for name, value in weights.items() if name not in given}
    return {**rest, **built, **{name: given[name] for name in fitting}}
