"""Decode a text file whose encoding is not said."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import NamedTuple

BINARY = {
    b"PK\x03\x04": "a spreadsheet or an archive; save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an Excel file; save the sheet as CSV (UTF-8)",
    b"PAR1": "a Parquet file; data=huggingface opens one that holds sounds, else write it as CSV",
    b"\x1f\x8b": "compressed; unpack it",
    **dict.fromkeys((b"RIFF", b"fLaC", b"OggS", b"ID3"), "a sound; write a list of sounds, a path a line"),
}
"""First bytes of files that are no text -> what they are, and what to do."""
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
GUESS = "cp1252"  # Western European Windows, of which Latin-1 is nearly a part


class Text(NamedTuple):
    """A decoded file, the name of its encoding, and a line on it where it was guessed ("" where not)."""

    content: str
    encoding: str
    doubt: str


def read_text(path: Path, encoding: str | None = None) -> Text:
    """Decode UTF-8 (with or without byte order mark) or UTF-16 (with one), else Windows' Western European.

    Args:
        path: of the file.
        encoding: a name that Python knows; None is as above.

    Raises:
        ValueError: a spreadsheet or another file that is no text, an unknown encoding, or one that does not fit.
    """
    raw = path.read_bytes()
    for first, what in BINARY.items():
        if raw.startswith(first):
            raise ValueError(f"{path}: {what}, and give that file as data.path")
    if encoding is None:
        marked = next((name for mark, name in MARKS.items() if raw.startswith(mark)), None)
        return _decode(path, raw, marked) if marked else _guess(path, raw)
    return _decode(path, raw, encoding)


def _decode(path: Path, raw: bytes, encoding: str) -> Text:
    try:
        return Text(raw.decode(encoding).removeprefix("\ufeff"), encoding, "")
    except LookupError:
        raise ValueError(
            f"data.options.encoding={encoding}: no such encoding; try utf-8, cp1252, gbk or shift_jis"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not {encoding} ({error.reason} at byte {error.start}); set data.options.encoding"
        ) from None


def _guess(path: Path, raw: bytes) -> Text:
    zero = raw.find(b"\0")
    if zero >= 0:
        raise ValueError(
            f"{path}: no text (a zero byte at {zero}); save it as CSV in UTF-8, or set data.options.encoding"
        )
    try:
        return Text(raw.decode(), "utf-8", "")
    except UnicodeDecodeError as error:
        where = error.start
    try:
        content, name = raw.decode(GUESS), GUESS
    except UnicodeDecodeError:
        content, name = raw.decode("latin-1"), "latin-1"
    # Both are one byte a letter, so that the place of the byte is that of the letter.
    word = content[:where].split()[-1:] if not content[where - 1 : where].isspace() else []
    example = ("".join(word) + content[where:].split()[0])[-40:]
    return Text(content, name, f"not UTF-8, read as {name} ({example!r}); data.options.encoding names another")
