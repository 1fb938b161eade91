from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path
from typing import ClassVar

import pytest

from vcrast.runs import log as log_module
from vcrast.runs.log import MetricLog

pytestmark = pytest.mark.slow


def read(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


SECRET = "hush" * 10

TRACKED = """
    import json, logging, sys, time
    from pathlib import Path
    from vcrast.runs import log
    logging.basicConfig(level=logging.INFO)
    log.INIT_TIMEOUT_S, log.CLOSE_TIMEOUT_S = 3.0, float(sys.argv[2])
    config = {"recipe": "esc50", "data": {"options": {"api_token": "SECRET"}}}
    times = [time.monotonic()]
    metrics = log.MetricLog(Path(sys.argv[1]), ["wandb"], config=config)
    times.append(time.monotonic())
    for step in range(20):
        metrics.log("pretrain", "1", step, {"loss": 1.0 / (step + 1)})
    times.append(time.monotonic())
    metrics.close()
    times.append(time.monotonic())
    print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""


def track(run_dir: Path, home: Path, *, close_s: float = 30, **variables: str) -> tuple[list[float], str]:
    """Log 20 steps to wandb in a process of its own; seconds for start, steps and closing, and what it said."""
    pytest.importorskip("wandb")
    script = textwrap.dedent(TRACKED).replace("SECRET", SECRET)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and key != "NETRC"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(run_dir), str(close_s), f"--api-key={SECRET}"],
        env={**kept, "HOME": str(home), **variables}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(read(run_dir)) == 20
    return json.loads(done.stdout), done.stderr


def assert_holds_no_secret(*folders: Path) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


def test_wandb_without_a_key_writes_an_offline_run(tmp_path):
    run_dir = tmp_path / "run"
    _, said = track(run_dir, tmp_path)
    assert "no key" in said
    name = (run_dir / "wandb_id").read_text().strip()
    [path] = (run_dir / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb")
    for piece in (b"pretrain/fold_1/loss", b"esc50"):
        assert piece in path.read_bytes()
    assert_holds_no_secret(run_dir)


def test_wandb_with_a_dead_server_goes_offline_and_never_holds_up_training(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        dead = f"http://127.0.0.1:{server.server_port}"
    (_, steps_s, close_s), said = track(tmp_path / "run", tmp_path, WANDB_BASE_URL=dead, WANDB_API_KEY=SECRET)
    assert steps_s < 1
    assert close_s < 15
    assert "does not answer" in said
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert_holds_no_secret(tmp_path / "run")


class Stuck(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.end_headers()

    def do_POST(self):
        time.sleep(120)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stuck_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stuck) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_wandb_with_a_server_that_answers_and_then_hangs(tmp_path, stuck_server):
    run_dir = tmp_path / "run"
    (_, steps_s, close_s), said = track(run_dir, tmp_path, WANDB_BASE_URL=stuck_server, WANDB_API_KEY=SECRET)
    assert steps_s < 1
    assert close_s < 31
    assert "going on offline" in said
    assert list((run_dir / "wandb").glob("offline-run-*/*.wandb"))
    assert_holds_no_secret(run_dir)


class FakeWandb:
    """Its `init` does what a test says; everything else notes what it was told."""

    class Settings:
        model_fields: ClassVar = {"silent": None}
        mode, base_url, api_key = "offline", "http://127.0.0.1:9", None

        def __init__(self, **chosen):
            assert chosen == {"silent": True}  # an older wandb, which knows few settings

    def __init__(self, init):
        self.started, self.logged, self.finished = [], [], False
        self._init = init

    def setup(self):
        return types.SimpleNamespace(settings=self.Settings)

    def init(self, **arguments):
        self.started.append(arguments)
        self._init(arguments)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("pretrain/fold_1/*", "pretrain/fold_1/step")

    def log(self, line):
        self.logged.append(line)

    def finish(self):
        self.finished = True


def log_to(fake: FakeWandb, run_dir: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with MetricLog(run_dir, ["wandb"], config={"recipe": "esc50", "token": SECRET}) as metrics:
        for step in (1, 2):
            metrics.log("pretrain", "1", step, {"loss": 0.5})


def test_wandb_is_told_group_id_and_steps_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    fakes = [FakeWandb(lambda _: None), FakeWandb(lambda _: None)]
    for fake in fakes:
        log_to(fake, tmp_path, monkeypatch)
        assert fake.logged == [{"pretrain/fold_1/loss": 0.5, "pretrain/fold_1/step": step} for step in (1, 2)]
        assert fake.finished
        [told] = fake.started
        assert (told["group"], told["resume"], told["mode"]) == ("esc50", "allow", "offline")
        assert told["config"] == {"recipe": "esc50", "token": "***"}
        assert told["id"] == (tmp_path / "wandb_id").read_text().strip() != ""
    assert fakes[0].started[0]["id"] == fakes[1].started[0]["id"]


def test_wandb_that_never_starts_is_left_behind(tmp_path, monkeypatch, caplog):
    never = threading.Event()
    monkeypatch.setattr(log_module, "CLOSE_TIMEOUT_S", 0.2)
    began = time.monotonic()
    log_to(FakeWandb(lambda _: never.wait()), tmp_path, monkeypatch)
    assert time.monotonic() - began < 2
    assert "not all was sent" in caplog.text
    assert len(read(tmp_path)) == 2
    never.set()


def test_wandb_that_fails_to_start_costs_one_warning(tmp_path, monkeypatch, caplog):
    def fail(_):
        raise RuntimeError("no wandb today")

    log_to(FakeWandb(fail), tmp_path, monkeypatch)
    assert caplog.text.count("no wandb today") == 1
    assert len(read(tmp_path)) == 2


def test_wandb_mode_is_obeyed(monkeypatch):
    class Settings:
        mode, base_url, api_key = "offline", "http://127.0.0.1:9", None

    monkeypatch.setattr(log_module.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    for Settings.mode in ("offline", "disabled", "dryrun"):
        assert log_module.choose_mode(Settings) == (Settings.mode, None)


def test_wandb_finds_a_key_in_netrc(tmp_path, monkeypatch):
    def ask(server):
        settings = types.SimpleNamespace(base_url=f"http://{server}", api_key=None)
        return log_module.obstacle(settings)

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        log_module.urllib.request, "urlopen", lambda *_, **__: types.SimpleNamespace(close=lambda: None)
    )
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n login user\n password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert ask("api.wandb.ai") is None
    assert "no key" in ask("wandb.example.org:8080")
    monkeypatch.setenv("NETRC", str(tmp_path / "missing"))
    assert "no key" in ask("api.wandb.ai")
