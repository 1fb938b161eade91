"""`vcrast sync`: send to Weights & Biases what a run logged while it was offline."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "sync",
        help="send what a run logged offline to Weights & Biases",
        description="Send the sessions of a run that were logged offline, oldest first, under the run's one id. Those "
        "already sent are left out, unless they have grown since. Exit code 1 if something could not be sent.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--all", action="store_true", help="also sessions that were online, or sent before")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Send the sessions one after the other; the first failure ends it, so that they arrive in order.

    Raises:
        FileNotFoundError: the folder holds nothing of wandb's.
        OSError: no key, or the server does not answer.
        ValueError: wandb is not installed.
    """
    found = sessions(arguments.folder)
    if not found:
        raise FileNotFoundError(f"{arguments.folder}: no wandb/ with sessions there; a run has it with logger=[wandb]")
    chosen = [folder for folder in found if arguments.all or (is_offline(folder) and not is_sent(folder))]
    for folder in chosen if arguments.dry_run else []:
        print(f"would send {folder} ({size(folder) / 1e6:.1f} MB)")
    if arguments.dry_run or not chosen:
        print(f"{len(chosen)} of {len(found)} sessions to send")
        return 0
    from vcrast.runs.log import wandb_obstacle

    try:
        reason = wandb_obstacle()
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    if reason:
        raise OSError(f"{arguments.folder}: {len(chosen)} sessions are not sent: {reason}")
    for number, folder in enumerate(chosen):
        if not send(folder):
            print(f"vcrast sync: {folder} was not sent; {len(chosen) - number} sessions left", file=sys.stderr)
            return 1
    print(f"sent {len(chosen)} sessions")
    return 0


def sessions(run_dir: Path) -> list[Path]:
    """The folders that wandb made for a run, one for each time that it was started, oldest first."""
    folders = [path.parent for path in (run_dir / "wandb").glob("*run-*/run-*.wandb")]
    # offline-run-20250131_235959-<id>, or run-...: the time is what sorts, and `latest-run` is a link to one of them.
    return sorted(
        {folder for folder in folders if not folder.is_symlink()}, key=lambda path: path.name.split("run-")[1]
    )


def is_offline(folder: Path) -> bool:
    """Whether a session was logged offline."""
    return folder.name.startswith("offline-")


def is_sent(folder: Path) -> bool:
    """Whether all of a session was sent: wandb leaves a mark, but also on one that was still being written."""
    for log in folder.glob("run-*.wandb"):
        mark = log.with_name(f"{log.name}.synced")
        if not mark.exists() or mark.stat().st_mtime < log.stat().st_mtime:
            return False
    return True


def size(folder: Path) -> int:
    """Bytes of a session's log."""
    return sum(log.stat().st_size for log in folder.glob("run-*.wandb"))


def send(folder: Path) -> bool:
    """Run `wandb sync` on one session; whether it was sent.

    It ends with 0 also when the server refuses everything; its mark tells.
    """
    for mark in folder.glob("run-*.wandb.synced"):
        mark.unlink()
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", "--include-online", str(folder.resolve())]
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    environment.setdefault("WANDB_ERROR_REPORTING", "false")
    # It writes logs of its own into the folder it is started in.
    done = subprocess.run(command, env=environment, cwd=folder.parent.parent, check=False)
    return done.returncode == 0 and is_sent(folder)
