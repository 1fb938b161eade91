"""Run a recipe, or a sweep over its settings, on this machine.

python launch/local.py RECIPE [group=option] [key=value ...] [-m]     # from a clone, installed or not
vcrast run RECIPE [group=option] [key=value ...] [-m]                 # the same
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a script (PEP 366)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    __package__ = "launch"

from vcrast.cli.errors import exit_code
from vcrast.cli.help import RUN_FLAGS, launch_help
from vcrast.cli.terminal import outlive_terminal
from vcrast.config.files import config_dir

from .arguments import Arguments, Program, asks_hydra, hydra_line, parse, resumed_folder
from .processes import follow_launcher, is_child, launch, refuse_other_launchers


def main(argv: Sequence[str] | None = None, program: Program | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the launcher's name; this process's own if left out.
        program: how it was called; as a script if left out.

    Returns:
        0 done, 2 a mistake in the command, 128 + n stopped by signal n, 75 lost another process of the run.
    """
    words = sys.argv[1:] if argv is None else argv
    called = program or Program.of_script(__file__)
    outlive_terminal()
    if asks_hydra(words):
        return answer_hydra(words)
    return exit_code(called.name, lambda: _main(words, called))


def _main(words: Sequence[str], program: Program) -> int:
    arguments = parse(words)
    if arguments.help:
        print(launch_help(program.shown, RUN_FLAGS))
        return 0
    refuse_other_launchers(arguments.overrides)
    # Imported late: `--help` must not wait for Hydra and torch.
    if (code := _sweep(arguments, program)) is not None:
        return code
    if not (is_child() or arguments.dry_run or arguments.show_config):
        from vcrast.config.resume import claim, give_back, names_folder, resolve

        if any(word.startswith("launch.jobs=") for word in arguments.overrides):
            raise ValueError("launch.jobs: there is one run; add -m and several values, such as run.seed=0,1")
        config = resolve(arguments.overrides)
        if config.launch.num_processes > 1:
            overrides = list(arguments.overrides)
            if names_folder(overrides):
                return launch(program, config.launch.num_processes, overrides, run_dir=Path(str(config.run.dir)))
            folder = claim(Path(str(config.run.dir)))  # the same for all, whenever each of them starts
            try:
                words = [*overrides, f"run.dir={folder}"]
                return launch(program, config.launch.num_processes, words, run_dir=folder)
            finally:
                give_back(folder)
    follow_launcher()
    from vcrast.cli.start import start

    try:
        return start(
            arguments.overrides, dry_run=arguments.dry_run, show_config=arguments.show_config, command=program.shown
        )
    except KeyboardInterrupt:
        print(f"{program.name}: stopped at once; a resumed run starts from the last checkpoint", file=sys.stderr)
        return 130


def _sweep(arguments: Arguments, program: Program) -> int | None:
    """The exit code of the sweep that a command line asks for, or goes on with; None if it asks for one run."""
    from . import local_sweep
    from .sweep import SEVERAL_VALUES, is_sweep

    if not arguments.sweep and is_sweep(arguments.overrides):
        raise ValueError(SEVERAL_VALUES)
    if arguments.sweep and is_child():
        raise ValueError(
            "-m: a sweep starts its runs' processes by itself; leave torchrun out, set launch.num_processes"
        )
    if arguments.sweep:
        return local_sweep.start(arguments, program)
    folder = resumed_folder(arguments.overrides)
    if folder is None or not local_sweep.is_sweep_folder(folder):
        return None
    changes = [word for word in arguments.overrides if not word.startswith("run.resume=")]
    return local_sweep.go_on(Path(folder), program, changes)


def answer_hydra(words: Sequence[str]) -> int:
    """Let Hydra answer its own flags, such as shell completion."""
    import hydra
    from omegaconf import DictConfig

    sys.argv = [sys.argv[0], *words]
    if (typed := os.environ.get("COMP_LINE")) is not None:
        if (line := hydra_line(typed)) is None:
            return 0
        os.environ["COMP_LINE"] = line

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")
    def answer(_: DictConfig) -> None:
        """Never called: these flags end inside Hydra."""

    answer()
    return 0


if __name__ == "__main__":
    sys.exit(main())
