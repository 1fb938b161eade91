"""Check that checkpoints are read as data, and that other files are one line."""

import argparse
import os

import pytest
import torch
from safetensors.torch import save_file

from vcrast.models.layouts import read_model
from vcrast.models.layouts.base import Wishes
from vcrast.models.layouts.reading import read_tensors

TENSORS = {"a": torch.ones(2), "b": torch.zeros(3)}


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict", None])
def test_a_model_is_found_beside_its_optimiser(tmp_path, name):
    around = {"optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    torch.save(TENSORS if name is None else {**around, name: TENSORS}, tmp_path / "x.pth")
    tensors, rest = read_tensors(tmp_path / "x.pth")
    assert tensors.keys() == TENSORS.keys()
    assert name is None or (rest["epoch"], rest["args"].lr) == (3, 0.1)


def test_old_pickles_are_read(tmp_path):
    torch.save(TENSORS, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert read_tensors(tmp_path / "x.pth")[0].keys() == TENSORS.keys()


class Harm:
    def __reduce__(self):
        return os.system, ("touch HARM",)


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_of_more_than_data_is_not_run(tmp_path, monkeypatch, modern):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": TENSORS, "x": Harm()}, "x.pth", _use_new_zipfile_serialization=modern)
    with pytest.raises(ValueError, match=r"x\.pth: a pickle of more than data, which can run code, so") as error:
        read_tensors(tmp_path / "x.pth")
    assert "\n" not in str(error.value)
    assert "system" in str(error.value)
    assert not (tmp_path / "HARM").exists()


def whole(path):
    torch.save(TENSORS, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: b"", lambda path: b"hello, this is no checkpoint\n" * 50, lambda path: whole(path)[:300],
        lambda path: bytes(range(256)) * 8, lambda path: b"\x80\x02}q\x00.", lambda path: b"PK\x03\x04" + b"\0" * 99,
    ],
    ids=["empty", "text", "half", "bytes", "an empty pickle", "a broken zip"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
def test_other_files_are_one_line(tmp_path, make, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(make(path))
    with pytest.raises(ValueError, match=rf"x\.{suffix}: ") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_checkpoints_without_tensors_by_name_are_refused(tmp_path):
    for content, message in (
        ([torch.ones(2)], "holds a list, not tensors"),
        ({"epoch": 3}, "holds no tensors by name"),
    ):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=message):
            read_tensors(tmp_path / "x.pth")


def test_names_of_no_known_layout_are_shown(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="names such as a, b, which are of none of ast, ssast, audiomae"):
        read_model(tmp_path / "x.safetensors", Wishes())


def test_folders_say_what_they_lack(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors or pytorch_model\.bin"):
        read_model(tmp_path, Wishes())
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="weights in several files are not read"):
        read_model(tmp_path, Wishes())
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="is a model of vcrast already"):
        read_model(tmp_path, Wishes())
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_model(tmp_path / "absent", Wishes())


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_damaged_configs_are_named(tmp_path, text):
    names = {"embeddings.patch_embeddings.projection.weight": torch.zeros(2, 1, 2, 2)}
    save_file(names, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json: (damaged|not a JSON object)"):
        read_model(tmp_path, Wishes())


def test_an_absent_kind_and_one_of_other_names_are_refused(tmp_path):
    names = {"embeddings.patch_embeddings.projection.weight": torch.zeros(2, 1, 2, 2)}
    save_file(names, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="--kind vggish: choose from ast"):
        read_model(tmp_path, Wishes(kind="vggish"))
    with pytest.raises(ValueError, match="has the names of the AST of transformers; leave --kind ssast out"):
        read_model(tmp_path, Wishes(kind="ssast"))
