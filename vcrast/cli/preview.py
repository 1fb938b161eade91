"""`vcrast data preview`: write a page of generated pairs, or of the views of any sounds."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.options import show_log
from vcrast.config.files import options

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.config.schema import Config
    from vcrast.models.backbone import Backbone

LONGEST_S = 5.0  # of the clips on a page of views, which stays below 3 MB so


def add_preview(verbs: Any) -> None:
    """Declare `vcrast data preview`."""
    preview = verbs.add_parser(
        "preview",
        help="write a page to listen to: generated pairs, or the views of a dataset",
        description="Write a page to listen to. Of a source of generated pairs it holds pairs and their parameters; "
        "with --views, or of a dataset, some clips, all complete views of each, and each change of its sound alone.",
    )
    preview.add_argument("name", metavar="NAME", help="a source of generated pairs (synth, audiopg), or a dataset")
    preview.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings, such as source.distance=0.3, data.root=DIR, views=sounds",
    )
    preview.add_argument(
        "--views", action="store_true", help="what views make of the sounds: each change alone, and all together"
    )
    preview.add_argument(
        "--out", type=Path, default=None, metavar="FILE", help="the page (synth.html; views.html of views)"
    )
    preview.add_argument("--pairs", type=int, default=12, metavar="N", help="how many pairs (%(default)s)")
    preview.add_argument("--clips", type=int, default=3, metavar="N", help="how many clips of views (%(default)s)")
    preview.set_defaults(run=run_preview)


def run_preview(args: argparse.Namespace) -> int:
    """`vcrast data preview NAME [key=value ...] [--views] [--out FILE]`: the path of the page on standard output.

    Raises:
        ValueError: no pair or clip is asked for, no such source or dataset, or a setting is wrong.
    """
    generated = args.name in {name for name, _ in options("source")} - {"clips"}
    print(preview_views(args, generated=generated) if args.views or not generated else preview_pairs(args))
    return 0


def preview_pairs(args: argparse.Namespace) -> Path:
    """Write the page of pairs; errors as in `run_preview`."""
    from vcrast.config.compose import compose
    from vcrast.features.fbank import build_fbank
    from vcrast.runs.report.listening import write_listening_page

    if args.pairs < 1:
        raise ValueError(f"--pairs {args.pairs}: give at least 1")
    config = compose([f"source={args.name}", *args.overrides])
    return write_listening_page(
        args.out or Path("synth.html"),
        _pairs(config),
        build_fbank({**config.features, "name": "fbank"}, sample_rate=config.data.sample_rate),
        num_pairs=args.pairs,
        command=shlex.join(["vcrast", "data", "preview", args.name, *args.overrides, "--pairs", str(args.pairs)]),
    )


def preview_views(args: argparse.Namespace, *, generated: bool) -> Path:
    """Write the page of views; errors as in `run_preview`."""
    from vcrast.config.compose import compose, read_option
    from vcrast.data.backgrounds import recordings
    from vcrast.runs.report.views_page import write_views_page

    if args.clips < 1:
        raise ValueError(f"--clips {args.clips}: give at least 1")
    if not generated:
        show_log()
    config = compose([f"{'source' if generated else 'data'}={args.name}", *args.overrides])
    data = config.data
    names, wavs = (_generated if generated else _recorded)(config, args.clips)
    words = [args.name, *args.overrides, "--views", "--clips", str(args.clips)]
    return write_views_page(
        args.out or Path("views.html"),
        wavs,
        names,
        views=config.views,
        off=read_option("views", "none"),
        features={**config.features, "name": "fbank"},
        sample_rate=data.sample_rate,
        seed=config.run.seed,
        recordings=recordings(config.views, root=data.root, sample_rate=data.sample_rate),
        encoder=_encoder(config, wavs[0].shape[1]),
        command=shlex.join(["vcrast", "data", "preview", *words]),
    )


def _encoder(config: Config, num_samples: int) -> Backbone:
    """The model of a run on clips of this length, as far as its tokens need it: without most of its layers."""
    from vcrast.features.fbank import build_fbank
    from vcrast.runs.job import build_encoder

    config.data.clip_duration_s = num_samples / config.data.sample_rate
    config.model = {**config.model, **({"depth": 1} if "depth" in config.model else {})}
    fbank = build_fbank({**config.features, "name": "fbank"}, sample_rate=config.data.sample_rate)
    return build_encoder(config, fbank, patch_stride=config.pretrain.patch_stride)


def _pairs(config: Config) -> Any:
    from vcrast.data.streams import OF_THE_BATCH, doppelgangers

    if "program" not in config.source:
        raise ValueError(f"data preview: source={config.source['name']} generates no sounds; try synth, or a dataset")
    chosen = {key: value for key, value in config.source.items() if key not in OF_THE_BATCH}
    return doppelgangers(config.data, seed=config.run.seed, **chosen)


def _generated(config: Config, num_clips: int) -> tuple[list[str], tuple[Tensor, Tensor]]:
    """Names and both sounds of pairs."""
    sounds = _pairs(config)
    pairs = sounds.batch(0, num_clips)
    wavs = pairs.wavs[..., : round(LONGEST_S * config.data.sample_rate)]
    values = sounds.space.physical(pairs.units[:, 0])
    return [sounds.program.caption(values, n) for n in range(num_clips)], (wavs[:, 0], wavs[:, 1])


def _recorded(config: Config, num_clips: int) -> tuple[list[str], tuple[Tensor, Tensor]]:
    """Names and waveforms of clips from all over a dataset; only these are decoded."""
    from vcrast.data.loader import evaluation_batches
    from vcrast.data.open import OpenData, open_corpus

    data = config.data
    corpus = open_corpus(data, trains=False)
    data.clip_duration_s = min(data.clip_duration_s, LONGEST_S)
    count = min(num_clips, len(corpus.clips))
    clips = OpenData(data, corpus, None).dataset(corpus.clips, seed=config.run.seed)
    chosen = clips.only([n * len(corpus.clips) // count for n in range(count)])
    batch = next(evaluation_batches(chosen, batch_size=count, num_workers=0, device="cpu"))
    names = []
    for row in batch.index.tolist():
        clip = chosen.clips[row]
        labels = ", ".join(corpus.classes[label] for label in clip.labels)
        names.append(f"{labels} ({Path(clip.path).name})" if labels else Path(clip.path).name)
    return names, (batch.wav, batch.wav)
