"""Write a model of ours as transformers' AST loads it, feature extractor included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vcrast.config.atomic import write_atomic
from vcrast.models.backbone import Backbone
from vcrast.models.layouts.huggingface import HUB, KERNEL, MODEL_TYPE, PREFIX, PREPROCESSOR
from vcrast.models.layouts.reading import CONFIG, FILES

SAME = ("softmax", "memory_efficient")
"""Attention backends that compute what transformers' AST does."""
FIXED = {
    "name": "fbank", "window_ms": 25.0, "window": "hann", "frame_shift_ms": 10.0, "low_freq_hz": 20.0,
    "high_freq_hz": 0.0, "preemphasis": 0.97,
}  # fmt: skip
"""Of the front end: what `ASTFeatureExtractor` computes and cannot be told otherwise."""


def refuse_other(description: Mapping[str, Any]) -> None:
    """Refuse a model that transformers' AST does not compute.

    Args:
        description: `model.json`.

    Raises:
        ValueError: names all that differs, and the settings of a run whose model can be written.
    """
    model, found, ways = description["model"], list[str](), list[str]()
    if model.get("name") != "ast":
        raise ValueError(f"--format hf: a model of name={model.get('name')}; transformers' AST is an ast alone")
    if model["class_tokens"] != 2 or model["pool"] != "class":
        what = f"{model['class_tokens']} class tokens, pool={model['pool']}"
        found.append(f"{what}: its vector is always the mean of a class and a distillation token")
        ways.append("model.class_tokens=2 model.pool=class")
    if model["readout"] != "pool":
        found.append(f"readout={model['readout']}: its classifier reads that vector")
        ways.append("model.readout=pool")
    if len(set(model["patch_size"])) > 1:
        found.append(f"patches of {list(model['patch_size'])}: its are square")
        ways.append("model.patch_size=[16,16]")
    if model["norms"] != "pre":
        found.append(f"norms={model['norms']}: its norms come before each branch and at the end")
        ways.append("model.norms=pre")
    if model["attention"]["name"] not in SAME:
        found.append(f"attention={model['attention']['name']}: it computes softmax attention")
        ways.append("attention=softmax")
    if model["linear"]["name"] != "real":
        found.append(f"linear={model['linear']['name']}: its layers are real")
        ways.append("linear=real")
    for key, value in FIXED.items():
        if description["features"][key] != value:
            found.append(f"features.{key}={description['features'][key]}: its feature extractor has {value}")
            ways.append("features=fbank" if key == "name" else f"features.{key}={value}")
    layers = description["head"]
    if layers is not None and [layer["kind"] for layer in layers] != ["layer_norm", "linear"]:
        found.append("a classifier that is not a norm and a linear layer; --stage finetuned has one that is")
    if found:
        with_these = f"; a run with {' '.join(ways)} can be written" if ways else ""
        raise ValueError(f"--format hf: transformers' AST cannot express {'; '.join(found)}{with_these}")


def differences(description: Mapping[str, Any]) -> list[str]:
    """What transformers will do otherwise with a model that can be written, for the user to know."""
    notes, layers = [], description["head"] or []
    eps = description["model"]["norm_eps"]
    other = [layer["eps"] for layer in layers if layer["kind"] == "layer_norm" and layer["eps"] != eps]
    if other:
        notes.append(
            f"the classifier's norm adds {other[0]:g} to the variance, transformers has one number for all norms, "
            f"{eps:g}: scores differ by rounding"
        )
    notes.append("its feature extractor takes the first frames of a longer sound, where vcrast averages over windows")
    if description["pad"] != "zeros":
        notes.append("it fills a shorter sound's filterbank with zeros, as vcrast does with pad=zeros alone")
    return notes


