"""Use `launch/slurm.py` without Slurm: help, dry run, mistakes, local processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import SoftFileLease
from small_run import small, weights_hash

from launch import slurm
from launch.arguments import Arguments
from launch.slurm import main
from launch.submission import Submission, choose_cluster, clean_environment
from launch.sweep import bound, plan
from vcrast.config.resume import resolve
from vcrast.run import run
from vcrast.runs.live.watched import Watched

ROOT = Path(__file__).resolve().parents[2]
CPU = "run.device=cpu"


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """A PATH with git and without Slurm."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "env", "sh"):
        found = next(Path(folder) / name for folder in ("/usr/bin", "/bin") if (Path(folder) / name).exists())
        (tools / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))


def test_help_is_this_launchers_own_and_needs_neither_torch_nor_submitit():
    program = "sys.argv = ['slurm.py', '--help']; runpy.run_path('launch/slurm.py', run_name='__main__')"
    loaded = "print('LOADED', [name for name in ('torch', 'hydra', 'submitit') if name in sys.modules])"
    probe = f"import atexit, runpy, sys; atexit.register(lambda: {loaded}); {program}"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    for word in (
        "usage: python launch/slurm.py",
        "slurm.partition",
        "run.seed=0,1,2",
        "print the batch script",
        "esc50",
    ):
        assert word in done.stdout
    assert done.stdout.count("--dry-run  ") == 1


