"""The damaged file is found, and the clips in it."""

import pytest

from vcrast.data.members import ADDRESS, name_of
from vcrast.data.shards.open import open_shards
from vcrast.data.shards.verify import verify


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def test_whole_shards_are_whole(packed, remote):
    manifest, damage = verify(str(packed), remote, decode=True)
    assert (manifest.num_clips, damage) == (12, [])


def test_one_byte_of_one_clip(packed, remote):
    clips = open_shards(str(packed), remote).clips
    inside = clips[7]
    found = ADDRESS.fullmatch(inside.path)
    flip(packed / "clips-000001.tar", int(found[1]) + int(found[2]) // 2)
    (damage,) = verify(str(packed), remote)[1]
    assert damage == ("clips-000001.tar", "its sha256 is another one", (f"{name_of(inside.path)}: damaged",))


def test_a_byte_between_clips_harms_no_clip(packed, remote):
    flip(packed / "clips-000000.tar", 300)
    assert verify(str(packed), remote)[1] == [("clips-000000.tar", "its sha256 is another one", ())]


def test_a_cut_shard_names_the_clips_that_are_gone(packed, remote):
    clips = open_shards(str(packed), remote).clips
    path = packed / "clips-000002.tar"
    last = ADDRESS.fullmatch(clips[11].path)
    path.write_bytes(path.read_bytes()[: int(last[1]) + 100])
    (damage,) = verify(str(packed), remote)[1]
    assert damage.file == "clips-000002.tar"
    assert damage.reason.startswith(f"{int(last[1]) + 100} bytes of ")
    assert damage.clips == (f"{name_of(clips[11].path)}: is missing",)
    with pytest.raises(ValueError, match=r"1 of 3 shards\n  clips-000002.tar: \d+ bytes, \d+ in the manifest"):
        open_shards(str(packed), remote)


def test_missing_files_and_a_damaged_index(packed, remote):
    (packed / "clips-000000.tar").unlink()
    flip(packed / "index" / "offset.npy", -1)
    assert verify(str(packed), remote)[1] == [
        ("index/offset.npy", "its sha256 is another one; copy it again", ()),
        ("clips-000000.tar", "missing file", ()),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no manifest of shards"),
        ("[]", "no manifest of shards"),
        ('{"format": "vcrast shards", "version": 9}', "9"),
    ],
)
def test_a_manifest_that_is_none(packed, remote, text, told):
    (packed / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=told):
        verify(str(packed), remote)


def test_a_folder_without_a_manifest_says_what_to_do(tmp_path, packed, remote):
    (packed / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="not finished: run `vcrast data shard"):
        open_shards(str(packed), remote)
    with pytest.raises(FileNotFoundError, match="make shards with `vcrast data shard"):
        open_shards(str(tmp_path), remote)
