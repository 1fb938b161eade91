"""Serve the live page: GET alone, of one folder, to whoever names this machine."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from vcrast.runs.live.watched import Watched

ASKS_S = 5.0  # an open page asks more often
HIDDEN_S = 70.0  # one in a hidden tab may ask once a minute
LEAVING_S = 4.0
MAX_PATH = 8192


class Server(ThreadingHTTPServer):
    """An HTTP server of the page and its data, listening once it is made.

    Args:
        watched: the runs.
        host: address to listen at; `127.0.0.1` is this machine alone.
        port: 0 takes a free one.

    Raises:
        ValueError: the address or the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, watched: Watched, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.watched, self.host = watched, host
        self.page, self.policy = page()
        self.asked_at = float("-inf")
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (socket.gaierror, OverflowError, UnicodeError) as error:
            raise ValueError(f"--host {host} --port {port}: no address of this machine ({error})") from None
        self.address_family = family
        try:
            super().__init__((str(address[0]), int(address[1])), Handler)
        except OSError as error:
            raise ValueError(
                f"--host {host} --port {port}: cannot be had ({error.strerror}); another --port, 0 takes a free one"
            ) from None

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, which can take seconds."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    @property
    def url(self) -> str:
        """Where the page is."""
        address = str(self.server_address[0])
        host = {"127.0.0.1": "localhost", "0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(address)
        return f"http://{host or (f'[{address}]' if ':' in address else address)}:{self.server_port}/"

    def knows(self, host: str) -> bool:
        """Whether a Host header names this machine; a page elsewhere whose name was made to lead here does not."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
            return not self.is_local or address.is_loopback
        except ValueError:
            own = {"localhost"} if self.is_local else {"localhost", socket.gethostname(), socket.getfqdn()}
            return name in {each.lower() for each in (*own, self.host)}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who has left is no error; anything else is one."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers `/`, `/api/runs` and `/api/run?id=NAME`; names are those of the listing, never paths."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vcrast", ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer."""
        if not self.server.knows(self.headers.get("Host", "")):
            self._refuse(HTTPStatus.FORBIDDEN, "this name does not lead here; use the address that vcrast printed")
            return
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page.encode())
        elif parts.path == "/api/runs":
            self.server.asked_at = time.monotonic()
            self._json(self.server.watched.listing())
        elif parts.path == "/api/run":
            self.server.asked_at = time.monotonic()
            asked = parse_qs(parts.query)
            found = self.server.watched.details(asked.get("id", [""])[0], asked.get("seen", [""])[0])
            self._json(found if found is not None else {"gone": True})
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def _only_get(self) -> None:
        self.close_connection = True  # what else was sent is not read
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "runs are only shown here: GET", {"Allow": "GET"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = do_TRACE = _only_get

    def _json(self, value: dict[str, Any]) -> None:
        self._answer(HTTPStatus.OK, "application/json", json.dumps(value, allow_nan=False).encode())

    def _refuse(self, status: HTTPStatus, text: str, more: dict[str, str] | None = None) -> None:
        self._answer(status, "text/plain; charset=utf-8", f"{text}\n".encode(), more)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", **(more or {}),
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a page asks every two seconds."""


def page() -> tuple[str, str]:
    """The page, and the policy that lets run what is in it and nothing else."""
    loader = ChoiceLoader([PackageLoader("vcrast.runs.live", "."), PackageLoader("vcrast.runs.report", ".")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = environment.get_template("page.html").render()
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in re.findall(r"<(script|style)>(.*?)</\1>", text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def serve(server: Server, *, stay: bool, say: Callable[[str], None]) -> None:
    """Serve until all runs that were seen running have ended and the page has the end, or Ctrl-C; closes the server.

    Args:
        server: listening.
        stay: serve on after the runs have ended.
        say: told of every state that changes.
    """
    watched = server.watched
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        states, told = watched.states, ""
        while True:
            watched.look()
            for name, state in watched.states.items():
                if states.get(name) != state:
                    say(f"{name}: {state}")
            states = watched.states
            if watched.over and watched.over != told:
                say(watched.over + (", still served until Ctrl-C" if stay else ""))
            told = watched.over
            if watched.over and not stay:
                watched.closing = True
                _linger(server)
                return
            time.sleep(watched.every_s)
    except KeyboardInterrupt:
        watched.closing = True
        _linger(server, most_s=LEAVING_S)
    finally:
        server.shutdown()
        server.server_close()


def _linger(server: Server, most_s: float = HIDDEN_S) -> None:
    """Wait until an open page has heard of the end and fetched what it shows then; a second Ctrl-C does not wait."""
    began, quiet_s = time.monotonic(), 1.5 * min(1.0, server.watched.every_s)
    silent_s = began - server.asked_at
    if silent_s > HIDDEN_S:
        return
    most_s = min(most_s, 2 * ASKS_S if silent_s < ASKS_S else HIDDEN_S)
    try:
        while (now := time.monotonic()) - began < most_s:
            if server.asked_at > began and now - server.asked_at > quiet_s:
                return
            time.sleep(0.1)
    except KeyboardInterrupt:
        return
