"""Find and read the sounds a verb is given: files, folders, patterns, addresses, stdin."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from torch import Tensor

    from vcrast.inference import Model

STDIN = "-"
MAX_DOWNLOAD_BYTES = 2 * 10**9
ATTEMPTS = 3
SHOWN = 20  # files left out that are named; more are counted
PATHS_HELP = "sound files, folders to search through, patterns in quotes, http(s) addresses, or - for standard input"
ADDRESS_SIGNS = "%/:?#[]@!$&'()*+,;=~"
"""What stands in addresses as it is; spaces and letters that are not ASCII are written in code, as browsers do."""
HEAD_BYTES = 16
CONTAINERS = {b"ftyp": (4, ".m4a"), b"\x1aE\xdf\xa3": (0, ".webm"), b"0&\xb2u": (0, ".wma"), b"#!AMR": (0, ".amr")}
"""First bytes of what ffmpeg decodes, which is known by its ending: where they stand, and the ending."""


class Sounds:
    """The sounds that the words of a command line mean, each once; what is left out is told on stderr.

    Attributes:
        names: of the sounds, as results name them: paths as given or below the folder given, addresses, `-`.
        below: name -> path below the folder that it was found in, for files written about it.
        bad: how many sounds were left out so far.
        unread: those of them that were found to be unreadable while reading.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Search.

        Raises:
            FileNotFoundError: a path that does not exist, or nothing to read.
            ValueError: standard input twice, or a terminal; an address of no server.
        """
        self.below: dict[str, str] = {}
        self.bad = self.unread = self._lost = 0
        self._seen: set[str] = set()
        reasons: list[str] = []
        for word in words:
            reasons += self._find(word)
        if not self.below:
            from vcrast.data.audio import sound_suffixes

            why = "; ".join(reasons) or f"looked for {', '.join(sound_suffixes())}"
            raise FileNotFoundError(f"{', '.join(words)}: no sound files there; {why}")
        for reason in reasons:
            print(f"note: {reason}", file=sys.stderr)

    @property
    def names(self) -> list[str]:
        """Of all sounds, in order."""
        return list(self.below)

    def read(self, model: Model) -> Iterator[tuple[str, Tensor]]:
        """Yield name and samples of every readable sound; the others are named on stderr."""
        import torch

        scaled: list[str] = []
        for name in self.names:
            try:
                with _local(name) as path:
                    found = model.read_file(path)
            except (ValueError, OSError) as error:
                self._leave_out(f"{name}: {getattr(error, 'reason', None) or _without(name, str(error))}")
                continue
            if found.scale != 1.0:
                scaled.append(f"{name} by {found.scale:g}")
            yield name, torch.from_numpy(found.wav)
        if scaled:
            from vcrast.data.listing import in_short

            print(f"note: samples beyond 1, divided by their full scale: {in_short(scaled)}", file=sys.stderr)

    def tell(self) -> None:
        """Tell how many were left out."""
        if self.bad:
            total = len(self.below) + self._lost
            print(f"{self.bad} of {total} files left out", file=sys.stderr)

    def _leave_out(self, text: str) -> None:
        self.bad += 1
        self.unread += 1
        if self.unread <= SHOWN:
            print(f"left out: {text}", file=sys.stderr)
        elif self.unread == SHOWN + 1:
            print("left out: more, which are only counted", file=sys.stderr)

    def _find(self, word: str) -> list[str]:
        """Enter what a word means; returns what was left out and why."""
        from vcrast.data.audio import is_generated
        from vcrast.data.listing import find_sounds

        if word == STDIN:
            if STDIN in self.below:
                raise ValueError("-: standard input can be read once")
            if sys.stdin is None or sys.stdin.isatty():
                raise ValueError("-: standard input is a terminal; pipe a sound file into it")
            self.below[STDIN] = "stdin"
            return []
        if is_address(word):
            self.below.setdefault(word, _named(word))
            return []
        if is_generated(word):
            self.below.setdefault(word, word.replace("/", "_"))
            return []
        reasons = []
        for path in _meant(word):
            listing = find_sounds(path)
            for sound in listing.sounds:
                identity = os.path.abspath(sound)
                if identity not in self._seen:
                    self._seen.add(identity)
                    self.below[str(sound)] = os.path.relpath(sound, listing.root)
            lost = len(listing.lost)
            self._lost += lost
            self.bad += lost
            others = listing.others()
            reasons += [f"{path}: {note}" for note in (*listing.notes(), *([others] if others else []))]
        return reasons


def is_address(word: str) -> bool:
    """Tell whether a word is fetched."""
    return word.lower().startswith(("http://", "https://"))


def _named(address: str) -> str:
    """Return the name of the file at an address, for files written about it: never a path.

    Raises:
        ValueError: it names no server.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise ValueError(f"{address}: no address ({error})") from None
    if not host:
        raise ValueError(f"{address}: names no server, such as https://example.org/dog.wav")
    name = Path(unquote(parts.path).replace("\\", "/")).name
    return "".join(letter for letter in name if ord(letter) >= ord(" ")).strip(". ") or host


def _meant(word: str) -> list[Path]:
    """Return the file or folder called so, or else those that fit the pattern.

    Raises:
        FileNotFoundError: there is none.
    """
    from vcrast.data.listing import SKIPPED

    path = Path(word)
    if not path.exists():
        path = path.expanduser()
    if path.exists():
        return [path]
    if glob.has_magic(word):
        found = [Path(each) for each in sorted(glob.glob(os.path.expanduser(word), recursive=True))]
        found = [each for each in found if not set(SKIPPED).intersection(each.parts)]
        if not found:
            raise FileNotFoundError(f"{word}: nothing fits this pattern")
        return found
    raise FileNotFoundError(f"{word}: no such file or folder")


@contextlib.contextmanager
def _local(name: str) -> Iterator[str]:
    """The path of a sound's file; what is fetched or piped in lies in a temporary folder as long as it is needed.

    Raises:
        OSError: it cannot be fetched.
    """
    if name != STDIN and not is_address(name):
        yield name
        return
    from vcrast.data.audio import sound_suffixes
    from vcrast.data.download import fetch

    with tempfile.TemporaryDirectory(prefix="vcrast-") as folder:
        path = Path(folder) / "sound"
        if name == STDIN:
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            address = quote(name, safe=ADDRESS_SIGNS)
            fetch(address, path, attempts=ATTEMPTS, max_bytes=MAX_DOWNLOAD_BYTES, keep_part=False)
        suffix = Path(urlsplit(name).path).suffix.lower()
        yield str(path.rename(path.with_suffix(suffix if suffix in sound_suffixes() else _container(path))))


def _container(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((suffix for mark, (at, suffix) in CONTAINERS.items() if head[at:].startswith(mark)), ".wav")


def _without(name: str, text: str) -> str:
    return text.removeprefix(f"{name}: ").removeprefix(f"{quote(name, safe=ADDRESS_SIGNS)}: ")
