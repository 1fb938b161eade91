"""Describe a trained model in words, as `print(model)` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vcrast.inference.pieces import SHORTER

if TYPE_CHECKING:
    from vcrast.inference.model import Model


def described(model: Model) -> str:
    """The model's kind and size, origin, sounds and classes, a line each."""
    options, meta = model.encoder.options, model.meta
    depth = f"{options['depth']} layers of " if isinstance(options.get("depth"), int) else ""
    count = sum(weight.numel() for weight in model.encoder.parameters())
    weights = f"{count / 1e6:.1f} M" if count >= 1e5 else str(count)
    origin = ", ".join(f"{key} {meta[key]}" for key in ("recipe", "fold", "seed", "stage") if key in meta)
    origin += f", the mean of {len(meta['averaged'])} models" if "averaged" in meta else ""
    shorter = SHORTER.get(model.pad, model.pad)
    names = ", ".join(model.labels[:4]) + (", ..." if len(model.labels) > 4 else "")
    classes = f"{len(model.labels)} classes, {'any number' if model.multilabel else 'one'} a sound: {names}"
    lines = [
        f"<vcrast.Model {options.get('name', type(model.encoder).__name__)}, {depth}{model.embed_dim}, "
        f"{weights} weights, on {model.device}",
        f"from {origin}" if origin else "",
        f"hears {model.clip_duration_s:g} s at {model.sample_rate} Hz, {model.features.num_mel_bins} mel bins; "
        f"longer sounds are cut into windows, shorter ones {shorter}",
        "no classifier: embeds, cannot predict" if model.head is None else classes,
    ]
    return "\n  ".join(filter(None, lines)) + ">"
