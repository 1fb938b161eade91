"""Decode through the `ffmpeg` command, as one stream from a file's beginning."""

from __future__ import annotations

import functools
import json
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vcrast.data.stretch import AudioFault, UnknownFormat

TIMEOUT_S = 60.0  # without a byte of output
# A playlist in the clothes of a sound file must reach neither the network nor other files.
DEMUXERS = "mov,matroska,aac,asf,amr,ac3,eac3,mp3,ogg,wav,w64,flac,aiff,au,caf,avi,ape,wv,tta,flv,mpeg,mpegts"
SAFE = ("-v", "error", "-protocol_whitelist", "file,pipe", "-format_whitelist", DEMUXERS)
EXACT = ("mov", "matroska", "asf")  # containers that declare the length of what they hold


class Info(NamedTuple):
    """What a container says: sample rate in Hz, length in seconds (0: unknown), and how sound is stored.

    `exact` tells whether the length is declared rather than guessed from the bit rate.
    """

    sample_rate: int
    duration_s: float
    floats: bool
    exact: bool


@functools.cache
def is_installed() -> bool:
    """Tell whether `ffmpeg` and `ffprobe` are on the path."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def probe(path: str) -> Info:
    """Read what the container says of its first sound stream.

    Raises:
        AudioFault: not a sound file, or one without sound.
    """
    entries = "stream=codec_name,sample_rate,duration:stream_tags=DURATION:format=format_name,duration,nb_streams"
    command = ["ffprobe", *SAFE, "-select_streams", "a:0", "-show_entries", entries, "-of", "json", f"file:{path}"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise AudioFault(path, f"cannot be decoded (ffprobe gave nothing for {TIMEOUT_S:.0f} s)") from None
    except OSError as error:
        raise AudioFault(path, f"cannot be decoded (ffprobe does not start: {error})") from None
    found = json.loads(done.stdout or b"{}") if not done.returncode else {}
    if "format" not in found:
        raise UnknownFormat(path, f"cannot be decoded ({_last_line(done.stderr, path)})")
    if not found.get("streams"):
        raise AudioFault(path, "holds no sound")
    return _info(path, found["streams"][0], found["format"])


class Decoder:
    """A file being decoded by ffmpeg, from its beginning on."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Where it lies: a diagnostic of any length must not fill a pipe that nobody reads.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the decoder)
        # AU: a header with rate and channels, no sizes to go back to, floats.
        sound = ("-map", "0:a:0", "-vn", "-sn", "-dn", "-f", "au", "-c:a", "pcm_f32be", "-threads", "1", "pipe:1")
        command = ["ffmpeg", "-nostdin", *SAFE, "-xerror", "-threads", "1", "-i", f"file:{path}", *sound]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, bufsize=1 << 16
            )
        except OSError as error:
            self.errors.close()
            raise AudioFault(path, f"cannot be decoded (ffmpeg does not start: {error})") from None
        head = self._bytes(24)
        if len(head) < 24:
            raise self._fault("no samples")
        _, offset, _, _, self.sample_rate, self.num_channels = struct.unpack(">4s5I", head)
        self._bytes(offset - 24)

    def read(self, num_frames: int) -> np.ndarray:
        """Decode the next frames, (S, channels) float32; fewer at the end, then none.

        Raises:
            AudioFault: ffmpeg gave up, or gave nothing for a minute.
        """
        data = self._bytes(4 * self.num_channels * num_frames)
        whole = len(data) - len(data) % (4 * self.num_channels)
        if len(data) < 4 * self.num_channels * num_frames and not self._ended_well():
            raise self._fault("ffmpeg gave up")
        return np.frombuffer(data[:whole], ">f4").astype(np.float32).reshape(-1, self.num_channels)

    def close(self) -> None:
        """End ffmpeg, finished or not."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()

    def _bytes(self, count: int) -> bytes:
        assert self.process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(TIMEOUT_S, end)
        timer.start()
        try:
            data = self.process.stdout.read(count)
        finally:
            timer.cancel()
        if late.is_set():
            raise self._fault(f"ffmpeg gave nothing for {TIMEOUT_S:.0f} s")
        return data

    def _ended_well(self) -> bool:
        try:
            return self.process.wait(TIMEOUT_S) == 0
        except subprocess.TimeoutExpired:
            return False

    def _fault(self, otherwise: str) -> AudioFault:
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        reason = _last_line(self.errors.read(1 << 16), self.path) or otherwise
        self.close()
        return AudioFault(self.path, f"cannot be decoded ({reason})")


def _info(path: str, stream: dict[str, Any], container: dict[str, Any]) -> Info:
    rate = int(stream.get("sample_rate") or 0)
    if rate < 1:
        raise AudioFault(path, f"its header declares a sample rate of {rate} Hz")
    own = _seconds((stream.get("duration"), stream.get("tags", {}).get("DURATION")))
    only = int(container.get("nb_streams", 0)) == 1  # else the container is as long as its longest stream
    exact = any(name in EXACT for name in container["format_name"].split(",")) and bool(own or only)
    floats = str(stream.get("codec_name")).startswith(("pcm_f32", "pcm_f64", "pcm_f16"))
    return Info(rate, own or _seconds((container.get("duration"),)), floats, exact)


def _seconds(texts: Sequence[Any]) -> float:
    """Read the first length that is given: "12.5", or "00:00:12.500000000" as Matroska writes it."""
    for text in texts:
        try:
            parts = [float(part) for part in str(text).split(":")]
        except ValueError:
            continue
        total = sum(part * 60**i for i, part in enumerate(reversed(parts)))
        if total > 0:
            return total
    return 0.0


def _last_line(text: bytes, path: str) -> str:
    if b"not on whitelist" in text:
        return "a playlist, or of a format that is not taken"
    lines = text.decode(errors="replace").strip().splitlines()
    # Without the path, which the fault names, and without addresses in memory.
    return (
        re.sub(r" @ 0x[0-9a-f]+", "", lines[-1].replace(f"file:{path}: ", "").replace(f"{path}: ", "")) if lines else ""
    )
