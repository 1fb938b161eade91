"""Run all that wants a GPU in nine minutes, most valuable first; parts keep their rows.

python benchmarks/device.py [--minutes 9] [--out FOLDER] [--esc10 FOLDER] [--parts tests step ...]
python benchmarks/device.py --rehearse      # all parts at toy size on a CPU, about a minute
python benchmarks/device.py --needs         # packages that it imports, as name==version: for a machine without network

Each part is a process of its own with a share of the time: what one saves goes to those after it, one that fails or is
cut keeps the rows it has, and the next one runs. `summary.md` in the folder holds all tables, for docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import read_json, write_json
from benchmarks.needs import packages

ROOT = Path(__file__).resolve().parent.parent
RESERVE_S = 10.0  # kept for the summary
LEARN_S = 120.0  # of pretraining, at most
AROUND_S = 50.0  # what starting, reading and evaluating take beside it
OUTCOME = re.compile(r"^(tests/\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
SCRIPTS = ("device", "step", "methods", "attention", "synth", "filterbank")


@dataclass(frozen=True)
class Plan:
    """What the run is asked for; `toy`: the smallest sizes, on a CPU."""

    out: Path
    work: Path  # for what is too large to be kept
    esc10: Path | None
    toy: bool

    def script(self, name: str, rows: str, *words: str) -> list[str]:
        """The command of a benchmark that writes its rows to `rows`.json."""
        device = ["--device", "cpu"] if self.toy else []
        return [sys.executable, f"benchmarks/{name}.py", *words, *device, "--json", str(self.out / f"{rows}.json")]


@dataclass
class Part:
    """One thing to measure.

    Attributes:
        name: of its files.
        title: of its section in the summary.
        share_s: its share of the time, relative to the others'.
        commands: run one after the other, given the plan and the seconds the part has.
        rows: names of the JSON files that the commands leave.
        collect: more results, from the plan and the log.
    """

    name: str
    title: str
    share_s: float
    commands: Callable[[Plan, float], list[list[str]]]
    rows: tuple[str, ...] = ()
    collect: Callable[[Plan, str], dict[str, Any]] | None = None


def gpu_tests() -> list[Path]:
    """Test files that hold a test for a GPU."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [file for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


def pytest_commands(plan: Plan, seconds: float) -> list[list[str]]:  # noqa: ARG001
    """The GPU tests; in a rehearsal one file of them, which skips."""
    files = [ROOT / "tests/models/test_attention.py"] if plan.toy else gpu_tests()
    names = [str(file.relative_to(ROOT)) for file in files]
    return [[sys.executable, "-m", "pytest", "-o", "addopts=", "-m", "gpu", "-vv", "-p", "no:cacheprovider", *names]]


def outcomes(plan: Plan, log: str) -> dict[str, Any]:  # noqa: ARG001
    """Counts by outcome, and what did not pass, also of a run that was cut."""
    found = OUTCOME.findall(log)
    counts = Counter(outcome.lower() for _, outcome in found)
    bad = [name for name, outcome in found if outcome in ("FAILED", "ERROR")]
    rows = [{"outcome": outcome, "tests": str(number)} for outcome, number in counts.items()]
    return {"tests": {"notes": [f"not passed: {name}" for name in bad], "rows": rows}}


def step_commands(plan: Plan, seconds: float) -> list[list[str]]:  # noqa: ARG001
    """All kinds of step, then SSAST's beside ours."""
    if plan.toy:
        small = ("--small", "--frames", "64", "--tokens", "patch")
        return [plan.script("step", "step", *small), plan.script("step", "ssast", "--ssast", *small)]
    return [
        plan.script("step", "step", "--steps", "5", "--warmup", "2"),
        plan.script("step", "ssast", "--ssast", "--batch", "48", "--frames", "512", "--steps", "5"),
    ]


def t4_commands(plan: Plan, seconds: float) -> list[list[str]]:  # noqa: ARG001
    """A T4's memory and kernel; a rehearsal has nothing to cap and shows fp16 alone."""
    cases = ("--tokens", "patch", "--cases", "exact", "full")
    if plan.toy:
        return [plan.script("step", "t4_512", "--small", "--precision", "fp16", "--frames", "64", *cases)]
    commands = []
    for frames, batch in ((512, 96), (1024, 48)):
        sizes = ("--frames", str(frames), "--batch", str(batch), "--steps", "3")
        commands.append(plan.script("step", f"t4_{frames}", "--t4", *sizes, *cases))
    return commands


