"""Copies of other machines' files: bounded, shared, whole or not at all."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stores import NGINX, nginx, s3_server

from vcrast.data import remote as module
from vcrast.data.remote import RemoteFiles, StoreError, filesystem

CONTENT = {f"{name}.tar": bytes([number]) * 100_000 for number, name in enumerate("abcdef")}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def web(served, tmp_path):
    if NGINX is None:
        pytest.skip("needs nginx")
    with nginx(served, tmp_path / "nginx") as (url, log):
        yield url, log


def sizes(folder):
    return {path.name[17:]: path.stat().st_size for path in Path(folder).glob("*.tar")}


def test_a_file_is_fetched_once(web, tmp_path):
    url, log = web
    files = RemoteFiles(tmp_path / "copies", 10**6)
    for _ in range(3):
        assert Path(files.path(f"{url}/a.tar")).read_bytes() == CONTENT["a.tar"]
    assert log.read_text().count("GET /a.tar") == 1
    with pytest.raises(StoreError, match="404"):
        files.path(f"{url}/none.tar")


def test_the_least_recently_used_copies_give_way(web, tmp_path, monkeypatch):
    url, log = web
    monkeypatch.setattr(module, "TOUCH_S", 0.0)
    files = RemoteFiles(tmp_path / "copies", 350_000)
    opened = open(files.path(f"{url}/a.tar"), "rb")  # noqa: SIM115
    for name in ("b", "c", "b", "d", "b", "e"):
        files.path(f"{url}/{name}.tar")
        time.sleep(0.01)  # times of files are coarse
    assert sizes(tmp_path / "copies") == {f"{name}.tar": 100_000 for name in "bde"}
    with opened:
        assert opened.read() == CONTENT["a.tar"], "who reads a removed copy goes on with it"
    assert log.read_text().count("GET /b.tar") == 1
    tight = RemoteFiles(tmp_path / "tight", 1)
    assert Path(tight.path(f"{url}/a.tar")).read_bytes() == CONTENT["a.tar"], "one is kept in any case"
    tight.path(f"{url}/b.tar")
    assert set(sizes(tmp_path / "tight")) == {"b.tar"}


def _fetch(url, folder, names, answers):
    files = RemoteFiles(folder, 250_000)
    answers.put(all(Path(files.path(f"{url}/{name}")).read_bytes() == CONTENT[name] for name in names))


def test_several_processes_share_copies(served, tmp_path):
    if NGINX is None:
        pytest.skip("needs nginx")
    with nginx(served, tmp_path / "nginx", rate="1m") as (url, log):
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        workers = [
            context.Process(target=_fetch, args=(url, tmp_path / "copies", ["a.tar", "b.tar"], answers))
            for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        assert all(answers.get(timeout=60) for _ in workers)
        for worker in workers:
            worker.join()
        assert log.read_text().count("GET /a.tar") == log.read_text().count("GET /b.tar") == 1


def test_kill_9_while_fetching_leaves_no_half_copy(tmp_path):
    if NGINX is None:
        pytest.skip("needs nginx")
    large = bytes(3_000_000)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.tar").write_bytes(large)
    with nginx(tmp_path / "web", tmp_path / "nginx", rate="500k") as (url, _):
        fetch = f"RemoteFiles(Path({str(tmp_path / 'copies')!r}), 10**6).path({url + '/a.tar'!r})"
        code = f"from pathlib import Path\nfrom vcrast.data.remote import RemoteFiles\n{fetch}"
        process = subprocess.Popen([sys.executable, "-c", code])
        while not any(path.stat().st_size for path in tmp_path.glob("copies/*.part")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert sizes(tmp_path / "copies") == {}
    with nginx(tmp_path / "web", tmp_path / "nginx") as (url, _):
        assert Path(RemoteFiles(tmp_path / "copies", 10**7).path(f"{url}/a.tar")).read_bytes() == large


def test_half_a_file_and_a_failing_server(server, tmp_path):
    server.cut_after = 300_000
    files = RemoteFiles(tmp_path / "copies", 10**9, attempts=3, pause_s=0.0)
    assert Path(files.path(server.url)).read_bytes() == server.content, "it goes on where the answer ended"
    server.codes = [503, 500]
    files.forget(server.url)
    assert Path(files.path(server.url)).read_bytes() == server.content
    files.forget(server.url)
    server.codes = [503] * 20
    with pytest.raises(StoreError, match=r"503.*gave up after 3 attempts"):
        files.path(server.url)


def test_a_full_disk_makes_room_and_then_says_so(web, tmp_path, monkeypatch):
    url, _ = web
    files, attempts = RemoteFiles(tmp_path / "copies", 10**6), []
    files.path(f"{url}/a.tar")
    fetch = module.fetch

    def full(address, path, **options):
        attempts.append(address)
        if sizes(tmp_path / "copies") or len(attempts) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fetch(address, path, **options)

    monkeypatch.setattr(module, "fetch", full)
    assert Path(files.path(f"{url}/b.tar")).read_bytes() == CONTENT["b.tar"]
    assert set(sizes(tmp_path / "copies")) == {"b.tar"}
    with pytest.raises(StoreError, match=r"copies is full; set data\.cache_dir"):
        files.path(f"{url}/c.tar")


def test_s3(served, tmp_path, monkeypatch):
    pytest.importorskip("moto", reason="needs moto, a server that speaks S3")
    pytest.importorskip("s3fs", reason="needs s3fs")
    with s3_server() as url:
        for name, value in {"KEY_ID": "a", "ACCESS_KEY": "b"}.items():
            monkeypatch.setenv(f"AWS_{'SECRET_' if name == 'ACCESS_KEY' else 'ACCESS_'}{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system, _ = filesystem("s3://sounds/a.tar")
        system.mkdir("sounds")
        for name, content in CONTENT.items():
            system.pipe(f"sounds/{name}", content)
        files = RemoteFiles(tmp_path / "copies", 250_000, attempts=2, pause_s=0.0)
        for name in CONTENT:
            assert Path(files.path(f"s3://sounds/{name}")).read_bytes() == CONTENT[name]
        assert len(sizes(tmp_path / "copies")) == 2
        with pytest.raises(StoreError, match="no such file there"):
            files.path("s3://sounds/none.tar")


def test_a_store_that_needs_a_package_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StoreError, match="gcsfs"):
        RemoteFiles(tmp_path, 10**6).path("gs://bucket/a.tar")


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"http://localhost/a.tar: .*file"):
        RemoteFiles(tmp_path / "file" / "copies", 1).path("http://localhost/a.tar")
    assert os.path.isfile(tmp_path / "file")
