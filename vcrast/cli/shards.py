"""`vcrast data shard` and `vcrast data verify`: pack into large files, check them."""

from __future__ import annotations

import argparse
import re
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcrast.cli.options import add_dataset, config_of, show_log

if TYPE_CHECKING:
    from vcrast.config.schema import DataConfig
    from vcrast.data.shards.tar import Packing


def add_parsers(verbs: Any) -> None:
    """Add both verbs to those of `data`."""
    shard = verbs.add_parser("shard", help="pack a dataset into large files, for fast reading at any scale")
    add_packing(shard)
    shard.add_argument(
        "--part", type=_part, default=(1, 1), metavar="i/n", help="write one of n parts, on one machine of n; from 1"
    )
    shard.set_defaults(run=run_shard)

    verify = verbs.add_parser("verify", help="check shards against their manifest; names damaged files and clips")
    verify.add_argument("root", metavar="DIR", help="folder of shards, or its URL")
    verify.add_argument("--decode", action="store_true", help="decode every clip as well")
    verify.set_defaults(run=run_verify)


def add_packing(parser: ArgumentParser) -> None:
    """Declare what is packed and how: all options but the part."""
    add_dataset(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the shards")
    parser.add_argument("--codec", default="flac", help="flac (default); wav: larger, faster; opus: small, lossy, slow")
    parser.add_argument(
        "--clips-per-shard", type=int, default=1000, metavar="N", help="clips in each file (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes that encode (default: cores)")


def packing_of(args: Namespace, data: DataConfig) -> Packing:
    """Turn the options of `add_packing` and the dataset's settings into how clips become shards."""
    from vcrast.data.shards.tar import Packing

    return Packing(args.codec, data.sample_rate, args.clips_per_shard, data.keep_silent, data.max_bad_fraction)


def run_shard(args: Namespace) -> int:
    """`vcrast data shard NAME [key=value ...] --out DIR`: the folder on standard output.

    Raises:
        ValueError: wrong options, other clips than the folder was begun with, too many that cannot be read.
        OSError: the folder cannot be written, or the disk is full.
    """
    from vcrast.data.open import open_corpus
    from vcrast.data.shards.corpus import origin
    from vcrast.data.shards.write import pack

    show_log()
    data = config_of(args).data
    packing, corpus = packing_of(args, data), open_corpus(data, trains=False)
    manifest = pack(corpus, args.out, packing, part=args.part, num_workers=args.workers, origin=origin(data))
    if manifest is not None:
        size = sum(shard.bytes for shard in manifest.shards)
        text = f"{manifest.num_clips} clips in {len(manifest.shards)} shards, {size / 1e6:.1f} MB"
        print(f"{text}; {len(manifest.left_out)} left out", file=sys.stderr)
        for name, reason in manifest.left_out:
            print(f"  {name}: {reason}", file=sys.stderr)
    print(args.out)
    return 0


def run_verify(args: Namespace) -> int:
    """`vcrast data verify DIR [--decode]`: what is damaged on standard output; 1 if anything is.

    Raises:
        FileNotFoundError, ValueError, ConnectionError: the manifest cannot be read.
    """
    from vcrast.config.compose import compose
    from vcrast.data.audio import MEMBERS
    from vcrast.data.members import SCHEME, Members
    from vcrast.data.shards.corpus import remote_files
    from vcrast.data.shards.verify import verify

    show_log()
    remote = remote_files(compose(["data=shards"]).data)
    MEMBERS[SCHEME] = Members(remote)
    manifest, damage = verify(args.root, remote, decode=args.decode)
    for file, reason, clips in damage:
        print(f"{file}: {reason}")
        for text in clips:
            print(f"  {text}")
    count = f"{manifest.num_clips} clips in {len(manifest.shards)} shards of {manifest.name}"
    print(f"{count}: {len(damage)} files damaged" if damage else f"{count}: all as they were written")
    return 1 if damage else 0


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text}: give i/n with i from 1 to n, such as 3/64")
    return int(found[1]), int(found[2])
