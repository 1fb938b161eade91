"""Probe a model, its untrained twin and the filterbank; print or plot the scores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vcrast.data.synth.control import LOWEST_RATE
from vcrast.inference import Model, load
from vcrast.models.backbone import build_backbone
from vcrast.runs.job import seed_for
from vcrast.runs.progress import Progress

from .figure import probe_figure
from .probe import Probed, probe

RIVALS = ("encoder", "untrained", "log_mel")


def run(arguments: argparse.Namespace) -> int:
    """Probe the model and print what was found.

    Raises:
        ValueError: an option out of its range.
        FileNotFoundError: the folder for the plot does not exist.
    """
    for name in ("layers", "batch_size"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: must be at least 1")
    check_plot(arguments.plot)
    model = load(arguments.model, fold=arguments.fold, stage=arguments.stage, device=arguments.device)
    seconds = model.clip_duration_s if arguments.seconds is None else arguments.seconds
    found = probe_model(
        model, num_sounds=arguments.sounds, duration_s=seconds, seed=arguments.seed, num_layers=arguments.layers,
        batch_size=arguments.batch_size, shown=True,
    )  # fmt: skip
    asked = {"sounds": arguments.sounds, "seconds": seconds, "layers": arguments.layers, "seed": arguments.seed}
    if arguments.json:
        print(json.dumps({"model": arguments.model, **asked, **plain(found)}))
    else:
        print("\n".join(table(found, asked)))
    if arguments.plot is not None:
        probe_figure(found).save(arguments.plot)
    return 0


def check_plot(path: Path | None) -> None:
    """Refuse a plot that cannot be written, before minutes are spent on it.

    Raises:
        ValueError: another format than PNG.
        FileNotFoundError: no such folder.
    """
    if path is not None and path.suffix.lower() != ".png":
        raise ValueError(f"--plot {path}: choose a name that ends in .png")
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(f"--plot {path}: the folder {path.parent} does not exist")


def probe_model(
    model: Model,
    *,
    num_sounds: int,
    duration_s: float,
    seed: int = 0,
    num_layers: int = 1,
    batch_size: int = 32,
    shown: bool = False,
) -> Probed:
    """Probe a model, its untrained twin and the statistics of its filterbank on the same sounds.

    Sounds of another length than the model's clips are neither padded nor cut, as in pretraining.

    Args:
        model: from `vcrast.load`.
        num_sounds: rendered, a quarter of them held out.
        duration_s: of a sound.
        seed: of the sounds.
        num_layers: of a sound.
        batch_size: sounds embedded at once.
        shown: whether to tell on stderr how far it is.

    Returns:
        Scores under `encoder`, `untrained` and `log_mel`.

    Raises:
        ValueError: as in `probe`.
    """
    # A model of a lower rate hears them as it hears any file of another rate.
    rate = max(model.sample_rate, LOWEST_RATE)
    num_samples = round(duration_s * rate)
    trained = of_length(model, -(-num_samples * model.sample_rate // rate))
    fresh = untrained(trained, run_seed=int(model.meta.get("seed", 0)))
    embedders = {
        "encoder": lambda wavs: trained.embed(wavs, rate, layout="batch", batch_size=batch_size),
        "untrained": lambda wavs: fresh.embed(wavs, rate, layout="batch", batch_size=batch_size),
        "log_mel": lambda wavs: log_mel_statistics(trained, wavs, rate),
    }
    with Progress("probe", "", num_sounds, shown=shown, device=model.device) as progress:
        return probe(
            embedders, num_sounds=num_sounds, num_samples=num_samples, sample_rate=rate, seed=seed,
            num_layers=num_layers, device=model.device, heard=progress.update,
        )  # fmt: skip


def of_length(model: Model, num_samples: int) -> Model:
    """The model for clips of `num_samples` at its rate: the encoder takes any length."""
    return Model(
        model.encoder, model.features, None, labels=model.labels, multilabel=model.multilabel,
        clip_duration_s=num_samples / model.sample_rate, pad=model.pad, meta=model.meta, device=model.device,
    )  # fmt: skip


def untrained(model: Model, *, run_seed: int) -> Model:
    """The same architecture with the weights that a run of this seed begins with, as `evaluate` compares with."""
    torch.manual_seed(seed_for(run_seed, "encoder"))
    return Model(
        build_backbone(model.encoder.options), model.features, None, labels=model.labels, multilabel=model.multilabel,
        clip_duration_s=model.clip_duration_s, pad=model.pad, meta=model.meta, device=model.device,
    )  # fmt: skip


def log_mel_statistics(model: Model, wavs: Tensor, sample_rate: int) -> Tensor:
    """(b, S) -> (b, 2 F) mean and std over time of the filterbank, all channels: what needs no encoder."""
    clips, _ = model.read(wavs, sample_rate, layout="batch")
    with torch.no_grad():
        fbank = model.features(torch.stack(clips).to(model.device))
    return torch.cat([fbank.mean(dim=-2).flatten(1), fbank.std(dim=-2).flatten(1)], dim=1)


def plain(found: Probed) -> dict[str, Any]:
    """The scores as JSON knows them."""
    return {
        "held_out": found.num_held_out,
        "kind": {"chance": found.chance, "accuracy": found.accuracy},
        "groups": found.groups,
        "parameters": {name: finding._asdict() for name, finding in found.parameters.items()},
        "unscored": list(found.unscored),
    }


def table(found: Probed, asked: dict[str, Any]) -> Iterator[str]:
    """The lines of the table: a group's mean above its parameters."""
    layers = f"{asked['layers']} layer{'s' if asked['layers'] > 1 else ''}"
    yield f"{asked['sounds']} sounds of {asked['seconds']:g} s, {layers}, seed {asked['seed']}; R2 on held-out sounds"
    yield f"{'':<24}{'encoder':>10}{'untrained':>11}{'log-mel':>9}{'sounds':>8}"
    yield _line("kind (accuracy)", found.accuracy, found.num_held_out) + f"   chance {found.chance:.2f}"
    for group, scores in found.groups.items():
        yield _line(group, scores)
        for name, finding in found.parameters.items():
            if finding.group == group:
                yield _line(f"  {name}", finding.r2, finding.held_out)
    if found.unscored:
        yield f"not scored, too few sounds in which they act: {', '.join(found.unscored)}"
    if asked["layers"] > 1:
        yield "layers are interchangeable: nothing says which is the first, so that their scores cannot reach 1"


def _line(name: str, scores: dict[str, float], sounds: int | str = "") -> str:
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    encoder, fresh, log_mel = (round(scores[rival], 2) + 0.0 for rival in RIVALS)
    return f"{name:<24}{encoder:>10.2f}{fresh:>11.2f}{log_mel:>9.2f}{sounds:>8}".rstrip()
