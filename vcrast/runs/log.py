"""Log a run's numbers to metrics.jsonl and to trackers; the only import of wandb.

A tracker that is down, slow or broken costs a warning and its curves, never a step of training.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import netrc
import os
import queue
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

from torch import Tensor

from vcrast.config.atomic import write_atomic
from vcrast.config.registry import LOGGERS
from vcrast.runs.environment import redact_mapping
from vcrast.runs.metric_file import RESERVED, MetricFile, to_numbers

log = logging.getLogger(__name__)

# Two names of wandb's own service; a key under either serves both.
HOSTED = ("api.wandb.ai", "api.forge.coreweave.com")
CONNECT_TIMEOUT_S = 2.0
INIT_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 30.0


class Tracker(Protocol):
    """What a logger does; `LOGGERS` builders take `run_dir` and `config`.

    One that can forget has `rewind(stage, fold, step)` as well, see `MetricLog.rewind`.
    """

    def log(self, stage: str, fold: str, step: int, values: Mapping[str, float | None]) -> None:
        """Take the numbers of one step."""

    def close(self) -> None:
        """Deliver what is still held back."""


class MetricLog:
    """Sends each step's numbers to metrics.jsonl and to the chosen trackers.

    Args:
        run_dir: the run folder.
        loggers: names of `LOGGERS`; "jsonl" is there in any case.
        config: the run's settings, shown by trackers; values whose names look like secrets are hidden.
        active: False makes every method do nothing; for all processes but the first of a distributed run.

    Raises:
        KeyError: a logger that does not exist.
        ModuleNotFoundError: the package behind a logger is not installed; the message says how to install it.
    """

    def __init__(
        self, run_dir: Path, loggers: Sequence[str], *, config: Mapping[str, Any], active: bool = True
    ) -> None:
        self.file: MetricFile | None = None
        self.trackers: dict[str, Tracker] = {}
        if not active:
            return
        for name in dict.fromkeys(["jsonl", *loggers]):
            tracker = LOGGERS.get(name)(Path(run_dir), config)
            if isinstance(tracker, JsonlLogger):
                self.file = tracker.file
            self.trackers[name] = tracker

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def log(self, stage: str, fold: str, step: int, values: Mapping[str, float | Tensor | None]) -> None:
        """Log the numbers after `step` steps of a stage and fold; tensors are copied to the host together.

        Raises:
            ValueError: a reserved name, or a tensor of more than one element.
            TypeError: a value that is no number.
        """
        if not self.trackers:
            return
        numbers = to_numbers(values)
        self._tell(lambda tracker: tracker.log(stage, str(fold), int(step), numbers))

    def rewind(self, stage: str, fold: str, step: int) -> None:
        """On resuming after `step`, remove from metrics.jsonl and TensorBoard what will be written again.

        wandb is append-only and sees these steps twice; its curves are drawn over their own step, so equal points fall
        on each other.
        """
        if self.file is not None:
            self.file.rewind(stage, str(fold), step)
        self._tell(lambda tracker: tracker.rewind(stage, str(fold), step) if hasattr(tracker, "rewind") else None)

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever a tracker raises, the run is worth more
                log.warning("logger %s failed and is off for the rest of the run: %s", name, error)
                del self.trackers[name]

    def lines(self, stage: str, fold: str) -> Iterator[dict[str, Any]]:
        """The logged lines of a stage and fold in order, earlier sessions of the run included."""
        for line in self.file.lines() if self.file is not None else ():
            if (line["stage"], line["fold"]) == (stage, str(fold)):
                yield line

    def last(self, stage: str, fold: str) -> dict[str, float | None]:
        """The newest value of every number of a stage and fold."""
        newest: dict[str, float | None] = {}
        for line in self.lines(stage, fold):
            newest.update({key: value for key, value in line.items() if key not in RESERVED})
        return newest

    def close(self) -> None:
        """Close the file and let trackers deliver, for a bounded time; safe to call twice."""
        for name, tracker in self.trackers.items():
            try:
                tracker.close()
            except Exception as error:  # the run is over and its numbers are on disk
                log.warning("logger %s failed on closing: %s", name, error)
        self.trackers = {}


@LOGGERS.register("jsonl")
class JsonlLogger:
    """metrics.jsonl in the run folder."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:  # noqa: ARG002 all loggers are built alike
        self.file = MetricFile(run_dir)

    def log(self, stage: str, fold: str, step: int, values: Mapping[str, float | None]) -> None:
        """Append one line."""
        self.file.append({"stage": stage, "fold": fold, "step": step, **values, "time": round(time.time(), 3)})

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@LOGGERS.register("tensorboard")
class TensorboardLogger:
    """TensorBoard event files in <run>/tensorboard, a folder for each stage and fold.

    TensorBoard can forget the steps of a folder from some step on, of all curves in it.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:  # noqa: ARG002 all loggers are built alike
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _not_installed("tensorboard") from error
        self._make, self._folder = SummaryWriter, run_dir / "tensorboard"
        self._writers: dict[str, Any] = {}

    def log(self, stage: str, fold: str, step: int, values: Mapping[str, float | None]) -> None:
        """Write one scalar per number."""
        prefix = _prefix(stage, fold)
        if prefix not in self._writers:
            self._writers[prefix] = self._make(log_dir=str(self._folder / prefix))
        for name, value in values.items():
            if value is not None:
                self._writers[prefix].add_scalar(f"{prefix}/{name}", value, step)

    def rewind(self, stage: str, fold: str, step: int) -> None:
        """Make readers drop what comes after `step`, in files of an earlier process as well."""
        prefix = _prefix(stage, fold)
        if not (self._folder / prefix).is_dir():
            return
        if prefix in self._writers:
            self._writers.pop(prefix).close()
        self._writers[prefix] = self._make(log_dir=str(self._folder / prefix), purge_step=step + 1)

    def close(self) -> None:
        """Flush and close."""
        for writer in self._writers.values():
            writer.close()


@LOGGERS.register("wandb")
class WandbLogger:
    """Weights & Biases, from a thread of its own: start, sending and finishing never hold up training.

    Offline, to be sent later with `vcrast sync`, when `WANDB_MODE` says so, when no key is set up, or when the server
    does not answer. A resumed run goes on under the id in <run>/wandb_id.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        # Its reports about itself go to the same server, and hold up the end of the program when that does not answer.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError as error:
            raise _not_installed("wandb") from error
        self.wandb, self.run_dir, self.config = wandb, run_dir, config
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=100_000)
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, stage: str, fold: str, step: int, values: Mapping[str, float | None]) -> None:
        """Hand the numbers to the thread."""
        prefix = _prefix(stage, fold)
        line = {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
        try:
            if self._thread.is_alive():
                self._queue.put_nowait({**line, f"{prefix}/step": step})
        except queue.Full:
            self._warn("it does not keep up, numbers are being lost")

    def close(self) -> None:
        """Wait for the rest to be sent, `CLOSE_TIMEOUT_S` at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout=CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._warn(f"not all was sent in {CLOSE_TIMEOUT_S:.0f} s; send it with: vcrast sync {self.run_dir} --all")

    def _work(self) -> None:
        try:
            run = self._start()
            stepped: set[str] = set()
            while (line := self._queue.get()) is not None:
                prefix = next(reversed(line)).removesuffix("/step")
                if prefix not in stepped:
                    stepped.add(prefix)
                    run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")
                run.log(line)
            run.finish()
        except Exception as error:  # whatever goes wrong there, training goes on
            self._warn(f"off for the rest of the run: {error}")

    def _start(self) -> Any:
        mode, reason = choose_mode(self.wandb.setup().settings)
        if reason:
            log.warning("wandb: offline, because %s; send the run later with: vcrast sync %s", reason, self.run_dir)
        try:
            return self._init(mode)
        except Exception as error:
            if mode != "online":
                raise
            log.warning("wandb: the server did not start the run, going on offline: %s", error)
            self.wandb.teardown(exit_code=1)  # its helper process still holds the id of the failed start
            return self._init("offline")

    def _init(self, mode: Any) -> Any:
        wanted: dict[str, Any] = {
            "init_timeout": INIT_TIMEOUT_S, "finish_timeout": CLOSE_TIMEOUT_S - 5, "silent": True,
            # Neither output, command line nor source: they may hold secrets, and env.json has what counts.
            "console": "off", "x_disable_meta": True, "disable_git": True, "disable_code": True,
            "x_save_requirements": False,
        }  # fmt: skip
        known = {key: value for key, value in wanted.items() if key in self.wandb.Settings.model_fields}
        run = self.wandb.init(
            mode=mode,
            project=os.environ.get("WANDB_PROJECT", "vcrast"),
            group=str(self.config.get("recipe", "")) or None,
            name=self.run_dir.name,
            id=stable_id(self.run_dir),
            resume="allow",
            dir=str(self.run_dir),
            config=redact_mapping(self.config),
            settings=self.wandb.Settings(**known),
        )
        if mode == "online":
            log.info("wandb: %s", run.url)
        return run

    def _warn(self, text: str) -> None:
        if not self._warned:
            log.warning("wandb: %s", text)
        self._warned = True


def choose_mode(settings: Any) -> tuple[str, str | None]:
    """The mode to start wandb in, and why offline if nobody asked for that."""
    if settings.mode not in (None, "online", "shared"):
        return settings.mode, None
    reason = obstacle(settings)
    return ("offline", reason) if reason else ("online", None)


def obstacle(settings: Any) -> str | None:
    """Why nothing can be sent to the server now; None if it can."""
    server = urlsplit(settings.base_url)
    if not (settings.api_key or _has_key(server.netloc)):
        return "no key is set up (wandb login)"
    try:
        # A whole request, through the proxy if there is one: a firewall may accept the connection and then swallow all.
        urllib.request.urlopen(settings.base_url, timeout=CONNECT_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass
    except (OSError, http.client.HTTPException) as error:
        return f"{server.netloc} does not answer ({error})"
    return None


def wandb_obstacle() -> str | None:
    """`obstacle` for the settings that wandb finds in this environment, `WANDB_MODE` aside.

    Raises:
        ModuleNotFoundError: wandb is not installed; the message says how to install it.
    """
    try:
        import wandb
    except ImportError as error:
        raise _not_installed("wandb") from error
    return obstacle(wandb.setup().settings)


def _has_key(server: str) -> bool:
    """Whether wandb would find a key; without one it would stop and ask for it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(known.authenticators(name) for name in (HOSTED if server in HOSTED else (server,)))


def stable_id(run_dir: Path) -> str:
    """The run's id with trackers, made once and kept in <run>/wandb_id."""
    path = run_dir / "wandb_id"
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text().strip()


def _prefix(stage: str, fold: str) -> str:
    return f"{stage}/fold_{fold}" if fold else stage


def _not_installed(extra: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"logger={extra} needs a package that is not installed: pip install 'vcrast[{extra}]'")
