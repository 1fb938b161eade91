"""Install the wheel into an empty environment and use it away from the clone."""

import json
import os
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
from small_run import SMALL, metric_steps

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]  # built and installed once
SHORT = [*SMALL[1:], "pretrain.steps=2", "finetune.steps=2", "run.device=cpu"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel; from the environment of the tests it sees the other packages."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    (site,) = environment.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # Folders named here are searched after the new ones, and their own .pth files, such as that of an editable
    # install of the clone, are not read.
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return environment


@pytest.fixture
def call(installed, tmp_path):
    """Run a program of the new environment in an empty folder."""
    (tmp_path / "empty").mkdir()
    hidden = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "RANK", "COMP_LINE")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables |= {"PYTHONNOUSERSITE": "1", "VCRAST_CACHE": str(tmp_path / "cache")}

    def run(program, *words, **more):
        command = [str(installed / "bin" / program), *words]
        done = subprocess.run(
            command, cwd=tmp_path / "empty", env=variables | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_the_wheel_has_one_top_level_package_and_all_of_the_repository(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"vcrast", wheel.name.rpartition("-py3")[0] + ".dist-info"}
    for top, inside in (("vcrast", ""), ("launch", "vcrast/"), ("extensions", "vcrast/"), ("configs", "vcrast/")):
        files = [path for path in (ROOT / top).rglob("*") if path.suffix in (".py", ".yaml", ".typed")]
        assert files
        assert {f"{inside}{path.relative_to(ROOT)}" for path in files} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_nothing_of_the_clone_is_in_reach(call, installed):
    program = (
        "import importlib.util, json, sys, vcrast\n"
        "found = {name: bool(importlib.util.find_spec(name)) for name in ('launch', 'extensions', 'vcrast.launch')}\n"
        "print(json.dumps([vcrast.__file__, sys.path, found]))"
    )
    place, path, found = json.loads(call("python", "-c", program))
    assert Path(place).is_relative_to(installed)
    assert str(ROOT) not in path
    assert found == {"launch": False, "extensions": False, "vcrast.launch": True}


def test_a_run_with_an_extension_goes_through_all_stages(call, tmp_path):
    said = call("vcrast", "run", "demo", *SHORT, "attention=rfa", f"run.dir={tmp_path}/run")
    assert "report: " in said
    assert [stage for _, stage, _ in metric_steps(tmp_path / "run")] == ["pretrain"] * 2 + ["finetune"] * 2
    program = f"import vcrast; model = vcrast.load('{tmp_path}/run'); print(type(model.encoder.blocks[0].attn.mix))"
    assert "vcrast.extensions.rfa.attention" in call("python", "-c", program)
    assert "extensions.rfa.attention" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_sweep_of_runs_in_two_processes_each(call, tmp_path):
    words = [*SHORT, "stages=[pretrain]", "launch.num_processes=2", f"run.dir={tmp_path}/sweep"]
    call("vcrast", "run", "demo", *words, "-m", "linear=quaternion,real")
    for name in ("0_linear-quaternion", "1_linear-real"):
        assert len(metric_steps(tmp_path / "sweep" / name)) == 2
        assert (tmp_path / "sweep" / name / "logs" / "rank_1.log").is_file()


def test_a_job_runs_the_code_that_was_installed_when_it_was_submitted(call, tmp_path):
    folder = tmp_path / "job"
    words = ["demo", *SHORT, "stages=[pretrain]", f"run.dir={folder}"]
    assert call("vcrast", "submit", *words, "--dry-run").startswith("#!/bin/bash")
    assert not folder.exists()
    call("vcrast", "submit", *words, "slurm.cluster=local")
    deadline = time.monotonic() + 240
    while not (log := "".join(path.read_text() for path in folder.glob("slurm/*_0_log.*"))).count("report: "):
        assert time.monotonic() < deadline, log
        time.sleep(0.1)
    (code,) = (folder / "code").iterdir()
    assert sorted(path.name for path in code.iterdir()) == ["snapshot.json", "vcrast"]
    # Python leaves its caches beside the files that it imports.
    assert list((code / "vcrast" / "launch" / "__pycache__").glob("slurm_job*.pyc"))


def test_the_command_knows_its_options_and_names_itself(call):
    listed = call("vcrast", "list")
    assert all(name in listed for name in ("esc50", "quaternion", "memory_efficient", "vcrast run NAME"))
    assert "usage: vcrast run RECIPE" in call("vcrast", "run", "--help")
    assert "usage: vcrast submit RECIPE" in call("python", "-m", "vcrast", "submit", "--help")
    assert "hydra_bash_completion vcrast" in call("vcrast", "run", "-sc", "install=bash")
    line = "vcrast run demo attention=soft"
    assert call("vcrast", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))) == "attention=softmax\n"