@torch.no_grad()
def huggingface_tensors(encoder: Backbone, head: nn.Module | None) -> dict[str, Tensor]:
    """The tensors by the names of the hub; those of `ASTForAudioClassification` where there is a head.

    Positions are those of the clip that the model was built for, whatever table they come from, in the order of
    transformers: all times of the lowest frequency first. The class tokens' are part of the tokens here, and 0 there.
    """
    own, prefix = encoder.state_dict(), "" if head is None else PREFIX
    kernel, tokens = own["patch_embed.proj.weight"], own["class_token"]
    found = {
        "embeddings.cls_token": tokens[None, :1], "embeddings.distillation_token": tokens[None, 1:],
        "embeddings.position_embeddings": positions(encoder), KERNEL: kernel.transpose(2, 3),
        KERNEL.replace("weight", "bias"): own["patch_embed.proj.bias"],
        "layernorm.weight": own["norm.weight"], "layernorm.bias": own["norm.bias"],
    }  # fmt: skip
    for name, value in own.items():
        if name.startswith("blocks."):
            _, number, inside = name.split(".", 2)
            theirs = next((theirs for theirs, ours in HUB.items() if inside.startswith(ours)), None)
            assert theirs is not None, name
            found[f"encoder.layer.{number}.{theirs}{inside.rpartition('.')[2]}"] = value
    found = {prefix + name: value for name, value in found.items()}
    for theirs, layer in zip(("layernorm", "dense"), [] if head is None else head.children(), strict=head is not None):
        for end, value in layer.state_dict().items():
            found[f"classifier.{theirs}.{end}"] = value
    return {name: value.detach().cpu().clone().contiguous() for name, value in found.items()}


def positions(encoder: Any) -> Tensor:
    """(1, 2 + N, D) of the encoder's own clip, frequency-major behind two zeros."""
    time, frequency = encoder.grid(encoder.num_frames)
    embed = encoder.patch_embed
    table = encoder.pos_embed((time, frequency), embed.patch_size, embed.patch_stride, like=embed.proj.weight)
    by_frequency = table.unflatten(0, (time, frequency)).transpose(0, 1).flatten(0, 1)
    return torch.cat([by_frequency.new_zeros(2, by_frequency.shape[1]), by_frequency])[None]


def configs(encoder: Any, description: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`config.json` and `preprocessor_config.json` by name."""
    model, features, labels = description["model"], description["features"], description["labels"]
    stride, width = encoder.patch_embed.patch_stride, model["embed_dim"]
    config: dict[str, Any] = {
        "architectures": ["ASTModel" if description["head"] is None else "ASTForAudioClassification"],
        "model_type": MODEL_TYPE, "hidden_size": width, "num_hidden_layers": model["depth"],
        "num_attention_heads": model["num_heads"], "intermediate_size": round(width * model["mlp_ratio"]),
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model["norm_eps"], "qkv_bias": True, "patch_size": model["patch_size"][0],
        "time_stride": stride[0], "frequency_stride": stride[1], "max_length": encoder.num_frames,
        "num_mel_bins": encoder.num_mel_bins, "vcrast_weights_sha256": description["weights_sha256"],
    }  # fmt: skip
    if description["head"] is not None:
        config |= {
            "id2label": {str(number): name for number, name in enumerate(labels)},
            "label2id": {name: number for number, name in enumerate(labels)},
            "problem_type": f"{'multi' if description['multilabel'] else 'single'}_label_classification",
        }
    mean, std = features.get("mean"), features.get("std")
    normalised = {"do_normalize": mean is not None, **({} if mean is None else {"mean": mean, "std": std})}
    sound = {
        "feature_extractor_type": "ASTFeatureExtractor", "feature_size": 1, "max_length": encoder.num_frames,
        "num_mel_bins": encoder.num_mel_bins, "padding_side": "right", "padding_value": 0.0,
        "return_attention_mask": False, "sampling_rate": description["sample_rate"], **normalised,
    }  # fmt: skip
    return {CONFIG: config, PREPROCESSOR: sound}


def write_huggingface(
    folder: Path, encoder: Backbone, head: nn.Module | None, description: Mapping[str, Any]
) -> list[Path]:
    """Write `model.safetensors`, `preprocessor_config.json` and, last, `config.json`; transformers need not be there.

    Args:
        folder: created if missing.
        encoder: as described.
        head: likewise.
        description: `model.json`; see `refuse_other`.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blob = save(huggingface_tensors(encoder, head), {"format": "pt"})
    texts = configs(encoder, description)
    write_atomic(folder / FILES[0], blob)
    for name in (PREPROCESSOR, CONFIG):
        write_atomic(folder / name, json.dumps(texts[name], indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    return [folder / name for name in (FILES[0], PREPROCESSOR, CONFIG)]