def test_a_dry_run_needs_no_slurm_and_writes_nothing(no_slurm, tmp_path, capsys):
    assert main([*small(tmp_path / "run", CPU), "slurm.partition=gpu", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!/bin/bash")
    assert "#SBATCH --partition=gpu" in said.out
    assert str(tmp_path / "run") in said.err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_sweep_shows_the_array_and_its_runs(no_slurm, tmp_path, capsys):
    sweep = ["attention=softmax,rfa", "run.seed=0,1,2", "-m", "--dry-run"]
    assert main([*small(tmp_path / "runs", CPU), *sweep]) == 0
    said = capsys.readouterr()
    assert "#SBATCH --array=0-5%6" in said.out
    assert said.err.count("would run") == 6
    assert f"{tmp_path}/runs/4_attention-rfa_seed-1 attention=rfa run.seed=1\n" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no sbatch and srun on PATH"),
        (["attention=softmx"], "did you mean softmax?"),
        (["run.seed=0,1"], "add -m"),
        (["-m"], "no key has several values"),
        (["-m", "attention=softmax,softmx"], "did you mean softmax?"),
        (["slurm.cluster=local", "slurm.partition=gpu"], "slurm.partition=gpu: slurm.cluster=local"),
        (["slurm.cluster=cloud"], "slurm.cluster=cloud: choose from"),
        (["slurm.partion=gpu"], "did you mean partition?"),
        (["slurm.nice=1"], "slurm.extra.NAME takes any other option of sbatch"),
        (["slurm.nodes=two"], "slurm.nodes=two"),
        (["slurm.nodes=3"], "pretrain.batch_size=16: 3 processes cannot share it evenly"),
        (["launch.num_processes=2"], "launch.num_processes=2: is for runs on this machine"),
        (["slurm.partition='gpu\n#SBATCH --uid=0'"], "slurm.partition='gpu\\n"),
        (["run.dir='/tmp/a%j'"], "run.dir=/tmp/a%j"),
        (["--dryrun"], "did you mean --dry-run?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(no_slurm, tmp_path, capsys, words, said):
    assert main([*small(tmp_path / "run", CPU), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("slurm.py: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_submitit_it_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(small(tmp_path / "run")) == 2
    assert 'pip install "submitit' in capsys.readouterr().err


def test_what_may_be_right_on_the_cluster_is_a_warning(no_slurm, tmp_path, capsys):
    assert main(["esc50", f"data.root={tmp_path}/nowhere", f"run.dir={tmp_path}/run", "--dry-run"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("warning: slurm.gpus_per_node is not set" in line for line in lines)
    assert any("nowhere" in line and "unless the nodes see it" in line for line in lines)
    for word in ("slurm.gpus_per_node=a100:4", "slurm.gres=gpu:a100:4", "slurm.extra.gpus_per_task=1"):
        assert main(["demo", f"run.dir={tmp_path}/run", "--dry-run", word]) == 0
        assert "no GPU is asked for" not in capsys.readouterr().err


def test_auto_takes_slurm_where_there_is_one(no_slurm, monkeypatch):
    assert choose_cluster("auto") == "local"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert [choose_cluster(asked) for asked in ("auto", "slurm", "local")] == ["slurm", "slurm", "local"]


def test_a_job_is_bound_to_its_folder_and_may_always_go_on(tmp_path):
    folder = tmp_path / "a b=c,d [e]"
    overrides = bound(["recipe=demo", "run.dir=elsewhere", "run.resume=never"], folder)
    config = resolve(overrides)
    assert (config.run.dir, config.run.resume) == (str(folder), "auto")
    assert bound([f"run.resume={tmp_path}/x", "data.num_workers=1"], folder) == (
        "data.num_workers=1",
        f"run.resume={folder}",
    )


def test_two_submissions_within_a_second_get_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vcrast.config.resume.time.strftime", lambda _: "now")
    here, words = tmp_path / "runs" / "demo", ("recipe=demo",)
    assert [plan(Arguments(words))[0] for _ in range(2)] == [here / "now", here / "now_2"]
    assert plan(Arguments(words, dry_run=True))[0] == here / "now"
    assert plan(Arguments((*words, f"run.dir={here}/now")))[0] == here / "now"


def test_variables_of_another_run_or_job_are_hidden_while_submitting(monkeypatch):
    hidden = {
        "SBATCH_PARTITION": "x", "SBATCH_TIMELIMIT": "1", "RANK": "1", "MASTER_PORT": "2", "SLURM_JOB_ID": "3",
        "SLURM_MEM_PER_NODE": "4", "SUBMITIT_FOLDER": "5", "SBATCH_RESERVATION": "r",
    }  # fmt: skip
    kept = {"SBATCH_ACCOUNT": "lab", "SLURM_CONF": "/etc/slurm.conf"}
    for name, value in {**hidden, **kept}.items():
        monkeypatch.setenv(name, value)
    with clean_environment(
        "#SBATCH --partition=gpu\n#SBATCH --time=10\n#SBATCH --reservation=course\nsrun --account=x"
    ):
        assert not set(hidden) & set(os.environ)
        assert {name: os.environ[name] for name in kept} == kept
    assert {name: os.environ[name] for name in hidden} == hidden


def test_the_interpreter_finds_the_copy_first_wherever_it_is_started(tmp_path, monkeypatch):
    for place in ("code", "checkout", "user"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "where.py").write_text(f"print({place!r})")
    (tmp_path / "user" / "also.py").write_text("print('also')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "user"))
    command = Submission(resolve(["recipe=demo"]).slurm, "demo", tmp_path / "slurm", tmp_path / "code").python_command()
    done = subprocess.run(f"{command} -m where; {command} -m also", shell=True, cwd=tmp_path / "checkout", text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout.split() == ["code", "also"]


def test_a_warning_before_python_is_ready_does_not_end_the_process(tmp_path):
    command = Submission(resolve(["recipe=demo"]).slurm, "demo", tmp_path, tmp_path).python_command()
    program = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); os.kill(os.getpid(), signal.SIGUSR1); print(1)"
    done = subprocess.run([*slurm.shlex.split(command), "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_an_array_lists_its_runs_for_who_watches_them(tmp_path, capsys, monkeypatch):
    def submit(self, cluster, jobs):
        paths = SimpleNamespace(stdout=self.folder / "log.out")
        task = SimpleNamespace(paths=paths)
        return [SimpleNamespace(job_id=f"7_{n}", task=lambda _, task=task: task) for n in range(len(jobs))]

    monkeypatch.setattr(Submission, "submit", submit)
    monkeypatch.setattr("launch.snapshot.take", lambda root, aside: aside.mkdir(parents=True) or aside)
    assert main(["-m", *small(tmp_path / "sweep", CPU), "run.seed=3,4", "slurm.cluster=local"]) == 0
    assert "submitted 2 jobs" in capsys.readouterr().out
    rows = Watched(tmp_path).listing()["runs"]
    assert rows == []
    rows = Watched(tmp_path / "sweep").listing()["runs"]
    assert [(row["id"], row["state"], row["recipe"]) for row in rows] == [
        ("0_seed-3", "waiting", "job 7_0"), ("1_seed-4", "waiting", "job 7_1")
    ]  # fmt: skip


def start_here(folder, capsys, *more):
    """Controller's process number of a job on this machine."""
    assert main([*small(folder, CPU, "stages=[pretrain]", "pretrain.steps=40", "slurm.cluster=local"), *more]) == 0
    return int(re.search(r"submitted job (\d+)", capsys.readouterr().out).group(1))


def log_here(folder, job):
    path = folder / "slurm" / f"{job}_0_log.out"
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_without_slurm_a_warned_job_starts_again_by_itself(tmp_path, capsys):
    run(resolve(small(tmp_path / "calm", CPU, "stages=[pretrain]", "pretrain.steps=40")))
    folder = tmp_path / "run"
    job = start_here(folder, capsys)
    deadline, warned = time.monotonic() + 240, False
    while "Exiting after successful completion" not in log_here(folder, job):
        assert time.monotonic() < deadline, log_here(folder, job)
        metrics = folder / "metrics.jsonl"
        if not warned and metrics.exists() and metrics.read_text().count('"loss"') >= 3:
            os.kill(SoftFileLease(folder / "run.lock").pid, signal.SIGUSR2)
            warned = True
        time.sleep(0.05)
    assert "going on after step" in log_here(folder, job)
    assert weights_hash(folder) == weights_hash(tmp_path / "calm")


@pytest.mark.slow
def test_killing_a_local_job_saves_and_ends_it(tmp_path, capsys):
    folder = tmp_path / "run"
    job = start_here(folder, capsys)
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").read_text().count('"loss"') < 3:
        assert time.monotonic() < deadline, log_here(folder, job)
        time.sleep(0.02)
    os.kill(job, signal.SIGTERM)
    os.waitpid(job, 0)
    assert "not requeued: SIGTERM was sent to this job alone" in log_here(folder, job)
    assert not (folder / "run.lock").exists()
