"""Files of samples say their split in their names, or those of their folders."""

from pathlib import PurePath

import pytest

from vcrast.data.foreign.splits import split_of_file, splits_of_files


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/0.tar", "train"), ("Validation/x/0.tar", "val"), ("fold_03/a.tar", "3"), ("2/a.tar", None),
        ("train-000012.tar", "train"), ("esc50-val-0.tar", "val"), ("esc50_test_000.tar", "test"),
        ("fsd50k-eval-000001.tar", "eval"), ("esc50-fold2-00.tar", "2"), ("cv-3.tar", "3"), ("dogs-0.tar", None),
        ("data/train-00000-of-00005.parquet", "train"), ("data/train.clean.100-00000-of-00014.parquet", "train"),
        ("data/bal_train-00000-of-00001.parquet", "train"), ("data/noisy-00000-of-00001.parquet", "noisy"),
        ("en/test/0000.parquet", "test"), ("default/train/0000.parquet", "train"), ("contest-0.tar", None),
        ("train-test-mix-0.tar", None),
    ],
)  # fmt: skip
def test_split_of_a_file(path, split):
    assert split_of_file(PurePath(path).parts) == split


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["train-0.tar", "extra.tar"], r"beside files of the splits train lie 1 whose names say none \(extra.tar\)"),
        (["val-0.tar", "test-0.tar"], "has the splits test, val and none called train"),
    ],
)
def test_unclear_names_stop(files, said):
    with pytest.raises(ValueError, match=said):
        splits_of_files([PurePath(file) for file in files], "root")


def test_all_or_none():
    assert splits_of_files([PurePath("a-0.tar"), PurePath("a-1.tar")], "root") == ["", ""]
    assert splits_of_files([PurePath("test-0.tar")], "root") == ["test"]
