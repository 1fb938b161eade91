"""Real servers of files: nginx, and one that speaks S3."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running(command, url, **options):
    """Run a server until the block ends; `url` answers once it is up."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                with contextlib.suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(url, timeout=1).close()
                break
            assert process.poll() is None, f"{command[0]} ended"
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def nginx(folder, work, *, rate="", port=None):
    """Serve a folder; `rate` limits each connection, such as 2m for 2 MB a second. Yields the address and the log."""
    port, log = port or free_port(), work / "access.log"
    work.mkdir(parents=True, exist_ok=True)
    limit = f"limit_rate {rate};" if rate else ""
    paths = "".join(f"{name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (work / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {work}/pid; error_log {work}/error.log; events {{}}\n"
        f"http {{ access_log {log}; {paths} server {{ listen 127.0.0.1:{port}; root {folder}; {limit} }} }}\n"
    )
    command = [NGINX, "-p", str(work), "-c", str(work / "nginx.conf")]
    with running(command, f"http://127.0.0.1:{port}/"):
        yield f"http://127.0.0.1:{port}", log


@contextlib.contextmanager
def s3_server():
    """Run moto's server; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, f"http://127.0.0.1:{port}/"):
        yield f"http://127.0.0.1:{port}"
