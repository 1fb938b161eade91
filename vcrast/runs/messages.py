"""Log messages of a run: short on stderr, with date and level in train.log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.logging import RichHandler

from vcrast.config.schema import Config
from vcrast.runs.failure import LOG, append_to_log, message, told
from vcrast.runs.lock import RunLockedError
from vcrast.runs.progress import console
from vcrast.runs.stage import Interrupted
from vcrast.training.dist import torchrun_rank

log = logging.getLogger(__name__)

LINE = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
NEVER = logging.CRITICAL + 1


def setup_logging(run_dir: Path | None, rank: int = 0) -> None:
    """Send messages to stderr, short, and to <run>/train.log, with date and level. Calling again changes the folder.

    Of several processes only the first speaks on stderr; the others write <run>/logs/rank_<number>.log. While there is
    no folder yet (None) messages are held, for the file of the next call.
    """
    root = logging.getLogger()
    if sys.stderr.isatty():
        shown: logging.Handler = RichHandler(console=console, show_path=False)
        shown.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
    else:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"))
    kept: logging.Handler = MemoryHandler(0, NEVER, flushOnClose=False) if run_dir is None else _file(run_dir, rank)
    for handler in _ours():
        root.removeHandler(handler)
        if isinstance(handler, MemoryHandler) and run_dir is not None:
            handler.setTarget(kept)
            handler.flush()
        handler.close()
    for handler in (shown, kept) if rank == 0 else (kept,):
        handler.is_ours = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    logging.captureWarnings(True)
    # Libraries' news would bury ours; their warnings come through.
    for name in ("vcrast", "launch", "extensions"):
        logging.getLogger(name).setLevel(logging.INFO)


@contextmanager
def messages_held(rank: int) -> Iterator[None]:
    """Hold messages until the body sets up a folder for them; what is still held at its end is dropped."""
    setup_logging(None, rank)
    try:
        yield
    finally:
        for handler in _ours():
            if isinstance(handler, MemoryHandler):
                logging.getLogger().removeHandler(handler)
                handler.close()


def _ours() -> list[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if getattr(handler, "is_ours", False)]


def _file(run_dir: Path, rank: int) -> LogFile:
    path = Path(run_dir) / (LOG if rank == 0 else f"logs/rank_{rank}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = LogFile(path, encoding="utf-8")
    file.setFormatter(LINE)
    return file


class LogFile(logging.FileHandler):
    """A log file; a full disk costs its lines and is said once, not with a traceback for each of them."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `emit` when a line could not be written."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            print(f"{self.baseFilename}: lines are being lost: {sys.exc_info()[1]}", file=sys.stderr)


@contextmanager
def endings_kept(config: Config) -> Iterator[None]:
    """Write to train.log how the body ends if it does not end well; with several processes whose failure it was.

    What is refused before the folder of a new run exists, or because another run uses the folder, leaves no line.
    """
    try:
        yield
    except RunLockedError:
        raise
    except BaseException as error:
        _keep(error, Path(str(config.run.dir)))
        raise


def _keep(error: BaseException, folder: Path) -> None:
    rank, world_size = torchrun_rank()[:2]
    if isinstance(error, Interrupted):
        if rank == 0:
            append_to_log(folder / LOG, f"{error}; everything is saved", level="INFO")
        return
    of = f"process {rank} of {world_size}: " if world_size > 1 else ""
    if rank == 0:
        append_to_log(folder / LOG, of + told(error))
        return
    append_to_log(folder / "logs" / f"rank_{rank}.log", told(error))
    if not isinstance(error, ConnectionError):  # one that has lost another process is not to blame
        append_to_log(folder / LOG, f"{of}{type(error).__name__}: {message(error)}", once=True)
