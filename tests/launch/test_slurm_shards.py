"""Pack a dataset by an array of jobs: what is checked and printed, the same bytes."""

import pickle
import shutil
import signal
import sys
import time

import numpy as np
import pytest
import soundfile as sf

from launch import slurm_shards
from launch.arguments import Program
from launch.slurm import main
from launch.slurm_shards import PackingJob
from vcrast.cli.main import main as vcrast
from vcrast.data.shards.layout import MANIFEST

ONE_BY_ONE = ("--clips-per-shard", "1", "--workers", "0")


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A command line that packs six clips into as many shards."""
    monkeypatch.setenv("VCRAST_CACHE", str(tmp_path / "cache"))
    for number in range(6):
        path = tmp_path / "sounds" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.sin(np.arange(1600) * (number + 1) / 20).astype(np.float32) / 2, 16000)
    return ["data", "shard", "folder", f"data.root={tmp_path}/sounds", *ONE_BY_ONE]


@pytest.fixture
def whole(words, tmp_path):
    """What one process writes."""
    assert vcrast([*words, "--out", str(tmp_path / "whole")]) == 0
    return shards(tmp_path / "whole")


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.fixture
def no_slurm(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)


def out(tmp_path, parts):
    return ["--out", str(tmp_path / "shards"), "--parts", str(parts)]


def test_a_dry_run_prints_the_array_and_writes_nothing(words, tmp_path, capsys):
    assert main([*words, *out(tmp_path, 3), "slurm.partition=cpu", "slurm.array_parallelism=2", "--dry-run"]) == 0
    said = capsys.readouterr()
    for line in ("--partition=cpu", "--array=0-2%2", "--job-name=vcrast-shard-folder"):
        assert f"#SBATCH {line}\n" in said.out
    assert f"would run 3 of 3 parts into {tmp_path}/shards\n" in said.err
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["slurm.nodes=2"], "slurm.nodes=2: each part is one process on one node"),
        (["slurm.gpus_per_node=2"], "needs no GPU; leave it out"),
        (["slurm.partion=cpu"], "did you mean partition?"),
        (["slurm.cluster=local", "slurm.partition=cpu"], "slurm.cluster=local runs on this machine"),
        (["--parts", "7", "--dry-run"], "--parts 7: 6 clips are 6 shards of 1; give at most 6"),
        (["--parts", "0"], "--parts 0: must be at least 1"),
        (["--codec", "mp3", "slurm.cluster=auto"], "--codec mp3"),
        (["--clips-per-shard", "0", "slurm.cluster=auto"], "--clips-per-shard 0: must be at least 1"),
        ([], "no sbatch and srun on PATH"),
    ],
)
def test_what_is_wrong_is_one_line(no_slurm, words, tmp_path, capsys, more, said):
    assert main([*words, *out(tmp_path, 2), *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert error.startswith("slurm.py: error: ")


def test_data_that_only_the_nodes_see_is_a_warning(words, tmp_path, capsys):
    assert main([*words, *out(tmp_path, 40), f"data.root={tmp_path}/nowhere", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "#SBATCH --array=0-39" in said.out
    assert "nowhere: no such folder (as seen from here; the jobs fail unless the nodes see it)" in said.err


@pytest.mark.parametrize(
    ("verb", "said"), [("shrad", "did you mean shard?"), ("stats", "run here, as `vcrast data stats`")]
)
def test_other_verbs_of_data_are_no_jobs(capsys, verb, said):
    assert main(["data", verb, "esc50"]) == 2
    assert said in capsys.readouterr().err


def commands(monkeypatch, tmp_path, capsys, words, parts=4):
    """The words of each job that would be submitted, and what is printed."""
    seen = []
    monkeypatch.setattr(slurm_shards, "_receipt", lambda *given: [])
    monkeypatch.setattr("launch.snapshot.take", lambda root, folder: folder)
    monkeypatch.setattr("launch.submission.Submission.submit", lambda self, cluster, jobs: seen.extend(jobs) or jobs)
    assert main([*words, *out(tmp_path, parts), "slurm.cluster=local"]) == 0
    return [job.words for job in seen], capsys.readouterr().out


def test_the_same_command_submits_what_is_missing_until_all_is_there(words, whole, tmp_path, monkeypatch, capsys):
    first, _ = commands(monkeypatch, tmp_path, capsys, words)
    assert [each[each.index("--part") + 1] for each in first] == ["1/4", "2/4", "3/4", "4/4"]
    for part in (0, 2):
        assert vcrast(first[part]) == 0
    assert commands(monkeypatch, tmp_path, capsys, words)[0] == [first[1], first[3]]
    for part in (1, 3):
        assert vcrast(first[part]) == 0
    assert shards(tmp_path / "shards") == whole
    (tmp_path / "shards" / MANIFEST).unlink()
    assert commands(monkeypatch, tmp_path, capsys, words)[0] == [first[0]], "two that ended at once"
    assert vcrast(first[0]) == 0
    left, said = commands(monkeypatch, tmp_path, capsys, words)
    assert (left, "packed already, nothing to submit; vcrast data verify" in said) == ([], True)


def test_a_folder_of_other_clips_is_refused_before_anything_is_submitted(words, tmp_path, monkeypatch, capsys):
    commands(monkeypatch, tmp_path, capsys, words)
    assert main([*words, *out(tmp_path, 2), "data.sample_rate=8000", "slurm.cluster=local"]) == 2
    assert "was begun with sample_rate=16000, now 8000" in capsys.readouterr().err


@pytest.fixture
def job(words, tmp_path):
    command = (*[word for word in words if word not in ("--workers", "0")], "--out", str(tmp_path / "x"))
    return PackingJob(command, Program.of_script("launch/slurm.py"))


def test_a_job_uses_the_cores_that_it_was_given_and_fails_with_the_verbs_code(job, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "0")
    monkeypatch.setenv("VCRAST_CONFIGS", "")
    before = signal.getsignal(signal.SIGTERM)
    again = pickle.loads(pickle.dumps(job.checkpoint().function))
    assert again == job
    assert job._workers() == ["--workers", "0"]
    try:
        assert job() == 0
        with pytest.raises(SystemExit) as ended:
            PackingJob((*job.words, "data.sample_rate=8000"), job.program)()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 2
    assert "was begun with" in capsys.readouterr().err


@pytest.mark.parametrize("preempted", [True, False])
def test_a_preempted_job_goes_back_into_the_queue_and_a_cancelled_one_ends(job, monkeypatch, capsys, preempted):
    asked = []
    monkeypatch.setattr(slurm_shards, "reason_to_end", lambda number: None if preempted else "it was cancelled")
    monkeypatch.setattr(slurm_shards, "submitits_handler", lambda: None)
    monkeypatch.setattr(slurm_shards, "requeue", lambda handler: asked.append(handler) or "Slurm does not answer")
    with pytest.raises(SystemExit) as ended:
        job._end(signal.SIGTERM, None)
    assert (ended.value.code, len(asked)) == (143, preempted)
    assert "not requeued: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_an_array_on_two_nodes_writes_the_bytes_of_one_process(cluster, words, whole, tmp_path, capsys):
    assert main([*words, *out(tmp_path, 3), "slurm.python=" + sys.executable, "slurm.timeout_min=5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("submitted 3 jobs: data shard folder\n")
    number = next(line.split()[-1] for line in said.splitlines() if line.startswith("  cancel"))
    deadline = time.monotonic() + 200
    while not (tmp_path / "shards" / MANIFEST).exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    logs = "".join(path.read_text() for path in (tmp_path / "shards" / "slurm").glob("*_log.out"))
    assert shards(tmp_path / "shards") == whole, logs
    for task in range(3):
        assert cluster.wait(f"{number}_{task}")["JobState"] == "COMPLETED"
    # A part that was lost is the only one that is submitted again.
    (tmp_path / "shards" / "clips-000001.tar").unlink()
    (tmp_path / "shards" / MANIFEST).unlink()
    assert main([*words, *out(tmp_path, 3), "slurm.timeout_min=5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("submitted 1 job: data shard folder, those of 3 parts that are missing\n")
    number = next(line.split()[-1] for line in said.splitlines() if line.startswith("  cancel"))
    assert cluster.wait(number)["JobState"] == "COMPLETED"
    assert shards(tmp_path / "shards") == whole
    assert vcrast(["data", "verify", str(tmp_path / "shards")]) == 0
    shutil.rmtree(tmp_path / "shards")
