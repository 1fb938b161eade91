"""The live page: what it is given, whom it answers, and in Chromium what a reader sees."""

import http.client
import json
import re
import shutil
import threading
import time

import pytest
from browser import opened
from run_folders import make_run

from vcrast.cli.main import main
from vcrast.runs.live.server import Server, serve
from vcrast.runs.live.watched import LOG_LINES, Watched
from vcrast.runs.lock import NAME


def metrics(folder, steps, mode="a"):
    with (folder / "metrics.jsonl").open(mode) as file:
        for step in steps:
            numbers = {"loss": 1 / step, "std": 0.5, "lr": 1e-3, "samples_per_s": 12.0, "time": 1000.0 + 2 * step}
            file.write(json.dumps({"stage": "pretrain", "fold": "1", "step": step, **numbers}) + "\n")


def running(folder, **more):
    make_run(folder, done=(), report=False, **more)
    metrics(folder, (10, 20), "w")
    (folder / NAME).write_text("")
    return folder


@pytest.fixture
def runs(tmp_path):
    """One that runs, one stopped, one finished."""
    running(tmp_path / "a<b>live", warnings=["<b>the loss</b> has not fallen"])
    make_run(tmp_path / "halted", begun=("1", "2"), accuracy=0.5, report=False)
    make_run(tmp_path / "over", accuracy=0.6)
    (tmp_path / "a<b>live" / "overrides.txt").write_text("# 2026-01-01 10:00:00  vcrast run\nrun.seed=3\nrecipe=x\n")
    (tmp_path / "a<b>live" / "train.log").write_text("".join(f"line {n}\n" for n in range(500)))
    return tmp_path


@pytest.fixture
def served(runs):
    """The server of these runs, in a thread of its own, and what it said."""
    server = Server(Watched(runs, every_s=0.2, grace_s=0.3))
    said = []
    thread = threading.Thread(target=serve, args=(server,), kwargs={"stay": False, "say": said.append}, daemon=True)
    thread.start()
    yield server, said, thread
    for name in ("a<b>live", "next"):
        (runs / name / NAME).unlink(missing_ok=True)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def server(runs):
    """A server that serves on."""
    found = Server(Watched(runs, every_s=0.05))
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def asked(server, path, *, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"localhost:{server.server_port}"})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_rows_and_details(runs):
    watched = Watched(runs, every_s=0)
    rows = {row["id"]: row for row in watched.listing()["runs"]}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a<b>live": "running", "halted": "stopped", "over": "done"
    }  # fmt: skip
    live = rows["a<b>live"]
    assert (live["stage"], live["fold"], live["step"], live["steps"]) == ("pretrain", "1", 20, 40)
    assert (live["left_s"], live["samples_per_s"], live["number"]) == (40.0, 12.0, "loss 0.05")
    assert live["differences"] == ["run.seed=3"]
    assert rows["over"]["number"] == "kNN 60.0 %"
    assert rows["halted"]["number"] == "kNN 50.0 % (1 fold)"
    assert rows["over"]["left_s"] is None
    found = watched.details("a<b>live")
    assert [curve["x"] for curve in found["curves"] if curve["name"] == "loss"] == [[10, 20]]
    assert found["warnings"] == ["<b>the loss</b> has not fallen"]
    assert found["log"].splitlines() == [f"line {n}" for n in range(500 - LOG_LINES, 500)]
    assert watched.details("a<b>live", found["version"])["same"]
    metrics(runs / "a<b>live", [30])
    assert "same" not in watched.details("a<b>live", found["version"])
    assert watched.details("../over") is None


def test_runs_come_go_and_cannot_be_read(runs):
    watched = Watched(runs, every_s=0)
    shutil.rmtree(runs / "over")
    running(runs / "sweep" / "0_seed-0")
    listed = [{"folder": f"{n}_seed-{n}", "varied": [f"run.seed={n}"], "exit_code": None} for n in range(2)]
    (runs / "sweep" / "sweep.json").write_text(json.dumps(listed))
    (runs / "halted" / "metrics.jsonl").unlink()
    (runs / "halted" / "metrics.jsonl").mkdir()
    rows = {row["id"]: row for row in watched.listing()["runs"]}
    assert list(rows) == ["a<b>live", "halted", "sweep/0_seed-0", "sweep/1_seed-1"]
    assert (rows["sweep/1_seed-1"]["state"], rows["sweep/1_seed-1"]["differences"]) == ("waiting", ["run.seed=1"])
    assert "Is a directory" in rows["halted"]["fault"]
    assert any("Is a directory" in text for text in watched.details("halted")["faults"])
    (runs / "sweep" / "sweep.json").write_text("{")
    assert "sweep.json" in watched.listing()["faults"][0]
    shutil.rmtree(runs)
    assert watched.listing()["runs"] == []
    assert "is gone" in watched.listing()["faults"][0]


