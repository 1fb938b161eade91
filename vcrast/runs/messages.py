"""Log messages of a run: short on stderr, with date and level in train.log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from rich.logging import RichHandler

from vcrast.runs.progress import console


def setup_logging(run_dir: Path, rank: int = 0) -> None:
    """Send messages to stderr, short, and to <run>/train.log, with date and level. Calling again changes the folder.

    Of several processes only the first speaks on stderr; the others write <run>/logs/rank_<number>.log.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if getattr(handler, "is_ours", False)]:
        root.removeHandler(handler)
        handler.close()
    if sys.stderr.isatty():
        shown: logging.Handler = RichHandler(console=console, show_path=False)
        shown.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"))
    path = Path(run_dir) / ("train.log" if rank == 0 else f"logs/rank_{rank}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = logging.FileHandler(path, encoding="utf-8")
    kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    for handler in (shown, kept) if rank == 0 else (kept,):
        handler.is_ours = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    logging.captureWarnings(True)
    # Libraries' news would bury ours; their warnings come through.
    for name in ("vcrast", "launch", "extensions"):
        logging.getLogger(name).setLevel(logging.INFO)