def methods_commands(plan: Plan, seconds: float) -> list[list[str]]:  # noqa: ARG001
    """A step of every objective, beside SSAST's as released."""
    if plan.toy:
        return [plan.script("methods", "methods", "--small", "--methods", "ssast")]
    return [plan.script("methods", "methods", "--model", "base", "--batch", "32")]


def attention_commands(plan: Plan, seconds: float) -> list[list[str]]:  # noqa: ARG001
    """Backends against N, the fused RFA among them."""
    tokens = [str(2**power) for power in range(9, 15)]
    sizes = ["--small"] if plan.toy else ["--features", "64", "--limit-s", "2", "--tokens", *tokens]
    return [[sys.executable, "benchmarks/attention.py", "--rows-only", "--out", str(plan.out), *sizes]]


def speed_commands(plan: Plan, seconds: float) -> list[list[str]]:  # noqa: ARG001
    """Filterbanks and generated pairs a second."""
    if plan.toy:
        pairs = ("--tiny", "--batch", "4", "--seconds", "0.5", "--steps", "1", "--warmup", "1")
        return [
            plan.script("filterbank", "filterbank", "--batch", "4", "--rounds", "2"),
            plan.script("synth", "synth", *pairs),
        ]
    return [plan.script("filterbank", "filterbank"), plan.script("synth", "synth", "--seconds", "2")]


def learn_commands(plan: Plan, seconds: float) -> list[list[str]]:
    """Pretrain small on generated pairs for as long as there is, then probe it frozen."""
    words = [
        "synth", "stages=[pretrain,evaluate]", f"run.dir={plan.work / 'synth'}", "checkpoint.every_steps=1000000",
        *([f"data.root={plan.esc10}"] if plan.esc10 else []),
    ]  # fmt: skip
    if plan.toy:
        words += [
            "model.embed_dim=48", "model.depth=2", "model.num_heads=3", "objective.projector_dims=[32,32,32]",
            "source.duration_s=1.0", "source.pairs_per_epoch=16", "pretrain.batch_size=8", "pretrain.steps=2",
            "data.options.num_clips=60", "data.options.classes=[siren,rain,dog_bark]", "data.clip_duration_s=1.0",
            "pretrain.watch_clips=8", "run.device=cpu", "data.num_workers=0",
        ]  # fmt: skip
    else:
        words += ["model=small", "pretrain.batch_size=256", f"pretrain.steps={num_steps(plan, seconds)}"]
    return [[sys.executable, "launch/local.py", *words]]


def num_steps(plan: Plan, seconds: float) -> int:
    """Steps of pretraining that fit, by what synth.py measured of the same job; 300 if it measured nothing."""
    rows = (read_json(plan.out / "synth.json") or {}).get("rows", [])
    if not rows:
        return 300
    step_s = (float(rows[0]["pairs ms"]) + float(rows[0]["training ms"])) / 1000
    return max(20, int(min(LEARN_S, seconds - AROUND_S) / step_s))


def learn_results(plan: Plan, log: str) -> dict[str, Any]:  # noqa: ARG001
    """The run's numbers; its summary, log and report are copied beside them."""
    folder = plan.work / "synth"
    for name in ("summary.json", "metrics.jsonl", "report.html"):
        if (folder / name).is_file():
            shutil.copy(folder / name, plan.out / f"synth_{name}")
    numbers = flat(read_json(folder / "summary.json") or {})
    wanted = ("accuracy", "samples_per_s", "effective_rank", "embedding_std", "steps", "peak_memory_bytes", "wall_s")
    rows = [{"number": name, "value": str(value)} for name, value in numbers.items() if name.endswith(wanted)]
    return {"learn": {"notes": [f"evaluated on {plan.esc10 or 'generated classes'}"], "rows": rows}}


