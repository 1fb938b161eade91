"""Check seeds from text: BLAKE2b, the same numbers in every version."""

import hashlib

from vcrast.data.hashing import stable_hash


def test_it_is_blake2b_read_in_either_order():
    digest = hashlib.blake2b(b"crop 0 1", digest_size=8).hexdigest()
    assert stable_hash("crop 0 1", byteorder="big") == int(digest, 16)
    assert stable_hash("crop 0 1") == int("".join(digest[i : i + 2] for i in range(14, -1, -2)), 16)


def test_it_never_changes():
    wanted = [13020603013274838756, 3405396810240292928, 1960798115710816594]
    assert [stable_hash(text) for text in ("", "a", "crop 0 1")] == wanted
