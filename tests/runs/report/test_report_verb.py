import csv
import io

import pytest
from fabricated_run import fabricate

from vcrast.cli.main import main

SETTINGS = "recipe: esc10\nrun: {{seed: {seed}}}\nattention: {{name: {attention}}}\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    for seed, attention in ((0, "softmax"), (1, "rfa")):
        folder = fabricate(top / f"{seed}_{attention}", classes=["dog", "rain"])
        (folder / "config.yaml").write_text(SETTINGS.format(seed=seed, attention=attention))
    return top


def test_tables_to_paste(runs, capsys):
    assert main(["report", str(runs / "0_softmax"), "--format", "markdown", "--out", "-"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("## esc10\n\n**Accuracy, finetuned: 82.5 ± 3.5 %**\n")
    for line in (
        "| Accuracy, nearest neighbours | 60.0 % | 31.0 % |", "### Terms of the loss, pretrain",
        "Chance: 50.0 %.", "with `run.seed=3`", "- fold 2: effective rank fell below 8 at step 200",
    ):  # fmt: skip
        assert line in text, line


def test_a_row_for_each_number_of_all_runs(runs, capsys):
    assert main(["report", str(runs), "--format", "csv", "--out", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    own = [row for row in rows if (row["stage"], row["metric"]) == ("evaluate", "accuracy")]
    assert [(row["folder"], row["seed"], row["fold"], float(row["value"])) for row in own] == [
        (str(runs / name), seed, fold, value)
        for name, seed in (("0_softmax", "0"), ("1_rfa", "1"))
        for fold, value in (("1", 0.8), ("2", pytest.approx(0.85)))
    ]


def test_several_runs_are_one_page_in_every_format(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vcrast.runs.report.compare_page.FIGURES", ())  # they take longest
    assert main(["report", str(runs), "--format", "html,markdown,csv", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"report.{end}") for end in ("html", "md", "csv")]
    page = (tmp_path / "report.html").read_text()
    assert '<span class="value">82.5</span> <span class="unit">%</span>' in page
    assert "attention=rfa" in page
    assert "against the first" in page
    assert "| attention=rfa | 1 | 82.5 |" in (tmp_path / "report.md").read_text()
    assert main(["report", *(str(path) for path in runs.iterdir()), "--out", str(tmp_path / "named.md")]) == 0
    assert "attention=rfa" in (tmp_path / "named.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "htm"], "--format htm: did you mean html"),
        (["--out", "x.pdf"], "--out x.pdf: ends in none of .html, .md, .csv"),
        (["--out", "-"], "--out -: takes one of markdown and csv, not html"),
        (["--out", "absent/x.html"], "--out absent/x.html: the folder absent does not exist"),
        (["--metric", "accuracy"], "--metric: chooses what several runs are compared by"),
        (["absent"], "absent: neither a run folder nor a folder of runs"),
    ],
)
def test_mistakes_are_named(runs, words, said, capsys):
    assert main(["report", str(runs / "0_softmax"), *words]) == 2
    assert said in capsys.readouterr().err
