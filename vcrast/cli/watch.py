"""`vcrast watch`: a page on this machine that shows runs while they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Declare the verb."""
    watch = subparsers.add_parser(
        "watch",
        help="a live page: states, curves, warnings, logs of runs",
        description="Serve a page on this machine that shows the runs of FOLDER, or one run, while they run. It ends "
        "with them, or with Ctrl-C; nothing in the folder is changed.",
    )
    watch.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), metavar="RUN|FOLDER", help="default: %(default)s"
    )
    watch.add_argument("--port", type=int, default=0, metavar="N", help="default: one that is free")
    watch.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; with 0.0.0.0 others reach it (default: %(default)s)"
    )
    watch.add_argument("--stay", action="store_true", help="go on serving when all runs have ended")
    watch.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the port or the address cannot be had.
    """
    from vcrast.runs.live.server import Server, serve
    from vcrast.runs.live.watched import Watched

    if not 0 <= arguments.port < 2**16:
        raise ValueError(f"--port {arguments.port}: must be 0 to 65535; 0 takes a free one")
    watched = Watched(arguments.folder)
    server = Server(watched, host=arguments.host, port=arguments.port)
    count = len(watched.states)
    running = sum(state == "running" for state in watched.states.values())
    print(f"{arguments.folder}: {count} run{'s' * (count != 1)}, {running} running", flush=True)
    if not server.is_local:
        print("anybody who can reach this address sees the runs, their settings and logs: there is no password")
    until = "Ctrl-C ends" if arguments.stay or not running else "ends with the runs, or with Ctrl-C"
    print(f"{server.url}  ({until})", flush=True)
    serve(server, stay=arguments.stay, say=lambda text: print(text, flush=True))
    return 0
