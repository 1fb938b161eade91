"""Run a recipe, or a sweep over its settings, on this machine.

python launch/local.py RECIPE [group=option] [key=value ...] [-m]
"""

from __future__ import annotations

import sys
from pathlib import Path

# A clone works without being installed: the script's folder is on the path, its parent must be too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.arguments import Arguments, parse, resumed_folder
from launch.mistakes import explained
from launch.processes import follow_launcher, is_child, launch
from vcrast.config.files import launch_help

HYDRA_FLAGS = ("-sc", "--shell-completion", "--info", "--hydra-help")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a mistake in the command, 128 + n stopped by signal n."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return explained("local.py", lambda: _main(words))
    except KeyboardInterrupt:
        print("local.py: stopped at once; the last checkpoint is what a resumed run starts from", file=sys.stderr)
        return 130


def _main(words: list[str]) -> int:
    arguments = parse(words)
    if arguments.help:
        print(launch_help("launch/local.py"))
        return 0
    # Imported late: `--help` must not wait for Hydra and torch.
    if (code := _sweep(arguments)) is not None:
        return code
    if not (is_child() or arguments.dry_run or arguments.show_config):
        from vcrast.config.resume import resolve

        config = resolve(arguments.overrides)
        if config.launch.num_processes > 1:
            overrides = list(arguments.overrides)
            if not any(word.startswith(("run.dir=", "run.resume=")) for word in overrides):
                overrides.append(f"run.dir={config.run.dir}")  # the same for all, whenever each of them starts
            return launch(config.launch.num_processes, [sys.executable, __file__, *overrides])
    follow_launcher()
    from vcrast.run import start

    return start(arguments.overrides, dry_run=arguments.dry_run, show_config=arguments.show_config)


def _sweep(arguments: Arguments) -> int | None:
    """The exit code of the sweep that a command line asks for, or goes on with; None if it asks for one run."""
    from launch import local_sweep
    from launch.sweep import is_sweep

    if not arguments.sweep and is_sweep(arguments.overrides):
        raise ValueError("several values for one key are a sweep: add -m, or write a list as key=[1,2]")
    if arguments.sweep and is_child():
        raise ValueError(
            "-m: a sweep starts its runs' processes by itself; leave torchrun out, set launch.num_processes"
        )
    if arguments.sweep:
        return local_sweep.start(arguments, __file__)
    folder = resumed_folder(arguments.overrides)
    if folder is None or not local_sweep.is_sweep_folder(folder):
        return None
    changes = [word for word in arguments.overrides if not word.startswith("run.resume=")]
    return local_sweep.go_on(Path(folder), __file__, changes)


def hydra_main() -> None:
    """Let Hydra answer its own flags, such as shell completion."""
    import hydra
    from omegaconf import DictConfig

    from vcrast.config.schema import config_dir

    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")
    def answer(_: DictConfig) -> None:
        """Never reached: the flags that come here end inside Hydra."""

    answer()


if __name__ == "__main__":
    if any(word.split("=")[0] in HYDRA_FLAGS for word in sys.argv[1:]):
        hydra_main()
    else:
        sys.exit(main())
