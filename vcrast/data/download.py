"""Fetch a file over HTTP: resume, retry, check the size."""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

BLOCK = 1 << 18
PROGRESS_S = 2.0
RETRIED = (408, 425, 429)  # and every 5xx: the server may do better in a moment


class BrokenTransfer(Exception):
    """A transfer broke off and may be continued."""


def fetch(
    url: str, path: Path, *, attempts: int = 6, pause_s: float = 1.0, timeout_s: float = 30.0,
    max_bytes: int | None = None, keep_part: bool = True,
) -> Path:  # fmt: skip
    """Download `url` to `path`, going on with `<path>.part` where an earlier attempt stopped.

    Args:
        url: http or https.
        path: of the finished file; it appears only when complete.
        attempts: in a row without a byte of progress, before giving up.
        pause_s: before the first repetition; doubles with each.
        timeout_s: without a byte, before an attempt counts as broken.
        max_bytes: that the file may have; None is any number.
        keep_part: whether what arrived is left there when all attempts have failed, for the next call to go on with.

    Raises:
        ValueError: not an http(s) address, or more than `max_bytes`.
        ConnectionError: the server refuses, or cannot be reached.
        OSError: the disk is full.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"--url {url}: must begin with http:// or https://")
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, timeout_s, max_bytes)
            part.replace(path)
            _etag_file(part).unlink(missing_ok=True)
            return path
        except (BrokenTransfer, HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
            failed = 1 if _size(part) > before else failed + 1
            reason = _retry_reason(url, error)
            if failed >= attempts:
                kept = f", {_size(part)} bytes are kept in {part}: run the command again to go on" if keep_part else ""
                if not keep_part:
                    part.unlink(missing_ok=True)
                raise ConnectionError(f"{url}: {reason}; gave up after {attempts} attempts{kept}") from None
            wait_s = pause_s * 2 ** (failed - 1)
            log.info("download: %s; trying again in %.0f s", reason, wait_s)
            time.sleep(wait_s)


def _retry_reason(url: str, error: Exception) -> str:
    """Say what went wrong if another attempt may succeed; raise other errors."""
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 500 and error.code not in RETRIED:
            raise ConnectionError(f"{url}: the server answers {error.code} {error.reason}; check the address") from None
        return f"the server answers {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _etag_file(part: Path) -> Path:
    """Return where the server's ETag is kept, so that parts of two versions are never joined."""
    return part.with_name(part.name + ".etag")


def _transfer(url: str, part: Path, timeout_s: float, max_bytes: int | None) -> None:
    """Try once: append to `part`, or start it again where the server cannot continue."""
    have = _size(part)
    tag = _etag_file(part).read_text(encoding="utf-8") if have and _etag_file(part).exists() else ""
    headers = {"User-Agent": "vcrast", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # The part is as long as the file, or longer than a newer version of it. Which one cannot be told: start again.
        part.unlink(missing_ok=True)
        raise BrokenTransfer("the server has nothing beyond the part that is here") from None
    with answer:
        start = _first_byte(answer, have)
        expected = answer.headers.get("Content-Length")
        total = start + int(expected) if expected and expected.isdecimal() else None
        etag = answer.headers.get("ETag") or ""
        if etag.startswith('"'):  # a weak tag (W/...) does not promise the same bytes
            _etag_file(part).write_text(etag, encoding="utf-8")
        else:
            _etag_file(part).unlink(missing_ok=True)
        if max_bytes is not None and total is not None and total > max_bytes:
            raise ValueError(f"{url}: {total / 1e6:.0f} MB, more than the {max_bytes / 1e6:.0f} MB that are fetched")
        _save(answer, part, start, total, max_bytes)
    if total is not None and _size(part) < total:
        raise BrokenTransfer(f"the connection ended at {_size(part)} of {total} bytes")


def _first_byte(answer: HTTPResponse, have: int) -> int:
    """Return the position of the answer's first byte in the file."""
    if answer.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    if found is None or int(found[1]) != have:
        raise BrokenTransfer(f"the server continues at the wrong place ({answer.headers.get('Content-Range')})")
    return have


def _save(answer: HTTPResponse, part: Path, start: int, total: int | None, max_bytes: int | None) -> None:
    last, done = time.monotonic(), start
    with open(part, "ab" if start else "wb") as file:
        while block := answer.read(BLOCK):
            try:
                file.write(block)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                need = f"about {total - done} bytes more are needed, " if total else ""
                free = shutil.disk_usage(part.parent).free
                raise OSError(f"{part}: disk full; {need}{free} are free") from None
            done += len(block)
            if max_bytes is not None and done > max_bytes:
                raise ValueError(f"{answer.url}: more than the {max_bytes / 1e6:.0f} MB that are fetched")
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                log.info("download: %.0f MB%s", done / 1e6, f" of {total / 1e6:.0f}" if total else "")
