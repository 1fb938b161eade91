"""Use `launch/slurm.py` on a real Slurm of two nodes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import NODES
from small_run import metric_steps, small, weights_hash

from launch.slurm import ROOT, main
from launch.snapshot import take
from vcrast.config.resume import resolve
from vcrast.run import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]  # one cluster on a machine
PRETRAIN = ("stages=[pretrain]", "pretrain.steps=40", "run.device=cpu", "slurm.timeout_min=10")


def submit(capsys, *words):
    """Job id and output of a submission from this process."""
    capsys.readouterr()
    assert main(list(words)) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    return re.search(r"^submitted job (\d+)|^  (\d+)_0 ", said, re.MULTILINE).group(0).split()[-1].split("_")[0], said


def words(folder, *more):
    return small(folder, *PRETRAIN, *more)


def log(folder, job, rank=0):
    return (folder / "slurm" / f"{job}_{rank}_log.out").read_text(errors="replace")


def wait_for_steps(folder, count, seconds=400):
    """Until so many steps were logged."""
    path, deadline = folder / "metrics.jsonl", time.monotonic() + seconds
    while not path.is_file() or path.read_text().count('"loss"') < count:
        assert time.monotonic() < deadline, [path.read_text() for path in (folder / "slurm").glob("*.out")]
        time.sleep(0.02)


def task_pid(cluster, job, rank):
    """The process of a rank."""
    for number, variables in cluster.processes(job).items():
        if variables.get("SLURM_PROCID") == str(rank):
            command = Path(f"/proc/{number}/cmdline").read_text().split("\0")
            if "submitit.core._submit" in command and command[0] not in ("sh", "env"):
                return number
    raise AssertionError(f"no process of job {job}, rank {rank}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run(resolve(words(folder)))
    return folder


@pytest.fixture(scope="module")
def undisturbed_by_two(tmp_path_factory):
    """Two processes without Slurm."""
    folder = tmp_path_factory.mktemp("undisturbed") / "two"
    command = [sys.executable, "launch/local.py", *words(folder, "launch.num_processes=2")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_two_nodes_that_are_warned_save_together_and_end_with_the_same_weights(
    cluster, undisturbed, undisturbed_by_two, tmp_path, capsys
):
    folder = tmp_path / "run"
    job, _ = submit(capsys, *words(folder, "slurm.nodes=2"))
    wait_for_steps(folder, 3)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(job, "PENDING")
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert (cluster.job(job)["Restarts"], cluster.job(job)["NumNodes"]) == ("1", "2")
    assert "going on after step" in log(folder, job)
    assert weights_hash(folder) == weights_hash(undisturbed_by_two)
    assert metric_steps(folder) == metric_steps(undisturbed)
    losses = [[line["loss"] for line in metric_lines(where)] for where in (folder, undisturbed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_real_audio_on_two_nodes_is_warned_and_ends_with_the_same_weights(cluster, esc10_root, tmp_path, capsys):
    def esc10(folder, *more):
        ours = ("recipe=demo", "data.options.", "data.clip_duration_s=", "model.")
        shared = [word for word in words(folder, *more) if not word.startswith(ours)]
        return ["recipe=esc10", f"data.root={esc10_root}", "model=tiny", "model.depth=2", *shared, "pretrain.steps=24"]

    alone = tmp_path / "alone"
    command = [sys.executable, "launch/local.py", *esc10(alone, "launch.num_processes=2")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    folder = tmp_path / "run"
    job, _ = submit(capsys, *esc10(folder, "slurm.nodes=2"))
    wait_for_steps(folder, 3)
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait(job, "PENDING")
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert cluster.job(job)["Restarts"] == "1"
    assert metric_steps(folder) == metric_steps(alone)
    assert len(metric_steps(folder)) == 24
    assert weights_hash(folder) == weights_hash(alone)


def metric_lines(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def test_the_script_is_the_one_that_a_dry_run_prints(cluster, tmp_path, capsys):
    overrides = words(tmp_path / "run", "+slurm.extra.begin=now+3600", "slurm.mem_gb=1", "slurm.cpus_per_task=1")
    assert main([*overrides, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    job, _ = submit(capsys, *overrides)
    cluster.run("scancel", job)
    assert (tmp_path / "run" / "slurm" / f"{job}_submission.sh").read_text().strip() == printed.strip()


def test_what_a_site_asks_for_reaches_slurm_and_the_run(cluster, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VCRAST_CONFIGS", "")
    recipe = "# @package _global_\ndefaults: [demo, _self_]\nstages: [pretrain]\n"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text(recipe)
    folder, site = tmp_path / "run", tmp_path / "site.sh"
    site.write_text("export WANDB_PROJECT='of the site'\n")
    python = f"env SEEN={tmp_path}/seen sh -c 'env > $SEEN.$SLURM_PROCID; exec \"$@\"' sh {sys.executable}"
    own = [word for word in words(folder, "pretrain.steps=2") if not word.startswith(("recipe=", "stages="))]
    first = cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")
    job, _ = submit(
        capsys, "mine", "--recipes", str(tmp_path / "recipes"), *own, "slurm.job_name=my name",
        f"slurm.setup=source {site} && test -n \"$WANDB_PROJECT\"", "slurm.srun_args=--label --chdir=/",
        f"slurm.python={python}", "slurm.comment=it's \"$HOME\"", f"slurm.nodelist={NODES[1]}", "slurm.extra.nice=7",
        "slurm.mail_user=me@lab", "slurm.mail_type=[END]", f"slurm.dependency=afterany:{first}",
    )  # fmt: skip
    (tmp_path / "recipes" / "mine.yaml").write_text("edited: later")
    shown = cluster.run("scontrol", "show", "job", job)
    for part in (
        "JobName=my name",
        'Comment=it\'s "$HOME"',
        f"ReqNodeList={NODES[1]}",
        f"Dependency=afterany:{first}",
        "Nice=7",
        "MailUser=me@lab",
    ):
        assert part in shown, shown
    cluster.run("scancel", first)
    assert cluster.wait(job)["JobState"] == "COMPLETED", log(folder, job)
    seen = (tmp_path / "seen.0").read_text()
    assert "WANDB_PROJECT=of the site\n" in seen
    assert "\nPWD=/\n" in seen
    assert log(folder, job).count("0: ") > 3  # srun --label
    assert len(metric_steps(folder)) == 2


def test_a_set_up_command_that_fails_ends_the_job(cluster, tmp_path, capsys):
    job, _ = submit(capsys, *words(tmp_path / "run", "slurm.setup=source /nowhere.sh"))
    assert cluster.wait(job)["JobState"] == "FAILED"
    assert "/nowhere.sh: No such file" in log(tmp_path / "run", job)


def test_srun_of_the_launcher_itself_says_what_to_use(cluster, tmp_path):
    command = ["srun", "--ntasks=2", sys.executable, str(ROOT / "launch/local.py"), *words(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "srun has started 2 processes (SLURM_STEP_NUM_TASKS)" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_preempted_job_saves_goes_back_into_the_queue_and_ends_with_the_same_weights(
    cluster, undisturbed, tmp_path, capsys
):
    folder = tmp_path / "with a blank"
    overrides = [word for word in words(folder) if not word.startswith("run.dir=")]
    job, said = submit(capsys, *overrides, f"run.dir='{folder}'")
    for part in (str(folder), f"scancel {job}", f"squeue --jobs {job}", f"tail -F '{folder}/slurm/{job}_0_log.out'"):
        assert part in said
    wait_for_steps(folder, 3)
    # The urgent job needs both nodes to itself, so Slurm sends SIGTERM now and would kill in a minute.
    cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    cluster.wait(job, "PENDING")
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert cluster.job(job)["Restarts"] == "1"
    for part in ("SIGTERM: saving after this step", "going on after step"):
        assert part in log(folder, job)
    assert "Traceback" not in log(folder, job)
    assert weights_hash(folder) == weights_hash(undisturbed)
    assert metric_steps(folder) == metric_steps(undisturbed)


def test_a_sweep_is_one_array_and_every_run_has_its_folder(cluster, tmp_path, capsys):
    few = ("pretrain.steps=2", "attention=softmax,rfa", "run.seed=0,1")
    job, said = submit(capsys, "-m", *words(tmp_path / "sweep", *few))
    settings = []
    for index in range(4):
        assert f"{job}_{index}" in said
        assert cluster.wait(f"{job}_{index}")["JobState"] == "COMPLETED", log(tmp_path / "sweep", f"{job}_{index}")
    for folder in sorted((tmp_path / "sweep").glob("[0-9]_*")):
        assert str(folder) in said
        config = resolve([f"run.resume={folder}"])
        settings.append((config.attention["name"], config.run.seed))
        assert len(metric_steps(folder)) == 2
    assert settings == [("softmax", 0), ("softmax", 1), ("rfa", 0), ("rfa", 1)]


def test_a_killed_process_fails_the_job_and_the_same_command_goes_on(cluster, undisturbed_by_two, tmp_path, capsys):
    overrides = words(tmp_path / "run", "checkpoint.every_steps=2", "slurm.nodes=2")
    job, _ = submit(capsys, *overrides)
    wait_for_steps(tmp_path / "run", 5)
    os.kill(task_pid(cluster, job, 1), signal.SIGKILL)
    record = cluster.wait(job)
    assert (record["JobState"], record["Reason"]) == ("FAILED", "NonZeroExitCode")
    assert "task 1: Killed" in log(tmp_path / "run", job)
    again, _ = submit(capsys, *overrides)
    assert cluster.wait(again)["JobState"] == "COMPLETED"
    assert "going on after step" in log(tmp_path / "run", again)
    assert weights_hash(tmp_path / "run") == weights_hash(undisturbed_by_two)


def test_a_job_whose_node_dies_goes_on_elsewhere(cluster, undisturbed, tmp_path, capsys):
    folder = tmp_path / "run"
    job, _ = submit(capsys, *words(folder, "checkpoint.every_steps=2"))
    wait_for_steps(folder, 5)
    dead = cluster.job(job)["NodeList"]
    cluster.kill_node(dead, job)
    try:
        record = cluster.wait(job)
    finally:
        cluster.start_node(dead)
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "1")
    assert record["NodeList"] != dead
    assert "taking over the lock of a run that is gone" in log(folder, job)
    assert weights_hash(folder) == weights_hash(undisturbed)


def test_a_cancelled_job_saves_and_stays_away(cluster, tmp_path, capsys):
    job, _ = submit(capsys, *words(tmp_path / "run"))
    wait_for_steps(tmp_path / "run", 3)
    cluster.run("scancel", job)
    record = cluster.wait(job, "CANCELLED")
    assert record["Restarts"] == "0"
    assert "not requeued" in log(tmp_path / "run", job)
    assert list((tmp_path / "run" / "checkpoints").rglob("*.pt"))


def test_a_mistake_on_the_node_is_one_line_and_the_job_has_failed(cluster, tmp_path, capsys):
    job, _ = submit(capsys, *words(tmp_path / "run", "pretrain.batch_size=1000"))
    record = cluster.wait(job)
    assert (record["JobState"], record["ExitCode"]) == ("FAILED", "2:0")
    assert "slurm.py: error: pretrain.batch_size=1000: fold 1 has only" in log(tmp_path / "run", job)
    assert "Traceback" not in log(tmp_path / "run", job)


def test_editing_after_submission_does_not_change_a_waiting_job(cluster, tmp_path):
    checkout = take(ROOT, tmp_path / "checkout")
    run_file = checkout / "vcrast" / "run.py"
    original = run_file.read_text()
    run_file.write_text(original + "\nprint('written on Monday')\n")
    overrides = words(tmp_path / "run", "pretrain.steps=2", "+slurm.extra.begin=now+3600")
    done = subprocess.run(
        [sys.executable, "launch/slurm.py", *overrides], cwd=checkout, capture_output=True, text=True, check=True
    )
    job = re.search(r"submitted job (\d+)", done.stdout).group(1)
    run_file.write_text(original + "\nprint('edited on Tuesday')\n")
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert "written on Monday" in log(tmp_path / "run", job)
    assert "edited on Tuesday" not in log(tmp_path / "run", job)
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["git"] == json.loads((checkout / "snapshot.json").read_text())["git"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("slurm.partition=gpu", "sbatch refused the job: invalid partition"),
        ("slurm.gpus_per_node=8", "sbatch refused the job: Invalid generic resource"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_no_folder(cluster, tmp_path, capsys, word, said):
    assert main(words(tmp_path / "run", word)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("word", ["slurm.timeout_min=10000", "slurm.nodes=4"])
def test_a_job_that_would_wait_for_ever_is_pointed_out(cluster, tmp_path, capsys, word):
    assert main(words(tmp_path / "run", word)) == 0
    said = capsys.readouterr()
    cluster.run("scancel", re.search(r"submitted job (\d+)", said.out).group(1))
    assert "will wait for ever" in said.err
    assert word.partition("=")[0] in said.err


def test_variables_of_the_shell_do_not_overrule_the_command_line(cluster, tmp_path, capsys, monkeypatch):
    for name, value in {
        "SBATCH_TIMELIMIT": "5",
        "SBATCH_PARTITION": "nowhere",
        "RANK": "3",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    job, _ = submit(capsys, *words(tmp_path / "run", "slurm.partition=main", "+slurm.extra.begin=now+3600"))
    record = cluster.job(job)
    cluster.run("scancel", job)
    assert (record["TimeLimit"], record["Partition"]) == ("00:10:00", "main")
    assert os.environ["RANK"] == "3"
