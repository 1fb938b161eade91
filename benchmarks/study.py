"""Pretrain by every objective on equal compute, several seeds, and compare.

python benchmarks/study.py --out FOLDER --minutes 8 --seeds 0 1 -- esc10 data.root=DIR model=tiny data.folds=all

First the CPU time of a step of each method is measured: its steps are the minutes over that. Then the runs,
`--jobs` at a time with one thread each; one that is stopped goes on when the command is given again, those that are
done stay. `vcrast compare` prints the table. The words behind `--` are those of `launch/local.py`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import header, read_json, write_json
from benchmarks.methods import METHODS
from vcrast.cli.main import main as vcrast
from vcrast.config.compose import compose

ROOT = Path(__file__).resolve().parent.parent
PLAN = "study.json"
TIMED_STEPS = (2, 8)


@dataclass(frozen=True)
class Planned:
    """One run of the study."""

    name: str
    words: tuple[str, ...]

    def command(self, out: Path) -> list[str]:
        """What starts it, or goes on with it."""
        return [sys.executable, str(ROOT / "launch/local.py"), *self.words, f"run.dir={out / self.name}"]


def seconds_a_step(methods: Sequence[str], arguments: argparse.Namespace) -> dict[str, float]:
    """CPU time of a step of each method, sounds and all: of a run of a few steps, less that of a run of fewer.

    Not wall time: other work on the machine would decide which method gets more steps.
    """
    shutil.rmtree(arguments.out / "timing", ignore_errors=True)  # a run that is done would take no time
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(arguments.rounds):
        for name in methods:
            words = (*arguments.words, *METHODS[name], "stages=[pretrain]")
            few, more = (
                cpu_seconds(
                    Planned(f"timing/{file_name(name)}_{steps}_{number}", (*words, f"pretrain.steps={steps}")),
                    arguments.out,
                )
                for steps in TIMED_STEPS
            )
            taken[name].append((more - few) / (TIMED_STEPS[1] - TIMED_STEPS[0]))
    return {name: statistics.median(values) for name, values in taken.items()}


def cpu_seconds(run: Planned, out: Path) -> float:
    """CPU time of a run and the processes that it started, with one thread.

    Raises:
        ValueError: it failed; names its log.
    """
    (out / run.name).parent.mkdir(parents=True, exist_ok=True)
    with (out / f"{run.name}.log").open("wb") as log:
        process = start(run, out, log)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{run.name}: ended with {process.returncode}, see {out / run.name}.log")
    return used.ru_utime + used.ru_stime


def start(run: Planned, out: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a run, or go on with it, with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(run.command(out), stdout=log, stderr=log, env=environment, cwd=ROOT)


def make_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the methods and say how many steps each has; a plan that is there already is gone on with.

    Raises:
        ValueError: it was made with other words.
    """
    methods = arguments.methods or list(METHODS)
    asked = {"words": arguments.words, "minutes": arguments.minutes, "methods": methods}
    found = read_json(arguments.out / PLAN)
    if found is not None:
        if differing := [key for key, value in asked.items() if found[key] != value]:
            raise ValueError(
                f"{arguments.out / PLAN}: was begun with other {', '.join(differing)}; repeat them, or choose "
                "another --out"
            )
        return found
    for name in methods:
        compose([*local_words(arguments.words), *METHODS[name]])  # a mistake is said before anything runs
    print(f"measuring a step of {len(methods)} methods", flush=True)
    seconds = seconds_a_step(methods, arguments)
    steps = {name: max(2, round(60 * arguments.minutes / each)) for name, each in seconds.items()}
    plan = {**asked, "machine": header(torch.device("cpu"), "of the runs"), "seconds_a_step": seconds, "steps": steps}
    write_json(arguments.out / PLAN, plan)
    return plan


def local_words(words: Sequence[str]) -> list[str]:
    """The words of `launch/local.py` as those of a composition: a first one without `=` is the recipe."""
    return [f"recipe={words[0]}", *words[1:]] if words and "=" not in words[0] else list(words)


def file_name(method: str) -> str:
    """A method's name without what a shell would split."""
    return method.replace(", ", "_").replace(" ", "_")


def runs_of(plan: dict[str, Any], seeds: Sequence[int]) -> list[Planned]:
    """All runs, one seed after the other."""
    found = []
    for seed in seeds:
        for method in plan["methods"]:
            name = f"{file_name(method)}_seed{seed}"
            words = (*plan["words"], *METHODS[method], f"pretrain.steps={plan['steps'][method]}", f"run.seed={seed}")
            found.append(Planned(name, words))
    return found


def run_all(runs: Sequence[Planned], out: Path, jobs: int) -> list[str]:
    """Run them, some at a time; returns the names of those that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after all have saved.
    """
    waiting, going, failed = list(runs), dict[Planned, subprocess.Popen[bytes]](), []
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                each = waiting.pop(0)
                print(f"{each.name}: {shlex.join(each.words)}", flush=True)
                (out / each.name).parent.mkdir(parents=True, exist_ok=True)
                with (out / f"{each.name}.log").open("ab") as log:
                    going[each] = start(each, out, log)
            time.sleep(0.2)
            for each, process in list(going.items()):
                if process.poll() is not None:
                    del going[each]
                    if process.returncode:
                        failed.append(each.name)
                        print(f"{each.name}: failed ({process.returncode}), see {out / each.name}.log", flush=True)
    except BaseException:
        for process in going.values():
            process.send_signal(signal.SIGTERM)
        for process in going.values():
            process.wait()
        raise
    return failed


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Pretrain by every objective on equal compute and compare.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of all runs; the same one goes on")
    parser.add_argument("--minutes", type=float, default=8.0, help="of pretraining, a run, on one core")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of short runs of each method that are timed")
    parser.add_argument("words", nargs="*", help="of launch/local.py, after --")
    return parser.parse_args(argv)


def interrupt(*_: object) -> None:
    """Let a request to end be what Ctrl-C is."""
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Plan, run, compare."""
    arguments = parse(argv)
    signal.signal(signal.SIGTERM, interrupt)  # else the runs would go on without it
    try:
        plan = make_plan(arguments)
        for name, steps in plan["steps"].items():
            print(f"{name}: {steps} steps of {plan['seconds_a_step'][name]:.2f} s", flush=True)
        runs = runs_of(plan, arguments.seeds)
        failed = run_all(runs, arguments.out, arguments.jobs)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on in {arguments.out}", file=sys.stderr)
        return 130
    vcrast(["compare", *(str(arguments.out / each.name) for each in runs if each.name not in failed)])
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"study.py: error: {error}")
