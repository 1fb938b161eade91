"""`vcrast export`: a run's model as a folder to pass on, as ONNX, or for transformers."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcrast.inference import Model


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "export",
        help="a run's model as safetensors, ONNX, or for Hugging Face transformers",
        description="safetensors: weights.safetensors and model.json, which vcrast.load reads. "
        "onnx: model.onnx maps fbank (batch, T, F), normalised as model.json says, to tokens (batch, N, D) and logits. "
        "hf: config.json, preprocessor_config.json and model.safetensors, which transformers' "
        "ASTForAudioClassification.from_pretrained loads (ASTModel without a classifier).",
    )
    parser.add_argument("model", metavar="RUN", help="run folder or exported model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; created if missing")
    parser.add_argument("--format", choices=("safetensors", "onnx", "hf"), default="safetensors")
    parser.add_argument("--fold", help="which fold's model; the first if left out")
    parser.add_argument("--stage", help="finetuned, pretrained, probe, unfinished or epoch_N; the first if left out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the model and print what was written."""
    if arguments.format == "onnx":
        require_onnx()
    from vcrast.config.atomic import write_atomic
    from vcrast.inference import load
    from vcrast.inference.loading import find_model
    from vcrast.models.export import DESCRIPTION, WEIGHTS, read_description, read_weights

    source = find_model(arguments.model, fold=arguments.fold, stage=arguments.stage)
    # A damaged export must not be passed on.
    description = read_description(source)
    read_weights(source, description["weights_sha256"])
    digest = description["weights_sha256"]
    if arguments.format == "hf":
        return export_hf(arguments.out, source, description)
    refuse_harm(arguments.out, [source], same=lambda there: there["weights_sha256"] == digest)
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = WEIGHTS if arguments.format == "safetensors" else "model.onnx"
    if weights == WEIGHTS:
        write_atomic(arguments.out / WEIGHTS, (source / WEIGHTS).read_bytes())
    else:
        write_onnx(load(source), arguments.out / weights)
    # Last: it says that the folder holds a model.
    write_atomic(arguments.out / DESCRIPTION, json.dumps(description, indent=2, allow_nan=False) + "\n")
    for name in (weights, DESCRIPTION):
        print(arguments.out / name)
    return 0


def export_hf(out: Path, source: Path, description: Mapping[str, Any]) -> int:
    """Write the folder that transformers loads, and print its files.

    Raises:
        ValueError: a model that transformers cannot express, or a folder that holds something else.
    """
    from vcrast.inference import load
    from vcrast.models.layouts.reading import CONFIG, FILES, read_json
    from vcrast.models.layouts.to_huggingface import differences, refuse_other, write_huggingface

    refuse_other(description)
    refuse_harm(out, [source], same=lambda _: False)
    digest = description["weights_sha256"]
    if (out / CONFIG).exists() and read_json(out / CONFIG).get("vcrast_weights_sha256") != digest:
        raise ValueError(f"--out {out}: holds another model ({CONFIG}); delete it or choose a new folder")
    if (out / FILES[0]).exists() and not (out / CONFIG).exists():
        raise ValueError(f"--out {out}: holds {FILES[0]} of unknown origin; delete it or choose a new folder")
    model = load(source)
    for note in differences(description):
        print(f"note: {note}", file=sys.stderr)
    for path in write_huggingface(out, model.encoder, model.head, description):
        print(path)
    return 0


def refuse_harm(out: Path, sources: Sequence[Path], *, same: Callable[[Mapping[str, Any]], bool]) -> None:
    """Refuse a folder in which the export would replace another model or become part of a run.

    Args:
        out: folder to write; it need not exist.
        sources: the models that it is made of.
        same: whether what a description tells of is the model to be written.

    Raises:
        ValueError: says what lies there.
    """
    from vcrast.models.export import DESCRIPTION, WEIGHTS, is_run, read_description

    place = out.resolve()
    if place in [source.resolve() for source in sources]:
        raise ValueError(f"--out {out}: is the model itself; choose another folder")
    if place.exists() and not place.is_dir():
        raise ValueError(f"--out {out}: is a file; name a folder")
    holders = [source.resolve().parent.parent for source in sources]
    own = {holder.parent for holder in holders if holder.name == "exported"}
    run = next((folder for folder in (place, *place.parents) if folder in own or is_run(folder)), None)
    if run is not None:
        raise ValueError(f"--out {out}: lies in the run {run}, whose own models must stay; choose a folder outside")
    if (place / DESCRIPTION).is_file():
        there = read_description(place)
        if not same(there):
            meta = ", ".join(f"{key} {there['meta'][key]}" for key in ("recipe", "fold") if key in there["meta"])
            raise ValueError(
                f"--out {out}: holds another model{meta and f' ({meta})'}; delete it or choose a new folder"
            )
    elif held := [name for name in (WEIGHTS, "model.onnx") if (place / name).exists()]:
        raise ValueError(f"--out {out}: holds {held[0]} of unknown origin; delete it or choose a new folder")


def require_onnx() -> None:
    """Refuse before the model is read where the packages are missing.

    Raises:
        ValueError: names the extra to install.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--format onnx: needs {' and '.join(missing)}; pip install 'vcrast[onnx]'")


def write_onnx(model: Model, path: Path) -> None:
    """Write `fbank (batch, T, F) -> tokens (batch, N, D)[, logits (batch, C)]` with a free batch size."""
    import torch
    from torch import Tensor, nn

    from vcrast.models.classifier import classify

    class Exported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = model.encoder, model.head

        def forward(self, fbank: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            tokens = self.encoder(fbank)
            values = tokens.values
            return values if self.head is None else (values, classify(self.encoder, self.head, tokens))

    num_frames = model.features.num_frames(model.num_samples)
    # Two clips: with one the exporter takes the batch for a constant.
    channels = [model.features.num_channels] if model.features.num_channels > 1 else []
    example = torch.zeros(2, *channels, num_frames, model.features.num_mel_bins)
    with torch.no_grad():
        model.encoder(example)  # fills its table of positions, which the exporter must find made
    names = ["tokens"] if model.head is None else ["tokens", "logits"]
    torch.onnx.export(
        Exported().eval(),
        (example,),
        str(path),
        input_names=["fbank"],
        output_names=names,
        dynamic_shapes={"fbank": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
