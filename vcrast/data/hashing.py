"""Hash text to seeds and choices that are the same on every machine."""

from __future__ import annotations

import hashlib
from typing import Literal


def stable_hash(text: str, *, byteorder: Literal["little", "big"] = "little") -> int:
    """Hash text to a number in [0, 2**64), unlike Python's `hash` the same in every process.

    Args:
        text: what the number is for, such as `crop <seed> <position>`.
        byteorder: of the number in the 8 bytes of BLAKE2b.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), byteorder)
