"""Run a sweep on this machine: its runs in turn, or some at a time.

`sweep.json` in the sweep's folder says which there are and how each ended, so that a stopped sweep goes on.
"""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vcrast.config.atomic import write_atomic
from vcrast.runs.overview import SWEEP

from .arguments import Arguments, Program, resumed_folder
from .processes import FORWARDED, launch
from .several import Job, environments, run_several
from .sweep import plan

STOPPED = {128 + number for number in FORWARDED}  # exit codes of a run that a signal asked to save and leave


def start(arguments: Arguments, program: Program) -> int:
    """Run a sweep, or with `--dry-run` check every run of it.

    Args:
        arguments: with several values per key.
        program: the launcher that each run is handed to.

    Returns:
        0 if all runs are done, 1 if some failed, 128 + n after signal n.

    Raises:
        ValueError: a setting that is wrong in any of the runs, or a folder that holds a sweep or a run already.
    """
    if resumed_folder(arguments.overrides) is not None:
        raise ValueError("-m: run.resume=FOLDER goes on with all runs of the sweep in FOLDER by itself; leave -m out")
    base, runs = plan(arguments)
    for taken in (base / SWEEP, base / "config.yaml"):
        if taken.exists():
            raise ValueError(
                f"run.dir={base}: {taken.name} is there already; go on with {shlex.quote(f'run.resume={base}')}"
            )
    listed = [
        {
            "folder": run.folder.name, "varied": list(run.varied), "overrides": list(run.overrides),
            "num_processes": run.config.launch.num_processes, "jobs": run.config.launch.jobs,
            "device": run.config.run.device, "exit_code": None,
        }
        for run in runs
    ]  # fmt: skip
    if arguments.dry_run:
        return _rehearse(listed, program)
    places_of(listed, num_jobs(listed, ()))  # a mistake leaves no folder behind
    base.mkdir(parents=True, exist_ok=True)
    _write(base, listed)
    return go_on(base, program)


def is_sweep_folder(folder: str | Path | None) -> bool:
    """Whether a folder holds a sweep that was begun here."""
    return folder is not None and (Path(folder) / SWEEP).is_file()


def go_on(base: Path, program: Program, changes: Sequence[str] = ()) -> int:
    """Run what of a sweep is not done; a run that was stopped goes on where it was. Returns as `start` does.

    Args:
        base: the sweep's folder.
        program: the launcher that each run is handed to.
        changes: `key=value` words for the runs that are not done, on top of their own.
    """
    listed = json.loads((base / SWEEP).read_text(encoding="utf-8"))
    print(f"sweep: {len(listed)} runs in {base}", flush=True)
    jobs = num_jobs(listed, changes)
    if jobs > 1:
        return _several_at_a_time(base, listed, program, changes, jobs)
    for number, run in enumerate(listed, start=1):
        name = f"run {number} of {len(listed)}: {' '.join(run['varied'])}"
        if run["exit_code"] == 0:
            print(f"\n{name}: done already", flush=True)
            continue
        print(f"\n{name}", flush=True)
        run["exit_code"] = _run(run, program, changes, base / run["folder"])
        _write(base, listed)
        if run["exit_code"] in STOPPED:
            return _stopped(base, run["exit_code"], f"run {number} of {len(listed)}", program)
    return _conclude(base, listed, program)


def num_jobs(listed: Sequence[dict[str, Any]], changes: Sequence[str]) -> int:
    """How many runs at a time: what the sweep was begun with, or the last word says.

    Raises:
        ValueError: runs that ask for different numbers of processes cannot share the machine.
    """
    asked = [int(word.partition("=")[2]) for word in changes if word.startswith("launch.jobs=")]
    jobs = asked[-1] if asked else max(run.get("jobs", 1) for run in listed)
    sizes = {run["num_processes"] for run in listed}
    if jobs > 1 and len(sizes) > 1:
        raise ValueError(
            f"launch.jobs={jobs}: the runs have {' and '.join(map(str, sorted(sizes)))} processes; start them in turn, "
            "launch.jobs=1"
        )
    return jobs


def places_of(listed: Sequence[dict[str, Any]], jobs: int) -> list[dict[str, str]]:
    """The environment of each of the runs at a time; errors as in `environments`."""
    if jobs == 1:
        return [{}]
    return environments(jobs, listed[0]["num_processes"], on_gpus=all(run.get("device") != "cpu" for run in listed))


def _several_at_a_time(
    base: Path, listed: list[dict[str, Any]], program: Program, changes: Sequence[str], jobs: int
) -> int:
    def named(number: int) -> str:
        return f"run {number + 1} of {len(listed)}: {' '.join(listed[number]['varied'])}"

    def began(job: Job) -> None:
        print(f"{named(job.number)}: started, see {job.output}", flush=True)

    def ended(job: Job, code: int) -> bool:
        listed[job.number]["exit_code"] = code
        _write(base, listed)
        print(f"{named(job.number)}: {'done' if code == 0 else f'exit code {code}'}", flush=True)
        return code not in STOPPED

    waiting = [
        Job(number, run["num_processes"], (*run["overrides"], *changes), base / run["folder"])
        for number, run in enumerate(listed)
        if run["exit_code"] != 0
    ]
    run_several(program, waiting, places_of(listed, jobs), began=began, ended=ended)
    codes = [run["exit_code"] for run in listed if run["exit_code"] in STOPPED]
    return (
        _stopped(base, codes[0], f"{len(codes)} of {len(listed)} runs", program)
        if codes
        else _conclude(base, listed, program)
    )


def _stopped(base: Path, code: int, where: str, program: Program) -> int:
    print(f"\nsweep stopped by {signal.Signals(code - 128).name} in {where}. Go on with:")
    print(f"  {program.shown} {shlex.quote(f'run.resume={base}')}")
    return code


def _run(run: dict[str, Any], program: Program, words: Sequence[str], folder: Path) -> int:
    return launch(program, run["num_processes"], [*run["overrides"], *words], run_dir=folder)


def _rehearse(listed: Sequence[dict[str, Any]], program: Program) -> int:
    failed = 0
    for number, run in enumerate(listed, start=1):
        print(f"\nrun {number} of {len(listed)}: {' '.join(run['varied'])}", flush=True)
        failed += launch(program, 1, [*run["overrides"], "--dry-run"]) != 0
    return 1 if failed else 0


def _conclude(base: Path, listed: Sequence[dict[str, Any]], program: Program) -> int:
    failed = [run for run in listed if run["exit_code"] != 0]
    print()
    for run in failed:
        print(f"failed (exit code {run['exit_code']}): {' '.join(run['varied'])}  {base / run['folder']}")
    if failed:
        print(f"{len(failed)} of {len(listed)} runs failed; try them again with:")
        print(f"  {program.shown} {shlex.quote(f'run.resume={base}')}")
    if len(failed) < len(listed):
        fills = any(word.startswith("run.cells=") for run in listed for word in run["overrides"])
        print(
            f"{'table:  ' if fills else 'compare:'}  vcrast {'table' if fills else 'compare'} {shlex.quote(str(base))}"
        )
    return 1 if failed else 0


def _write(base: Path, listed: Sequence[dict[str, Any]]) -> None:
    write_atomic(base / SWEEP, json.dumps(listed, indent=2) + "\n")