def test_only_get_of_what_the_page_needs_and_only_by_this_machines_name(server):
    status, headers, text = asked(server, "/")
    assert (status, "<title>Runs" in text) == (200, True)
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    for host in ("localhost:9", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert asked(server, "/api/runs", host=host)[0] == 200
    for host in ("evil.example", "evil.example:80", "192.168.0.1", "localhost.evil.example", "[", ""):
        assert asked(server, "/api/runs", host=host or " ")[0] in (400, 403)
    for path in (
        "/over/summary.json",
        "/../../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/api",
        "/favicon.ico",
        "//etc/passwd",
    ):
        assert asked(server, path)[0] == 404
    for name in ("../over", "/etc", "over/", "", "%00", "over%2f..%2fover"):
        assert json.loads(asked(server, f"/api/run?id={name}")[2]) == {"gone": True}
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        status, headers, _ = asked(server, "/api/runs", method=method)
        assert (status, headers["Allow"]) == (405, "GET")


def test_addresses_and_ports(runs, capsys):
    server = Server(Watched(runs), host="127.0.0.1")
    try:
        assert server.url == f"http://localhost:{server.server_port}/"
        assert main(["watch", str(runs), "--port", str(server.server_port)]) == 2
        assert re.fullmatch(r"vcrast: error: .*--port \d+: cannot be had .*another --port.*\n", capsys.readouterr().err)
    finally:
        server.server_close()
    for words, said in (
        (["--port", "70000"], "0 to 65535"), (["--host", "no.such.invalid"], "no address of this machine"),
        (["--host", "203.0.113.7"], "cannot be had"),
    ):  # fmt: skip
        assert main(["watch", str(runs), *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["watch", str(runs / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    everywhere = Server(Watched(runs), host="0.0.0.0")
    everywhere.server_close()
    assert not everywhere.is_local
    assert everywhere.knows("192.168.0.7:80")
    assert not everywhere.knows("evil.example")


def test_it_ends_with_the_runs_unless_it_is_to_stay(runs):
    said = []
    server = Server(Watched(runs, every_s=0.02, grace_s=0.1))
    thread = threading.Thread(target=serve, args=(server,), kwargs={"stay": False, "say": said.append})
    thread.start()
    (runs / "a<b>live" / NAME).unlink()
    thread.join(10)
    assert not thread.is_alive()
    assert said == ["a<b>live: stopped", "all runs have ended"]
    finished = Watched(runs, every_s=0, grace_s=0)
    finished.look()
    assert not finished.over, "nothing ran while it was watched: serve until Ctrl-C"


def luminance(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.slow  # Chromium
def test_a_reader_sees_it_grow_and_end(runs, served):
    server, said, thread = served
    with opened(server.url) as page:
        page.wait_for_selector(".chart .line")
        text = page.inner_text("body")
        for words in (
            "1 running, 1 stopped, 1 done",
            "a<b>live",
            "run.seed=3",
            "fold 1 pretrain 20 of 40",
            "kNN 60.0 %",
        ):
            assert words in text
        assert "<b>the loss</b> has not fallen" in text, "names and warnings are text, not tags"
        assert page.locator("pre").inner_text().endswith("line 499")
        line = page.locator(".chart .line").first
        short = line.get_attribute("d")
        metrics(runs / "a<b>live", range(30, 41, 10))
        page.locator("#runs", has_text="40 of 40").wait_for()
        until = time.monotonic() + 10
        while line.get_attribute("d") == short and time.monotonic() < until:
            page.wait_for_timeout(50)
        assert line.get_attribute("d").count("L") == 3
        assert "at step 40" in page.locator(".chart").first.get_attribute("aria-label")

        running(runs / "next")
        page.locator("#legend li", has_text="next").wait_for()  # what begins is shown while nothing was chosen

        # Keyboard alone: read a curve, choose another run.
        page.locator(".chart").first.focus()
        page.keyboard.press("Home")
        assert page.locator(".readout").first.inner_text().startswith("step 10: a<b>live 0.1, next 0.1")
        page.keyboard.press("ArrowRight")
        assert page.locator(".readout").first.inner_text().startswith("step 20")
        page.locator("#runs tr", has_text="over").locator("input").focus()
        page.keyboard.press("Space")
        page.locator("#legend li", has_text="over").wait_for()
        page.fill("#find", "halted")
        assert page.locator("#runs tbody tr:visible").count() == 1
        page.fill("#find", "")

        assert luminance(page) > 600
        page.emulate_media(color_scheme="dark")
        assert luminance(page) < 150
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

        (runs / "a<b>live" / NAME).unlink()
        (runs / "next" / NAME).unlink()
        page.locator("#news", has_text="all runs have ended").wait_for()
        thread.join(20)
        assert not thread.is_alive()
        page.locator("#runs tr", has_text="halted").locator("input").check()  # fetched before the server left
        page.locator("#legend li", has_text="halted").wait_for()
        page.wait_for_timeout(300)
        assert page.said == []
    assert "all runs have ended" in said
