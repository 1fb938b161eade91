"""`vcrast data`: download, decode ahead, pack, write folds, statistics, preview."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from vcrast.cli import shards
from vcrast.cli.options import add_dataset, config_of, show_log
from vcrast.cli.preview import add_preview

log = logging.getLogger(__name__)


def add_parser(subparsers: Any) -> None:
    """Add `data` with its verbs to the command line."""
    data = subparsers.add_parser("data", help="download, prepare, pack, split, measure or preview a dataset")
    verbs = data.add_subparsers(dest="verb", required=True, metavar="VERB")

    download = verbs.add_parser("download", help="fetch a dataset and check it")
    download.add_argument("name", nargs="?", metavar="NAME", help="a dataset; left out: list those that can be fetched")
    download.add_argument("--root", type=Path, default=None, metavar="DIR", help="where to put it (default: data/NAME)")
    download.add_argument("--url", default=None, help="another address of the archive, or of the folder of several")
    download.add_argument(
        "--part", action="append", default=[], metavar="PART", help="of LibriSpeech, such as dev-clean; may be repeated"
    )
    download.set_defaults(run=run_download)

    for verb, run, text in (
        ("prepare", run_prepare, "check and decode every clip into the cache, ahead of a run"),
        ("stats", run_stats, "mean and std of the filterbank over the training clips, to paste into a YAML"),
    ):
        parser = verbs.add_parser(verb, help=text)
        add_dataset(parser)
        parser.set_defaults(run=run)

    splits = verbs.add_parser("splits", help="write which clip is in which fold, as a table that anybody can use")
    add_dataset(splits)
    splits.add_argument("--out", type=Path, default=None, metavar="FILE", help="the CSV file (default: print it)")
    splits.set_defaults(run=run_splits)

    shards.add_parsers(verbs)

    add_preview(verbs)


def run_download(args: argparse.Namespace) -> int:
    """`vcrast data download [NAME] [--root DIR] [--url URL] [--part PART]`: the path of the dataset on standard output.

    Raises:
        KeyError: the dataset declares no download; the message lists those that do.
        ValueError: no such dataset or part, or what came is not it.
        ConnectionError: the server refuses, or cannot be reached.
    """
    from vcrast.config.compose import compose
    from vcrast.config.registry import DOWNLOADS
    from vcrast.data.sources import import_sources

    data = compose([f"data={args.name}"]).data if args.name else None
    import_sources(data.module if data else None)
    if data is None:
        print("\n".join(sorted(DOWNLOADS.builders)))
        return 0
    show_log()
    fetch, given = DOWNLOADS.get(data.name), {"url": args.url, "parts": args.part}
    if args.part and "parts" not in inspect.signature(fetch).parameters:
        raise ValueError(f"--part {args.part[0]}: {data.name} is fetched as a whole")
    print(fetch(args.root, **{name: value for name, value in given.items() if value}))
    return 0


def run_prepare(args: argparse.Namespace) -> int:
    """`vcrast data prepare NAME [key=value ...]`: counts and faults on standard output."""
    from vcrast.data.open import open_corpus, open_data

    show_log()
    data = config_of(args).data
    corpus = open_corpus(data)
    opened = open_data(data, corpus)
    store = opened.store
    for text in opened.notes:
        log.warning("note: %s", text)
    folds = " ".join(corpus.folds) or "none"
    print(f"{corpus.name}: {len(corpus.clips)} clips, {len(corpus.classes)} classes, folds: {folds}")
    if store is None:
        print("data.cache=false: headers checked, nothing decoded")
        return 0
    seconds = sum(store.num_samples(i) for i in store.good) / data.sample_rate
    print(f"{len(store.good)} clips of {seconds:.1f} s in all, at {data.sample_rate} Hz in {store.path}")
    print(f"{len(store.faults)} left out")
    for clip, reason in store.faults:
        print(f"  {clip.where}: {reason}")
    return 0


def run_stats(args: argparse.Namespace) -> int:
    """`vcrast data stats NAME [key=value ...]`: YAML lines on standard output.

    Computed from the training part of the first chosen fold, even where the configuration has a pair.
    """
    from vcrast.data.corpus import select_folds
    from vcrast.data.open import open_corpus, prepare, resolve_stats
    from vcrast.features.fbank import build_fbank

    show_log()
    config = config_of(args)
    data = config.data
    data.mean = data.std = None
    corpus = open_corpus(data)
    folds = select_folds(corpus, data.folds)
    clips = corpus.split(folds[0])[0] if folds else list(corpus.clips)
    store = prepare(data, corpus.clips, corpus.classes)
    fbank = build_fbank({**config.features, "name": "fbank"}, sample_rate=data.sample_rate)
    mean, std = resolve_stats(data, clips, fbank=fbank, features=config.features, store=store)
    print(f"mean: {mean:.7f}\nstd: {std:.6f}")
    return 0


def run_splits(args: argparse.Namespace) -> int:
    """`vcrast data splits NAME [key=value ...] [--out FILE]`: the table, or its path, on standard output.

    Raises:
        ValueError: the dataset has no folds.
        OSError: the file cannot be written.
    """
    from vcrast.config.atomic import write_atomic
    from vcrast.data.folding import split_table
    from vcrast.data.open import open_corpus

    show_log()
    corpus = open_corpus(config_of(args).data, trains=False)
    table, base = split_table(corpus)
    counts = Counter(clip.fold for clip in corpus.clips)
    log.info("%s: %s%s", corpus.name, ", ".join(f"{counts[name]} clips in {name or 'none'}" for name in sorted(counts)),
             f"; paths begin at {base}" if base else "")  # fmt: skip
    for text in corpus.notes:
        log.warning("note: %s", text)
    if args.out is None:
        sys.stdout.write(table.decode("utf-8"))
        return 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out, table)
    print(args.out)
    return 0
