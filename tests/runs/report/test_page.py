from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from fabricated_run import fabricate
from rich.console import Console

from vcrast.config.words import natural
from vcrast.runs.record import read_run
from vcrast.runs.report.page import facts, shown, write_report
from vcrast.runs.report.summary_table import print_summary

pytestmark = pytest.mark.slow

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a & b", "$x$", "_u", "é", "z"]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = fabricate(tmp_path_factory.mktemp("runs") / "complete")
    return folder, write_report(folder).read_text()


def test_a_complete_run_has_every_figure_and_nothing_missing(complete):
    folder, page = complete
    expected = ["accuracy", "collapse", "confusion", "embedding_map", "learning_rate", "loss_finetune", "loss_pretrain"]
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == [*expected, "views"]
    assert re.findall("<li>(.*?)</li>", page.split("Not in this report")[1]) == [  # it has no recordings
        "What attention looks at: no file of the run tells the test clips of fold 1"
    ]
    assert page.count("<figure") == 8  # the map is drawn by the page itself


def test_the_page_needs_no_network_and_no_script_but_its_own(complete):
    tags = Tags(complete[1])
    assert tags.names.count("script") == 1
    program = re.search(r"<script>(.*?)</script>", complete[1], re.DOTALL)[1]
    allowed = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert "default-src 'none'; img-src data:; media-src data:" in complete[1]
    assert f"script-src 'sha256-{allowed}'" in complete[1]
    assert "link" not in tags.names
    assert tags.sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in tags.sources)
    assert not re.search(r"url\(|@import|https?://", complete[1].split("<body>")[0])


def test_the_header_says_how_to_repeat_the_run(complete):
    folder, page = complete
    assert dict(facts(read_run(folder))) == {
        "Command": "launch/local.py esc10 run.seed=3",
        "Commit": "0123456789abcdef",
        "Processor": "Some CPU",
        "GPU": "Tesla T4",
        "Python": "3.11.7",
        "PyTorch": "2.14.1",
        "Duration": "2 h 06 min",  # two folds of 3725 + 61 + 9.5 s
    }
    assert "82.5 %" in page  # the mean of 80 % and 85 %
    assert "fold 2: effective rank fell below 8" in page
    assert "frame_shift_ms: 10.0" in page


def test_continued_runs_list_the_later_commands(tmp_path):
    folder = fabricate(tmp_path / "run", folds=("1",))
    with (folder / "overrides.txt").open("a") as file:
        file.write("# 2026-11-03 11:00:00  launch/local.py run.resume=here\nrun.resume=here\n")
    assert dict(facts(read_run(folder)))["Continued by"] == "launch/local.py run.resume=here"
    assert read_run(folder).overrides == ["recipe=esc10", "run.seed=3"]


def test_the_environment_as_the_trainer_writes_it():
    env = {"gpus": ["A", "B"], "packages": {"torch": "2.14"}, "git": None, "command": ["py", "a b"], "n": []}
    assert dict(shown(env)) == {"gpus": "A, B", "packages.torch": "2.14", "command": "py 'a b'", "n": ""}


def test_hostile_names_are_text(tmp_path):
    folder = fabricate(tmp_path / "<b>run", folds=("1",), classes=HOSTILE)
    summary = json.loads((folder / "summary.json").read_text())
    summary["warnings"] = ["<script>w()</script>"]
    summary["recipe"] = "<i>r</i>"
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text("recipe: '</pre><script>c()</script>'\n")
    (folder / "env.json").write_text(json.dumps({"cpu": "<script>e()</script>", "<u>": "x"}))
    page = write_report(folder).read_text()
    tags = Tags(page)
    assert not {"b", "i", "u"} & set(tags.names)
    assert tags.names.count("script") == 1  # the page's own
    assert all(source.startswith(("data:", "#")) for source in tags.sources)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_a_run_killed_while_pretraining(tmp_path):
    folder = fabricate(tmp_path / "run", folds=("1",))
    for name in ("summary.json", "env.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "evaluation")
    lines = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"pretrain"' in line]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"stage": "pretr')
    page = write_report(folder).read_text()
    assert sorted(path.stem for path in (folder / "figures").iterdir()) == [
        "collapse",
        "learning_rate",
        "loss_pretrain",
        "views",
    ]
    for reason in ("summary.json (the final numbers", "1 damaged line of metrics.jsonl", "Confusion matrix: no fold"):
        assert reason in page
    assert "no final numbers yet" in page


def test_pretraining_alone_maps_the_embeddings_without_scores(tmp_path):
    from fabricated_run import evaluation, save_arrays

    folder = fabricate(tmp_path / "run", folds=("1",))
    arrays = evaluation(0, 10)
    del arrays["scores"]
    save_arrays(folder / "evaluation" / "fold_1.safetensors", arrays)
    page = write_report(folder).read_text()
    assert (folder / "figures" / "embedding_map.png").exists()
    assert "Confusion matrix: no fold" in page


def test_multilabel_runs_say_why_there_is_no_confusion_matrix(tmp_path):
    from fabricated_run import evaluation, save_arrays

    folder = fabricate(tmp_path / "run", folds=("1",))
    arrays = evaluation(0, 10)
    arrays["labels"][0] = 1
    save_arrays(folder / "evaluation" / "fold_1.safetensors", arrays)
    assert "no label or several" in write_report(folder).read_text()


def test_damaged_files_are_named_and_old_figures_do_not_stay(tmp_path):
    folder = fabricate(tmp_path / "run", folds=("1",))
    write_report(folder)
    (folder / "evaluation" / "fold_1.safetensors").write_bytes(b"\x00" * 40)
    (folder / "summary.json").write_text("{broken")
    page = write_report(folder).read_text()
    assert "evaluation/fold_1.safetensors (damaged" in page
    assert "summary.json (damaged" in page
    assert not (folder / "figures" / "confusion.png").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_table(tmp_path):
    folder = fabricate(tmp_path / "run")
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(folder, console)
    text = console.export_text()
    assert re.search(r"Accuracy, finetuned\s+│\s+82.5 %\s+│\s+3.5 %\s+│\s+80.0 %\s+│\s+85.0 %", text)
    assert "warning: fold 2: effective rank" in text
    with pytest.raises(FileNotFoundError, match=r"summary\.json"):
        print_summary(tmp_path)


def test_undefined_numbers_are_dashes_and_their_reasons_are_told(tmp_path):
    folder = fabricate(tmp_path / "run")
    content = json.loads((folder / "summary.json").read_text())
    for fold in ("1", "2"):
        of_fold = content["folds"][fold]["evaluate"]
        of_fold |= {"auc": None, "undefined": {"auc": "one class"}, "class_auc": {"dog": None}}
    content["folds"]["2"]["evaluate"]["mAP"] = None
    del content["mean"]["evaluate"]["auc"]
    content["warnings"] = ["fold 1 evaluate: auc undefined: one class"]
    (folder / "summary.json").write_text(json.dumps(content))
    console = Console(record=True, width=100, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(folder, console)
    text = console.export_text()
    assert re.search(r"AUC, finetuned\s+│\s+–\s+│\s+–\s+│\s+–\s+│\s+–", text)  # noqa: RUF001
    assert re.search(r"mAP, finetuned\s+│\s+0.870\s+│\s+–\s+│\s+0.870\s+│\s+–", text)  # noqa: RUF001
    assert "class_auc" not in text
    page = write_report(folder).read_text()
    assert "fold 1 evaluate: auc undefined: one class" in page


def test_natural_order():
    assert sorted(["fold_10", "fold_2", "fold_test"], key=natural) == ["fold_2", "fold_10", "fold_test"]