def flat(content: Any, prefix: str = "") -> dict[str, float]:
    """The numbers of nested mappings by dotted name."""
    if isinstance(content, dict):
        inner = [flat(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in content.items()]
        return {name: value for found in inner for name, value in found.items()}
    return {prefix: content} if isinstance(content, int | float) and not isinstance(content, bool) else {}


PARTS = (
    Part("tests", "GPU tests", 90, pytest_commands, collect=outcomes),
    Part("step", "One step", 120, step_commands, ("step", "ssast")),
    Part("methods", "A step of every objective", 50, methods_commands, ("methods",)),
    Part("t4", "A T4's memory and kernel", 60, t4_commands, ("t4_512", "t4_1024")),
    Part("attention", "Attention against the number of tokens", 50, attention_commands, ("attention",)),
    Part("speed", "Filterbanks and generated pairs", 40, speed_commands, ("filterbank", "synth")),
    Part("learn", "Two minutes of pretraining on generated pairs", 170, learn_commands, collect=learn_results),
)


def run_part(part: Part, plan: Plan, seconds: float) -> dict[str, Any]:
    """Run a part within its time; the content of its JSON file, whatever happens."""
    started, status = time.monotonic(), "done"
    file = plan.out / f"{part.name}.log"
    file.write_bytes(b"")
    commands: list[list[str]] = []
    try:
        commands = part.commands(plan, seconds)
        for command in commands:
            ended = run(command, file, seconds - (time.monotonic() - started))
            status = ended if ended != "done" else status
        log = file.read_text(encoding="utf-8", errors="replace")
        results = {name: read_json(plan.out / f"{name}.json") for name in part.rows}
        results |= part.collect(plan, log) if part.collect else {}
    except Exception as error:  # the parts after it still run
        log, results, status = "", {}, f"failed: {error!r}"
    return {
        "title": part.title, "status": status, "seconds": round(time.monotonic() - started, 1),
        "commands": [" ".join(command) for command in commands], "results": results,
        "log_tail": [] if status == "done" else log.splitlines()[-40:],
    }  # fmt: skip


def run(command: list[str], log: Path, seconds: float) -> str:
    """Run one command, its output added to the log; `done`, `failed: ...` or `cut ...` when its time is over."""
    if seconds <= 0:
        return "cut: no time was left"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"cut after {seconds:.0f} s"
        finally:
            stop(process)
    return "done" if code == 0 else f"failed: {' '.join(command[1:3])} ended with {code}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, if it still runs."""
    for sign, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


def summary(done: dict[str, dict[str, Any]]) -> str:
    """Markdown of all parts so far; a note that stands above already is not repeated."""
    lines: list[str] = []
    for part in done.values():
        lines += [f"## {part['title']}", "", f"{part['status']}, {part['seconds']:.0f} s", ""]
        for content in filter(None, part["results"].values()):
            notes = [line for line in (f"- {note}" for note in content["notes"]) if line not in lines]
            lines += [*notes, "", *markdown(content["rows"]), ""]
        if part["log_tail"]:
            lines += ["```text", *part["log_tail"][-8:], "```", ""]
    return "\n".join(lines)


def markdown(rows: list[dict[str, str]]) -> list[str]:
    """Lines of a table."""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)] if rows else []
    return [f"| {' | '.join(each)} |" for each in cells]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole run")
    out = Path(os.environ.get("OUT", "outputs/device"))
    parser.add_argument("--out", type=Path, default=out, help="folder of the results; $OUT, else outputs/device")
    parser.add_argument("--esc10", type=Path, help="an ESC-10 or ESC-50 folder to evaluate on")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--rehearse", action="store_true", help="all parts at toy size on a CPU")
    parser.add_argument("--needs", action="store_true", help="only list the packages it imports")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the parts.

    Returns:
        0; 1 if a part failed, which a part that was cut has not.
    """
    arguments = parse(argv)
    if arguments.needs:
        files = [ROOT / "benchmarks" / f"{name}.py" for name in SCRIPTS]
        print("\n".join(packages([*files, *gpu_tests(), ROOT / "tests/conftest.py", ROOT / "launch/local.py"])))
        return 0
    end = time.monotonic() + 60 * arguments.minutes - RESERVE_S
    parts = [part for part in PARTS if part.name in arguments.parts]
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        plan = Plan(out, Path(work), arguments.esc10 and arguments.esc10.resolve(), arguments.rehearse)
        for number, part in enumerate(parts):
            share = part.share_s / sum(other.share_s for other in parts[number:])
            seconds = max(0.0, end - time.monotonic()) * share
            print(f"{part.name}: at most {seconds:.0f} s", flush=True)
            done[part.name] = run_part(part, plan, seconds)
            write_json(out / f"part_{part.name}.json", done[part.name])
            (out / "summary.md").write_text(summary(done), encoding="utf-8")
            print(f"{part.name}: {done[part.name]['status']}, {done[part.name]['seconds']:.0f} s", flush=True)
    print(f"written: {out / 'summary.md'}")
    return int(any(part["status"].startswith("failed") for part in done.values()))


if __name__ == "__main__":
    sys.exit(main())
