"""Read the same clips as other toolkits do: per-clip filterbanks, WebDataset, datasets."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
import torchaudio

Reader = Callable[[int], object]


def peers(work: Path) -> tuple[dict[str, Reader], list[str]]:
    """Return the ways of others, and what is not installed.

    Args:
        work: a folder with `files/*.flac` and shards of them in `flac/`.
    """
    files = sorted(map(str, (work / "files").glob("*.flac")))
    found: dict[str, Reader] = {
        "per file, torchaudio's Kaldi filterbank": lambda number: kaldi(files[number % len(files)]),
        "per file, soundfile alone": lambda number: torch.from_numpy(
            sf.read(files[number % len(files)], dtype="float32")[0]
        ),
    }
    missing = []
    for name, build in (("webdataset", webdataset), ("wids", wids), ("datasets", huggingface)):
        try:
            found.update(build(work, files))
        except ImportError as error:
            missing.append(f"{name} ({error})")
    return found, missing


def kaldi(path: str) -> torch.Tensor:
    """Decode and compute (T, 128) log-mel values, clip by clip, as AST's and SSAST's loaders do."""
    wav = torch.from_numpy(sf.read(path, dtype="float32")[0])[None]
    return torchaudio.compliance.kaldi.fbank(
        wav - wav.mean(), htk_compat=True, sample_frequency=16000, use_energy=False, window_type="hanning",
        num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip


def decode(content: bytes) -> torch.Tensor:
    """Decode the bytes of a sound file."""
    return torch.from_numpy(sf.read(io.BytesIO(content), dtype="float32")[0])


def webdataset(work: Path, files: list[str]) -> dict[str, Reader]:  # noqa: ARG001 (all peers are given both)
    """WebDataset's own pipeline over our shards: sequential, a shuffle buffer, soundfile as the decoder."""
    import webdataset as wds  # type: ignore[import-untyped]  # has no annotations

    urls = sorted(map(str, (work / "flac").glob("*.tar")))
    pipeline = (
        wds.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(100).decode(wds.handle_extension("flac", decode))
    )
    samples = itertools.chain.from_iterable(itertools.repeat(pipeline))
    return {"WebDataset on the same shards": lambda _: next(samples)["flac"]}


def wids(work: Path, files: list[str]) -> dict[str, Reader]:
    """WebDataset's random access (`wids`) to our shards."""
    import wids as package  # type: ignore[import-untyped]  # has no annotations

    shards = [{"url": str(path), "nsamples": count_clips(path)} for path in sorted((work / "flac").glob("*.tar"))]
    found: Any = package.ShardListDataset(shards, transformations=[], keep=True)
    order = np.random.default_rng(0).permutation(len(files))

    def read(number: int) -> torch.Tensor:
        sample = found[int(order[number % len(order)])]
        return decode(sample[".flac"].read())

    return {"wids on the same shards": read}


def count_clips(path: Path) -> int:
    """Count the sounds of a tar."""
    import tarfile

    with tarfile.open(path) as tar:
        return sum(member.name.endswith(".flac") for member in tar)


def huggingface(work: Path, files: list[str]) -> dict[str, Reader]:
    """Hugging Face datasets: an Arrow table of the same FLAC bytes, random rows, soundfile as the decoder."""
    import datasets  # type: ignore[import-untyped]  # has no annotations

    contents = [Path(path).read_bytes() for path in files]
    datasets.Dataset.from_dict({"audio": contents}).save_to_disk(str(work / "huggingface"))
    table = datasets.load_from_disk(str(work / "huggingface"))
    order = np.random.default_rng(0).permutation(len(files))
    return {
        "Hugging Face datasets, Arrow rows": lambda number: decode(table[int(order[number % len(order)])]["audio"]),
    }
