"""Run a sweep on this machine: its runs in turn, each in processes of its own.

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

from .arguments import Arguments, Program, resumed_folder
from .processes import FORWARDED, launch
from .sweep import plan

FILE = "sweep.json"
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
    for taken in (base / FILE, base / "config.yaml"):
        if taken.exists():
            raise ValueError(
                f"run.dir={base}: {taken.name} is there already; go on with {shlex.quote(f'run.resume={base}')}"
            )
    listed = [
        {
            "folder": run.folder.name, "varied": list(run.varied), "overrides": list(run.overrides),
            "num_processes": run.config.launch.num_processes, "exit_code": None,
        }
        for run in runs
    ]  # fmt: skip
    if arguments.dry_run:
        return _rehearse(listed, program)
    base.mkdir(parents=True, exist_ok=True)
    _write(base, listed)
    return go_on(base, program)


def is_sweep_folder(folder: str | Path | None) -> bool:
    """Whether a folder holds a sweep that was begun here."""
    return folder is not None and (Path(folder) / FILE).is_file()


def go_on(base: Path, program: Program, changes: Sequence[str] = ()) -> int:
    """Run what of a sweep is not done; a run that was stopped goes on where it was. Returns as `start` does.

    Args:
        base: the sweep's folder.
        program: the launcher that each run is handed to.
        changes: `key=value` words for the runs that are not done, on top of their own.
    """
    listed = json.loads((base / FILE).read_text(encoding="utf-8"))
    print(f"sweep: {len(listed)} runs in {base}", flush=True)
    for number, run in enumerate(listed, start=1):
        name = f"run {number} of {len(listed)}: {' '.join(run['varied'])}"
        if run["exit_code"] == 0:
            print(f"\n{name}: done already", flush=True)
            continue
        print(f"\n{name}", flush=True)
        run["exit_code"] = _run(run, program, changes, base / run["folder"])
        _write(base, listed)
        if run["exit_code"] in STOPPED:
            by = signal.Signals(run["exit_code"] - 128).name
            print(f"\nsweep stopped by {by} in run {number} of {len(listed)}. Go on with:")
            print(f"  {program.shown} {shlex.quote(f'run.resume={base}')}")
            return int(run["exit_code"])
    return _conclude(base, listed, program)


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
        print(f"compare:  vcrast compare {shlex.quote(str(base))}")
    return 1 if failed else 0


def _write(base: Path, listed: Sequence[dict[str, Any]]) -> None:
    write_atomic(base / FILE, json.dumps(listed, indent=2) + "\n")
