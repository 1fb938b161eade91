"""Read the AST of Hugging Face transformers: names, sizes, labels, feature extractor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vcrast.models.layouts.base import Foreign, Wishes, check_shapes, find_patches, heads_of, make_head, part
from vcrast.models.layouts.reading import CONFIG, read_json
from vcrast.models.timm_weights import ImageGrid, Weights

MODEL_TYPE = "audio-spectrogram-transformer"
PREPROCESSOR = "preprocessor_config.json"
PREFIX = "audio_spectrogram_transformer."
KERNEL = "embeddings.patch_embeddings.projection.weight"
DEFAULTS = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "patch_size": 16, "qkv_bias": True, "frequency_stride": 10,
    "time_stride": 10, "max_length": 1024, "num_mel_bins": 128,
}  # fmt: skip
"""Of `ASTConfig`: what a `config.json` that leaves a key out means."""
SOUND = {"sampling_rate": 16000, "mean": -4.2677393, "std": 4.5689974, "do_normalize": True}
"""Of `ASTFeatureExtractor`, likewise."""
PLACES = {
    "embeddings.cls_token": "cls_token", "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed", "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}  # fmt: skip
HUB = {
    "attention.attention.query.": "attn.q.", "attention.attention.key.": "attn.k.",
    "attention.attention.value.": "attn.v.", "attention.output.dense.": "attn.out.", "intermediate.dense.": "fc1.",
    "output.dense.": "fc2.", "layernorm_before.": "norm1.", "layernorm_after.": "norm2.",
}  # fmt: skip
"""A block's names in files, as the hub has them and every version of transformers writes them."""
IN_MEMORY = {
    "attention.q_proj.": "attn.q.", "attention.k_proj.": "attn.k.", "attention.v_proj.": "attn.v.",
    "attention.o_proj.": "attn.out.", "mlp.fc1.": "fc1.", "mlp.fc2.": "fc2.", "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
}  # fmt: skip
"""The names that modules of transformers 5 have, and a state dict that was saved by torch."""
BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.*)")


def our_name(name: str) -> str | None:
    """The encoder's name for one of transformers, in timm's words where they are translated later; None: no such."""
    if block := BLOCK.fullmatch(name):
        for names in (HUB, IN_MEMORY):
            for theirs, ours in names.items():
                if block[2].startswith(theirs):
                    return f"blocks.{block[1]}.{ours}{block[2][len(theirs) :]}"
        return None
    return next((own + name[len(theirs) :] for theirs, own in PLACES.items() if name.startswith(theirs)), None)


