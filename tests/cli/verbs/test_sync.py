from __future__ import annotations

import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vcrast.cli.main import main

SECRET = "hush" * 10
LOGGED = """
import sys
from pathlib import Path
from vcrast.runs.log import MetricLog
with MetricLog(Path(sys.argv[1]), ["wandb"], config={"recipe": "esc50"}) as metrics:
    for step in range(3):
        metrics.log("pretrain", "1", int(sys.argv[2]) + step, {"loss": 1.0})
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and key != "NETRC"}
    return {**kept, "HOME": str(home), **more}


@pytest.fixture
def run_dir(tmp_path):
    """A run that was started twice, both times without a network."""
    pytest.importorskip("wandb")
    for first in ("0", "3"):
        command = [sys.executable, "-c", LOGGED, str(tmp_path / "run"), first]
        subprocess.run(command, env=environment(tmp_path, WANDB_MODE="offline"), check=True, timeout=120)
        time.sleep(1.1)  # wandb names folders by the second
    return tmp_path / "run"


def sync(run_dir: Path, *words: str, **more: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "vcrast.cli.main", "sync", str(run_dir), *words]
    settings = environment(run_dir.parent, **more)
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


class Server(http.server.ThreadingHTTPServer):
    """As much of wandb's server as an upload needs; keeps what it was sent."""

    daemon_threads, block_on_close = True, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.ids, self.keys, self.steps, self.failing = [], set(), [], False


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body, code=200):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        self.body()
        self.answer({})

    def do_POST(self):
        data, server = self.body(), self.server
        server.keys.add(self.headers.get("Authorization"))
        if self.path.endswith("/file_stream"):
            content = json.loads(data).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            server.steps += [json.loads(line)["pretrain/fold_1/step"] for line in content]
        elif self.path == "/graphql" and server.failing:
            self.answer({"errors": [{"message": "not today"}]}, 400)
            return
        elif self.path == "/graphql":
            asked = json.loads(data)
            self.answer({"data": self.found(asked["query"], asked.get("variables", {}))})
            return
        self.answer({})

    def found(self, query, variables):
        if "upsertBucket" in query:
            self.server.ids.append(variables.get("name"))
            project = {"id": "p", "name": "vcrast", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "d", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.slow
def test_sessions_are_sent_in_order_under_one_id_and_once(run_dir, server):
    access = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": SECRET, "WANDB_MODE": "offline"}
    code, said, _ = sync(run_dir, "--dry-run", **access)
    assert (code, said.count("would send"), "2 of 2 sessions to send" in said) == (0, 2, True)
    assert not server.ids

    server.failing = True
    code, _, error = sync(run_dir, **access)
    assert code == 1
    assert "2 sessions left" in error
    server.failing = False
    server.ids.clear()

    code, said, error = sync(run_dir, **access)
    assert code == 0, error
    assert "sent 2 sessions" in said
    assert server.steps == [0, 1, 2, 3, 4, 5]
    assert {each for each in server.ids if each} == {(run_dir / "wandb_id").read_text().strip()}

    code, said, _ = sync(run_dir, **access)
    assert (code, said) == (0, "0 of 2 sessions to send\n")
    grown = max((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    os.utime(grown, (time.time() + 60, time.time() + 60))
    assert sync(run_dir, "--dry-run", **access)[1].endswith("1 of 2 sessions to send\n")


@pytest.mark.slow
def test_what_stands_in_the_way_is_said(run_dir, tmp_path):
    code, _, error = sync(run_dir)
    assert code == 2
    assert error == f"vcrast: error: {run_dir}: 2 sessions are not sent: no key is set up (wandb login)\n"
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        dead = f"http://127.0.0.1:{server.server_port}"
    code, _, error = sync(run_dir, WANDB_BASE_URL=dead, WANDB_API_KEY=SECRET)
    assert code == 2
    assert "does not answer" in error
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "wandb.py").write_text("raise ImportError('hidden')")
    code, _, error = sync(run_dir, PYTHONPATH=str(hide))
    assert code == 2
    assert error == "vcrast: error: logger=wandb needs a package that is not installed: pip install 'vcrast[wandb]'\n"


def session(run_dir, name):
    folder = run_dir / "wandb" / name
    folder.mkdir(parents=True)
    (folder / "run-abc.wandb").write_bytes(b"x" * 2_000_000)
    return folder


def test_which_sessions(tmp_path, capsys):
    late = session(tmp_path, "offline-run-20250102_000000-abc")
    early = session(tmp_path, "offline-run-20250101_000000-abc")
    online = session(tmp_path, "run-20250101_120000-abc")
    (tmp_path / "wandb" / "latest-run").symlink_to(late)
    (early / "run-abc.wandb.synced").write_bytes(b"")
    assert main(["sync", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"would send {late} (2.0 MB)\n1 of 3 sessions to send\n"
    assert main(["sync", str(tmp_path), "--dry-run", "--all"]) == 0
    sent = [line.split()[2] for line in capsys.readouterr().out.splitlines()[:3]]
    assert sent == [str(early), str(online), str(late)]


def test_a_folder_without_sessions(tmp_path, capsys):
    assert main(["sync", str(tmp_path)]) == 2
    assert "no wandb/ with sessions there" in capsys.readouterr().err
