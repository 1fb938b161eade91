"""The launcher as a user meets it: help, mistakes, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.arguments import Program, hydra_line, parse, resumed_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "launch/local.py", *words],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_help_lists_recipes_groups_and_keys_without_torch():
    program = "sys.argv = ['local.py', '--help']; runpy.run_path('launch/local.py', run_name='__main__')"
    at_exit = "atexit.register(lambda: print('LOADED', [name for name in ('torch', 'hydra') if name in sys.modules]))"
    probe = f"import atexit, runpy, sys; {at_exit}; {program}"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    for word in ("esc50", "demo", "attention", "memory_efficient", "pretrain.batch_size", "--dry-run", "--cfg job"):
        assert word in done.stdout


def test_bare_first_word_is_the_recipe():
    assert parse(["esc50", "model=tiny"]).overrides == ("recipe=esc50", "model=tiny")
    assert parse(["--dry-run", "esc50"]).dry_run
    assert parse(["esc50", "--cfg", "job"]).show_config
    assert parse([]).help
    assert parse(["run.resume=runs/a"]).overrides == ("run.resume=runs/a",)
    assert resumed_folder(["run.resume=auto"]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["esc5"], "did you mean esc50?"),
        (["esc50", "esc10"], "write group=option or key=value"),
        (["esc50", "--dryrun"], "did you mean --dry-run?"),
        (["model=tiny"], "name a recipe first"),
        (["esc50", "recipe=esc10"], "already chosen"),
        (["esc50", "--cfg", "all"], "only `--cfg job`"),
    ],
)
def test_mistakes_are_explained(words, said):
    with pytest.raises(ValueError, match=r".") as caught:
        parse(words)
    assert said in str(caught.value)


def test_a_wrong_option_is_one_line_and_exit_2():
    done = run("esc50", "attention=softmx")
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
    assert "did you mean softmax?" in done.stderr


def test_a_missing_dataset_says_what_to_do(tmp_path):
    done = run("esc50", f"data.root={tmp_path}/nowhere", f"run.dir={tmp_path}/run")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "nowhere" in done.stderr


def test_cfg_job_prints_what_a_run_would_use():
    done = run("esc10", "model=small", "--cfg", "job")
    assert done.returncode == 0
    assert "embed_dim: 384" in done.stdout


def test_shell_completion_script_is_offered():
    done = run("-sc", "install=bash")
    assert done.returncode == 0
    assert "hydra_bash_completion" in done.stdout


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("python launch/local.py demo attention=s", "python launch/local.py recipe=demo attention=s"),
        ("python launch/local.py dem", "python launch/local.py dem"),
        ("vcrast run demo model=tiny run.", "vcrast recipe=demo model=tiny run."),
        ("vcrast submit demo ", "vcrast recipe=demo "),
        ("vcrast run -m demo run.", "vcrast -m demo run."),
        ("vcrast list ", None),
        ("vcrast ", None),
    ],
)
def test_a_line_to_complete_is_read_as_hydra_needs_it(typed, read):
    assert hydra_line(typed) == read


def test_completion_knows_options_after_a_recipe():
    line = "python launch/local.py demo attention=soft"
    assert run("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).stdout == "attention=softmax\n"


def test_a_verb_starts_its_processes_where_it_was_found_itself(tmp_path, monkeypatch):
    (tmp_path / "vcrast").mkdir()
    (tmp_path / "vcrast" / "__main__.py").write_text("print('of the folder')")
    (tmp_path / "vcrast" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    outside = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert first_line(Program.of_verb("run"), outside).startswith("usage: vcrast run RECIPE")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # as `python -m vcrast` has it
    assert first_line(Program.of_verb("run"), outside) == "of the folder"


def first_line(program, environment):
    command = [*program.command, "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[0]
