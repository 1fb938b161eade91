"""Find the files of a table that was written elsewhere."""

import os
import unicodedata
from pathlib import Path

import pytest
from sound_files import settings

from vcrast.data.sources.manifest import manifest


def found(listed, text, **changes):
    """Paths below the folder of the sounds."""
    corpus = listed(text, **changes)
    return [os.path.relpath(clip.path, listed.folder) for clip in corpus.clips], corpus.notes[1:]


def test_a_root_of_its_own(listed, tmp_path):
    listed.sounds("sounds/1.wav", "sounds/deep/2.wav")
    assert found(listed, "path\n1.wav\ndeep/2.wav\n", name="lists/m.csv", root=str(tmp_path / "sounds")) == (
        ["sounds/1.wav", "sounds/deep/2.wav"],
        (),
    )
    with pytest.raises(
        ValueError, match=r"lists/m\.csv: none of its 2 files is there; line 2 names 1\.wav, looked for"
    ) as e:
        listed("path\n1.wav\ndeep/2.wav\n", name="tables/lists/m.csv")
    assert str(e.value).endswith(f"below {tmp_path}/tables; data.root=FOLDER says where paths begin")


def test_home_absolute_and_file_addresses(listed, tmp_path, monkeypatch):
    listed.sounds("~odd.wav", "a b.wav")
    monkeypatch.setenv("HOME", str(tmp_path))
    text = (
        f"path\n~/a.wav\n{tmp_path}/b.wav\nfile://{tmp_path}/c.wav\nfile://{tmp_path}/a%20b.wav\n~odd.wav\n./d, e.wav\n"
    )
    assert found(listed, text.replace("./d, e.wav", '"./d, e.wav"'), name="x/../m.csv")[0] == [
        "a.wav", "b.wav", "c.wav", "a b.wav", "~odd.wav", "d, e.wav",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"line 3: https://x\.org/a\.wav is an address; fetch the file first"):
        listed("path\na.wav\nhttps://x.org/a.wav\n")


def test_backslashes_of_windows(listed):
    listed.sounds("audio/x.wav", "odd\\name.wav")
    assert found(listed, "path\naudio\\x.wav\nodd\\name.wav\n") == (["audio/x.wav", "odd\\name.wav"], ())
    paths, notes = found(listed, "path\nC:\\Users\\anna\\audio\\x.wav\na.wav\n")
    assert paths == ["audio/x.wav", "a.wav"]
    assert notes == (
        f"1 paths found by name below {listed.folder}, such as line 2: C:\\Users\\anna\\audio\\x.wav -> audio/x.wav",
    )


def test_names_without_or_with_another_ending(listed):
    listed.sounds("rain.flac", "take.1.wav", "64760.wav", "Loud.WAV")
    (listed.folder / "rain.txt").touch()
    paths, notes = found(listed, "fname\nrain.wav\ntake.1\n64760\nloud.wav\n")
    assert paths == ["rain.flac", "take.1.wav", "64760.wav", "Loud.WAV"]
    assert notes == ("4 paths found with another ending or case, such as line 2: rain.wav -> rain.flac",)


def test_files_in_folders_of_folds(listed):
    listed.sounds("audio/fold1/7061-6.wav", "audio/fold2/518-4.wav", "audio/fold2/x.flac")
    text = "slice_file_name,fsID,start,end,fold,class\n7061-6.wav,7061,1.5,5.5,1,shot\n518-4.wav,518,0,4,2,drill\n"
    paths, notes = found(listed, text + "x.wav,518,0,4,2,drill\n", name="metadata/UrbanSound8K.csv")
    assert paths == ["audio/fold1/7061-6.wav", "audio/fold2/518-4.wav", "audio/fold2/x.flac"]
    assert "not in its files: not used" in notes[0]
    assert notes[1].startswith(
        f"3 paths found by name below {listed.folder}, such as line 2: 7061-6.wav -> audio/fold1/"
    )


def test_a_name_that_several_files_have_needs_its_folder(listed):
    listed.sounds("x/audio/1.wav", "y/audio/1.wav", "y/audio/2.wav", ".hidden/3.wav", "__MACOSX/3.wav")
    with pytest.raises(
        ValueError, match=r"line 2: 1\.wav: 2 files of that name below .* \(x/audio/1\.wav, y/audio/1\.wav\)"
    ):
        listed("path\n1.wav\n2.wav\n")
    assert found(listed, "path\n/home/anna/y/audio/1.wav\n2.wav\n")[0] == ["y/audio/1.wav", "y/audio/2.wav"]
    with pytest.raises(ValueError, match=r"1 faults in 2 clips\n  line 3: .*/3\.wav: missing file"):
        listed("path\n2.wav\n3.wav\n")


def test_a_missing_file_does_not_take_that_of_another_row(listed):
    listed.sounds("test/1.wav")
    with pytest.raises(ValueError, match=r"line 2: train/1\.wav is not there, and .*/test/1\.wav, .* is test/1\.wav"):
        listed("path\ntrain/1.wav\ntest/1.wav\n")


def test_letters_of_other_systems(listed):
    composed, apart = unicodedata.normalize("NFC", "jürgen.wav"), unicodedata.normalize("NFD", "jürgen.wav")
    listed.sounds(apart)
    assert [Path(c.path).name for c in listed(f"path\n{composed}\na.wav\n").clips] == [apart, "a.wav"]


def test_a_file_name_in_latin_1(listed):
    listed.sounds("K.wav")
    odd = os.fsdecode("Köter.wav".encode("latin-1"))
    os.rename(listed.folder / "K.wav", listed.folder / odd)
    for text in ("path\nKöter.wav\n", "path\nKöter.wav\n".encode("latin-1")):
        (listed.folder / "m.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        corpus = manifest(settings("manifest", path=str(listed.folder / "m.csv")))
        assert [os.path.basename(clip.path) for clip in corpus.clips] == [odd]
        assert corpus.notes[-1].endswith("line 2: Köter.wav -> K\\udcf6ter.wav")


def test_links_in_a_circle_end(listed):
    listed.sounds("x/y/1.wav")
    (listed.folder / "x" / "again").symlink_to(listed.folder / "x")
    assert found(listed, "path\n1.wav\n")[0] == ["x/y/1.wav"]


def test_a_spelling_of_the_same_path_is_the_same_clip(listed):
    with pytest.raises(ValueError, match=r"line 3: .*a\.wav: the same clip as line 2"):
        listed("path\na.wav\n./a.wav\n")
