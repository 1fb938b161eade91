"""`table=NAME`: which runs a table stands for."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.arguments import parse
from launch.sweep import plan
from launch.table import points
from vcrast.config.compose import compose
from vcrast.config.resume import resolve
from vcrast.run import run
from vcrast.runs.filled_tables import fill_tables

ROOT = Path(__file__).resolve().parents[2]


def test_a_row_has_a_run_of_every_seed():
    found = [words for words, _ in points("projector", "esc10", ["data.root=DIR"])]
    assert [word for words in found for word in words if word.startswith("run.seed=")] == [
        f"run.seed={seed}" for _ in range(3) for seed in range(3)
    ]
    assert [compose(words).objective["projector_dims"][0] for words in found[::3]] == [1024, 4096, 8192]


def test_own_words_win_and_may_be_swept():
    found = [words for words, _ in points("finetune_lr", "smoke", ["run.seed=5", "attention=softmax,rfa"])]
    assert len(found) == 10
    assert all("run.seed=5" in words for words in found)
    assert ["attention=softmax" in words for words in found] == [True, False] * 5
    assert ["attention=rfa" in words for words in found] == [False, True] * 5


def test_a_word_that_would_make_rows_alike_is_refused():
    with pytest.raises(ValueError, match=r"model=tiny: the rows of table 5\.4 differ in model; leave it out"):
        points("5.4", "smoke", ["model=tiny"])


@pytest.mark.slow
def test_runs_that_tables_share_are_run_once_and_fill_the_cells_of_both():
    shared = [words for words, _ in points("5.3,masked_patches", "full", ["run.seed=0"])]
    cells = [tuple(compose(words).run.cells) for words in shared]
    assert ("5.3/full/SSAST patch", "masked_patches/full/SSAST, 400 of 512") in cells
    assert len(cells) == 4 + 6 - 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("demo table=5.3", "tables belong to the recipe thesis"),
        ("thesis table.scale=esc10", "name a table, too"),
        ("run.resume=DIR table=5.3", "leave table= out"),
        ("thesis table=5.3 --cfg job", "prints the settings of one run"),
    ],
)
def test_what_is_no_table_is_refused_in_a_line(words, said):
    with pytest.raises(ValueError, match=said):
        parse(words.split())


def test_the_folder_is_called_after_the_table_and_each_run_after_its_row():
    arguments = parse(["thesis", "table=5.4", "--dry-run"])
    base, runs = plan(arguments)
    assert base.parts[-3:-1] == ("runs", "thesis")
    assert base.name.startswith("table-5.4_")
    assert [each.folder.name for each in runs] == ["0_row-5.4-smoke-base_seed-0", "1_row-5.4-smoke-small_seed-0"]


@pytest.mark.slow
def test_every_table_runs_at_smoke(tmp_path, monkeypatch):
    monkeypatch.setattr("vcrast.run.write_report", lambda folder: folder / "report.html")  # half of such a run's time
    cache = [f"data.cache_dir={tmp_path / 'cache'}", "data.num_workers=0"]
    for number, (words, _) in enumerate(points("all", "smoke", cache)):
        own = [*words, f"run.dir={tmp_path / f'{number:02d}'}"]
        run(resolve(own), own)
    filled = {found.table.name: found for found in fill_tables([tmp_path])}
    assert len(filled) == 7
    for found in filled.values():
        assert [variant.label for variant in found.variants] == [row.label for row in found.table.rows]
        for variant in found.variants:
            assert all(found.estimate(variant, column) for column in found.metrics), (found.table.name, variant.label)


@pytest.mark.slow
def test_a_table_from_the_command_line_stops_goes_on_and_is_printed(tmp_path):
    folder = tmp_path / "table"
    launch = [sys.executable, ROOT / "launch" / "local.py"]
    words = ["thesis", "table=5.4", f"run.dir={folder}", f"data.cache_dir={tmp_path / 'cache'}"]
    first = subprocess.run([*launch, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"vcrast table {folder}" in first.stdout
    again = subprocess.run([*launch, f"run.resume={folder}"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stdout.count("done already") == 2
    printed = subprocess.run(
        [sys.executable, "-m", "vcrast", "table", folder, "--format", "markdown"], cwd=ROOT, capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip
    assert "| base | 1 |" in printed
    assert "| 125 M weights |" in printed
