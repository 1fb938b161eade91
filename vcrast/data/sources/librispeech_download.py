"""Download subsets of LibriSpeech, check and unpack them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vcrast.config.registry import DOWNLOADS
from vcrast.config.words import suggest
from vcrast.data.archive import Archive, install
from vcrast.data.sources.librispeech import ARCHIVE_FOLDER, DEFAULT_ROOT, NUM_UTTERANCES, read_subset

log = logging.getLogger(__name__)

URL = "https://www.openslr.org/resources/12"
CHECKSUMS = {
    "dev-clean": "sha256:76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "sha256:12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "sha256:39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "sha256:d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "sha256:d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "sha256:146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "sha256:ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}
USUAL = ("train-clean-100",)
MAX_BYTES, MAX_FILES = 50_000_000_000, 400_000  # the largest subset: 31 GB in 155,000 entries


@DOWNLOADS.register("librispeech")
def download_librispeech(
    root: Path | None = None, *, url: str = URL, parts: Sequence[str] = USUAL, pause_s: float = 1.0
) -> Path:
    """Put subsets of LibriSpeech (CC BY 4.0) into `root`/LibriSpeech, those that are not there.

    Args:
        root: default data/librispeech.
        url: of the folder with `<subset>.tar.gz`, for mirrors, whose content is checked and not their checksums.
        parts: subsets; train-clean-100 (6.4 GB), train-clean-360 (23 GB), train-other-500 (31 GB), dev and test sets.
        pause_s: before a failed transfer is repeated.

    Returns:
        `root`/LibriSpeech.

    Raises:
        ConnectionError: see `fetch`.
        ValueError: no such subset, or an archive that is damaged or something else; it is deleted.
        OSError: the disk is full.
    """
    root = DEFAULT_ROOT if root is None else root
    for subset in parts:
        if subset not in NUM_UTTERANCES:
            raise ValueError(f"--part {subset}: {suggest(subset, NUM_UTTERANCES)}")
    for subset in parts:
        folder = root / ARCHIVE_FOLDER / subset
        if not content_fault(subset, folder):
            log.info("%s is already in %s", subset, folder)
            continue
        place, name = f"{ARCHIVE_FOLDER}/{subset}", f"{subset}.tar.gz"
        archive = Archive(
            f"{url.rstrip('/')}/{name}", name, place, MAX_BYTES, MAX_FILES, fault=partial(content_fault, subset),
            licence="CC BY 4.0", checksum=CHECKSUMS[subset] if url == URL else None,
        )  # fmt: skip
        install(archive, root, pause_s=pause_s)
    return root / ARCHIVE_FOLDER


def content_fault(subset: str, folder: Path) -> str:
    """Say what is missing in the folder of a subset, or ""."""
    if folder.name != subset or not folder.is_dir():
        return f"no folder {subset}"
    try:
        found = read_subset(folder)
    except ValueError as error:
        return str(error)
    empty = [utterance.path for utterance in found if not Path(utterance.path).stat().st_size]
    if empty:
        return f"{empty[0]} is empty"
    expected = NUM_UTTERANCES[subset]
    return "" if len(found) == expected else f"{len(found)} utterances of {subset}, expected {expected}"
