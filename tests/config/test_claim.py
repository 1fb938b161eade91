"""Runs that start in one second get different folders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vcrast.config.resume import claim, claimed, give_back, names_folder


def test_many_that_start_at_once_get_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: claim(tmp_path / "esc10" / "2026-11-27_17-00-00"), range(40)))
    assert len(set(found)) == 40
    assert all(folder.is_dir() for folder in found)
    assert {folder.name for folder in found} == {
        "2026-11-27_17-00-00",
        *(f"2026-11-27_17-00-00_{n}" for n in range(2, 41)),
    }


def test_a_folder_in_which_nothing_was_begun_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), claimed(tmp_path / "a"):
        raise ValueError("wrong")
    assert not (tmp_path / "a").exists()
    with claimed(tmp_path / "b") as own:
        (own / "config.yaml").touch()
    give_back(own)
    assert (own / "config.yaml").exists()


def test_who_names_a_folder_gets_that_one() -> None:
    assert names_folder(["recipe=demo", "run.dir=x"])
    assert names_folder(["run.resume=x"])
    assert names_folder(["+run.dir=x"])
    assert not names_folder(["recipe=demo", "data.root=run.dir"])
