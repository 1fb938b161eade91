"""Tars are scanned as the libraries that write them read them."""

import gzip
import json
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed import sounds, write_tar

from vcrast.data.foreign.tars import Damaged, Wanted, _Header, scan_tar

ANY = Wanted(None, None, None)
CUTS = int(os.environ.get("VCRAST_CAMPAIGN", "20"))


def found_in(path, wanted=ANY):
    """Name and bytes of every sound, read where the scan says that it lies."""
    samples, content = scan_tar(path, wanted), path.read_bytes()
    return [
        (name, content[offset : offset + size])
        for name, offset, size in zip(samples.names, samples.offset, samples.size, strict=True)
    ]


NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="./"), min_size=1, max_size=12)
KEY = st.builds(lambda name, times: name * times, NAME, st.sampled_from([1, 1, 1, 9, 25]))
FOLDER = st.sampled_from(["", "", "./", "a/", "a.b/c/", "f" * 120 + "/"])


@settings(max_examples=CUTS)
@given(
    st.lists(
        st.tuples(FOLDER, KEY, st.sampled_from(["wav", "FLAC", "left.mp3"])), max_size=6, unique_by=lambda t: t[:2]
    ),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_samples_are_those_that_webdataset_reads(tmp_path_factory, keys, form):
    wds = pytest.importorskip("webdataset")
    path, members = tmp_path_factory.mktemp("tar") / "a.tar", []
    for number, (folder, key, ending) in enumerate(keys):
        sound = os.urandom(number * 300)
        members += [(f"{folder}{key}.{ending}", sound), (f"{folder}{key}.json", json.dumps({"label": number}).encode())]
    try:
        write_tar(path, members, form=form)
    except ValueError:  # USTAR has no names so long
        return
    theirs = [
        (f"{sample['__key__']}.{ending}", sample[ending])
        for sample in wds.WebDataset(str(path), shardshuffle=False, empty_check=False)
        for ending in sample
        if ending.rpartition(".")[2] in ("wav", "flac", "mp3")
    ]
    mine = found_in(path)
    assert [content for _, content in mine] == [content for _, content in theirs]
    assert [name.lower() for name, _ in mine] == [name.lower() for name, _ in theirs]
    assert scan_tar(path, ANY).values.get("label", []) == list(range(len(keys)))


def test_a_cut_tar_is_damaged_or_ends_between_two_members(tmp_path):
    made = sounds(6)
    whole = write_tar(tmp_path / "whole.tar", [(sound.name, sound.content) for sound in made]).read_bytes()
    everything = [(sound.name, sound.content) for sound in made]
    part, refused = tmp_path / "part.tar", 0
    for number in range(CUTS):
        part.write_bytes(whole[: len(whole) * (2 * number + 1) // (2 * CUTS)])
        try:
            found = found_in(part)
        except Damaged as fault:
            assert "cut" in str(fault) or "no tar" in str(fault) or "damaged" in str(fault)  # noqa: PT017
            refused += 1
            continue
        assert found == everything, "a sound is missing and nobody says so"
    assert refused > CUTS // 2
    ends = whole.index(made[3].content) - 512
    part.write_bytes(whole[:ends])  # whole members, and no mark of the end
    samples = scan_tar(part, ANY)
    assert samples.names == [sound.name for sound in made[:3]]
    assert not samples.whole
    assert scan_tar(tmp_path / "whole.tar", ANY).whole


def test_damage_names_the_member_before_it(tmp_path):
    made = sounds(3)
    path = write_tar(tmp_path / "a.tar", [(sound.name, sound.content) for sound in made])
    content = bytearray(path.read_bytes())
    header = content.index(made[2].name.encode())
    content[header + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"damaged in or behind {made[1].name}: byte {header} begins no member"):
        scan_tar(path, ANY)
    path.write_bytes(content[: header - 600])
    with pytest.raises(Damaged, match=f"it is cut in or behind {made[1].name}; copy it again"):
        scan_tar(path, ANY)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"x" * 2000, mtime=0), "is compressed.*`gzip -d`"),
        (b"BZh9" + b"x" * 600, "is compressed.*`bzip2 -d`"),
        (b"", "no tar"),
        (b"hello" * 500, "no tar"),
    ],
)
def test_other_files_are_refused(tmp_path, content, said):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(Damaged, match=said):
        scan_tar(tmp_path / "a.tar", ANY)


def test_faults_of_samples_are_told_apart(tmp_path):
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("good.wav", b"1"), ("good.json", b'{"label": "dog"}'), ("good.jpg", b""), ("._good.wav", b"x"),
            ("no_sound.json", b"{}"), ("m4a.m4a", b"x"), ("two.wav", b"2"), ("two.flac", b"3"), ("two.cls", b"7\n"),
            ("broken.wav", b"4"), ("broken.json", b"{"), ("README.md", b"x"), ("name.txt", b" rain\n"),
            ("name.wav", b"5"),
        ],
    )  # fmt: skip
    samples = scan_tar(path, ANY)
    assert samples.names == ["good.wav", "name.wav"]
    assert samples.codes == {"label": [0, -1], "txt": [-1, 0]}
    assert samples.values == {"label": ["dog"], "txt": ["rain"]}
    faults = dict(samples.faults)
    assert faults["two"] == "2 sounds (two.wav and two.flac); data.options.audio=ENDING chooses one"
    assert faults["no_sound"] == "no sound that is decoded here, only .json"
    assert faults["m4a"] == "no sound that is decoded here, only .m4a"
    assert faults["broken"].startswith("its .json cannot be read")
    assert set(faults) == {"two", "no_sound", "m4a", "broken"}
    chosen = scan_tar(path, Wanted(None, None, "flac"))
    assert [name for name, _ in found_in(path, Wanted(None, None, ".FLAC"))] == chosen.names == ["two.flac"]
    assert chosen.values["cls"] == [7]
    assert dict(chosen.faults)["good"] == "no sound ending in flac, only .wav and .json and .jpg"


def test_only_what_may_be_a_label_or_a_fold_is_kept(tmp_path):
    about = json.dumps({"Label": "a", "split": "test", "text": "a dog", "id": 7, "mood": "calm"}).encode()
    path = write_tar(tmp_path / "a.tar", [("a.wav", b"1"), ("a.json", about)])
    assert set(scan_tar(path, ANY).values) == {"Label", "split", "text"}
    assert set(scan_tar(path, Wanted("mood", "id", None)).values) == {"Label", "split", "text", "mood", "id"}
    assert scan_tar(path, ANY).keys == {"Label", "split", "text", "id", "mood"}


@settings(max_examples=20 * CUTS)
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=110), st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=2), st.booleans(),
)  # fmt: skip
def test_headers_are_read_as_tarfile_reads_them(name, size, changes, mended):
    info = tarfile.TarInfo(name)
    info.size = size
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    for place, value in changes:
        header[place] = value
    if mended:
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))

    def read(kind):
        try:
            found = kind.frombuf(bytes(header), "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            return type(error)
        return found.name, found.size, found.type, found.isreg()

    mine, theirs = read(_Header), read(tarfile.TarInfo)
    assert mine == theirs or (mended and theirs is tarfile.InvalidHeaderError), "owners and times are not read"