def configs_beside(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`config.json` and `preprocessor_config.json` beside a file of weights, {} each where there is none.

    Raises:
        ValueError: damaged, or of another model.
    """
    config, sound = read_json(file.parent / CONFIG), read_json(file.parent / PREPROCESSOR)
    if config and config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{file.parent / CONFIG}: of a model_type {config.get('model_type')}; only {MODEL_TYPE} is read"
        )
    return config, sound


def read_huggingface(
    tensors: Weights, wishes: Wishes, where: str, config: Mapping[str, Any], sound: Mapping[str, Any]
) -> Foreign:
    """`ASTModel` or `ASTForAudioClassification`: the encoder by timm's names, classifier, labels and front end.

    Args:
        tensors: by transformers' names, as on the hub or as of transformers 5.
        wishes: of the user.
        where: beginning of messages.
        config: `config.json`, {} if there is none.
        sound: `preprocessor_config.json`, likewise.

    Raises:
        ValueError: sizes that do not go together, or a part that the AST does not have.
    """
    inside = {name.removeprefix("module.").removeprefix(PREFIX): value for name, value in tensors.items()}
    named = {name: our_name(name) for name in inside}
    weights = {own: inside[name] for name, own in named.items() if own is not None}
    rest = {name: inside[name] for name, own in named.items() if own is None}
    needed = ["cls_token", "dist_token", "pos_embed", "blocks.0.fc1.weight"]
    width, kernel = check_shapes(weights, needed, where), weights["patch_embed.proj.weight"]
    setup = checked(config, DEFAULTS, f"{where}: {CONFIG}")
    if setup["hidden_act"] != "gelu":
        raise ValueError(
            f"{where}: hidden_act {setup['hidden_act']}, this encoder's MLPs use gelu; choose another model"
        )
    for what, told, found in (
        ("hidden_size", setup["hidden_size"], kernel.shape[0]), ("patch_size", setup["patch_size"], kernel.shape[-1])
    ):  # fmt: skip
        if config and told != found:
            raise ValueError(f"{where}: {CONFIG} says {what} {told}, the weights {found}; they are of two models")
    size = (kernel.shape[3], kernel.shape[2])
    told = Wishes(
        num_frames=wishes.num_frames or setup["max_length"], num_mel_bins=wishes.num_mel_bins or setup["num_mel_bins"],
        patch_stride=wishes.patch_stride or (setup["time_stride"], setup["frequency_stride"]),
    ) if config else wishes  # fmt: skip
    patches = find_patches(weights["pos_embed"].shape[1] - 2, size, told, where)
    numbers = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    options = {
        "name": "ast", "embed_dim": width, "depth": len(numbers), "patch_size": list(size), "positions": "learned",
        "num_heads": heads_of(width, wishes, where) if wishes.num_heads or not config else setup["num_attention_heads"],
        "mlp_ratio": len(weights["blocks.0.fc1.weight"]) / width, "class_tokens": 2, "pool": "class", "norms": "pre",
        "readout": "pool", "norm_eps": float(setup["layer_norm_eps"]), "positions_stride": list(patches.stride),
        "patch_stride": list(patches.stride), "num_frames": patches.num_frames, "num_mel_bins": patches.num_mel_bins,
    }  # fmt: skip
    norm, last = part(rest, "classifier.layernorm."), part(rest, "classifier.dense.")
    has_head = bool(norm) and "weight" in last
    return Foreign(
        "huggingface", options, weights, ImageGrid(patches.grid[1], patches.grid[0]),
        head=make_head([(norm, options["norm_eps"]), (last, None)], width, where) if has_head else None,
        labels=labels_of(config, len(last["weight"])) if has_head else None,
        multilabel={"multi_label_classification": True, "single_label_classification": False}.get(
            str(config.get("problem_type"))
        ),
        front=front_of(sound, where),
        beside={name: value for name, value in rest.items() if not (has_head and name.startswith("classifier."))},
        notes=[] if config else [f"no {CONFIG} beside it: sizes are read off the tensors, {len(numbers)} blocks"],
    )  # fmt: skip


def checked(told: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of the keys of `defaults`, theirs where none is told; of a pair of equal numbers one.

    Raises:
        ValueError: a value of another type.
    """
    found = {}
    for key, default in defaults.items():
        value = told.get(key, default)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        kind = (int, float) if type(default) is float else type(default)
        if not isinstance(value, kind) or (isinstance(value, bool) and default is not True):
            raise ValueError(
                f"{where} says {key} {value!r}, where {type(default).__name__} is expected; fetch it again"
            )
        found[key] = value
    return found


def labels_of(config: Mapping[str, Any], count: int) -> list[str] | None:
    """The class names in the order of the outputs; None where the file has none, or only numbers."""
    told = config.get("id2label")
    names = {str(number): str(name) for number, name in told.items()} if isinstance(told, dict) else {}
    wanted = [str(number) for number in range(count)]
    if set(names) != set(wanted) or all(name == f"LABEL_{number}" for number, name in names.items()):
        return None
    return [names[number] for number in wanted]


def front_of(sound: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a feature extractor tells of the front end; nothing where there is none; errors as in `checked`."""
    if not sound:
        return {}
    told = checked(sound, SOUND, f"{where}: {PREPROCESSOR}")
    pair = (told["mean"], told["std"]) if told["do_normalize"] else (None, None)
    return {"sample_rate": told["sampling_rate"], "mean": pair[0], "std": pair[1]}


def is_huggingface(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the names of transformers' AST."""
    return any(name.endswith(KERNEL) for name in tensors)
