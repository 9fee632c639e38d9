"""The page for tests: the application with its fabric behind a Flask test client, or the whole role on a socket of its own.

with start_mosquitto(tmp) as broker, start_controller(broker.url, tmp), scripted_probe(broker.url) as probe:
    with site(broker.url) as page:                     # no server: page.get("/"), page.post("/start", {...})
        ...
    with serve(broker.url, tmp) as url:                # waitress on a free port
        ...
"""

import contextlib
import html
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from netloom.ids import new_id
from netloom.settings import Settings
from netloom.url import BrokerUrl
from tests.kit.wait import until
from web.app import WebConfig, create_app
from web.fabric import Fabric
from web.guard import Hosts
from web.service import run

PAGE = {"Accept": "text/html"}
FORM: dict[str, str] = {
    "probe": "paris",
    "standard_test": "yes",
    "ping_host": "192.0.2.7",
    "packet_number": "100",
    "packet_timeout": "3",
    "comment": "",
}
"""A form that starts a standard test and nothing else."""
BOTH: dict[str, str] = FORM | {
    "speedtest": "yes",
    "speedtest_host": "192.0.2.9",
    "speedtest_port": "5201",
    "direction": "both",
    "duration_s": "10",
    "streams": "1",
    "protocol": "tcp",
    "omit_s": "0",
}
"""A form that starts both tests."""


class Site:
    """The application behind a test client that speaks as a browser on the page itself does."""

    def __init__(self, fabric: Fabric, client: FlaskClient) -> None:
        self.fabric, self.client = fabric, client

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.client.get(path, headers=PAGE | headers)

    def post(self, path: str, form: Mapping[str, str | list[str]] | None = None, **headers: str) -> TestResponse:
        return self.client.post(path, data=dict(form or {}), headers={"Origin": "http://localhost"} | PAGE | headers)

    def wait_ready(self, *probes: str) -> None:
        """Wait until the controller is there and these probes are known."""
        until(lambda: self.fabric.controller_online, what="the page knows the controller")
        until(lambda: all(self.fabric.cache.probe(name) for name in probes), what=f"the page knows {probes}")

    def start(self, **fields: str) -> int:
        """Start a test and return its number."""
        response = self.post("/start", FORM | fields)
        assert response.status_code == 303, text_of(response)
        return int(response.headers["Location"].rpartition("/")[2])


@contextlib.contextmanager
def site(url: str, *, hosts: tuple[str, ...] = (), streams_max: int = 8) -> Iterator[Site]:
    """The application on the broker at `url`."""
    fabric = Fabric(BrokerUrl.parse(url), f"web:{new_id()[-12:]}", streams_max=streams_max)
    app = create_app(WebConfig(Hosts.of("127.0.0.1", hosts)), fabric)
    fabric.start()
    try:
        yield Site(fabric, app.test_client())
    finally:
        fabric.stop()


class Running:
    """The web role in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.url = ""
        self.failed: BaseException | None = None
        self.stop = threading.Event()
        self._ready = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(settings,), daemon=True)

    def _run(self, settings: Settings) -> None:
        try:
            run(settings, self.stop, self._said)
        except BaseException as exc:  # noqa: BLE001 - a thread's outermost frame; the test looks at whatever it was
            self.failed = exc
        finally:
            self._ready.set()

    def _said(self, url: str) -> None:
        self.url = url
        self._ready.set()

    def start(self) -> None:
        self.thread.start()
        assert self._ready.wait(10)
        if self.failed is not None:
            raise self.failed

    def end(self) -> float:
        """Stop it and return how many seconds that took."""
        began = time.monotonic()
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive(), "the page does not stop"
        return time.monotonic() - began


def web_settings(url: str, data: Path, **web: Any) -> Settings:
    """Settings of a page on a free port; `web` are further fields of that section."""
    return Settings.model_validate({"data": str(data), "broker": {"url": url}, "web": {"port": 0, **web}})


@contextlib.contextmanager
def serve(url: str, data: Path, **web: Any) -> Iterator[Running]:
    """The whole web role on a free port."""
    running = Running(web_settings(url, data, **web))
    running.start()
    try:
        yield running
    finally:
        running.end()
        assert running.failed is None, running.failed


class EventStream:
    """A browser's event stream, read by hand. `events` takes the next ones as (kind, data, id)."""

    def __init__(self, url: str, since: str = "", receive_buffer: int = 0) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect((parts.hostname, parts.port or 80))
        self.socket.sendall(f"GET /events?since={since} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        self.response = http.client.HTTPResponse(self.socket)
        self._begun = False

    def begin(self) -> int:
        """Read the head and return the status."""
        if not self._begun:
            self.response.begin()
            self._begun = True
        return self.response.status

    def next(self, timeout_s: float = 10.0) -> tuple[str, dict[str, Any], str]:
        """Read the next event; comments are passed over."""
        self.begin()
        self.socket.settimeout(timeout_s)
        found: dict[str, str] = {}
        while True:
            line = self.response.readline().decode().rstrip("\n")
            if not line and "data" in found:
                return found["event"], json.loads(found["data"]), found["id"]
            key, _, value = line.partition(": ")
            if key:
                found[key] = value

    def until(self, kind: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """Read until an event of this kind and return its data."""
        deadline = time.monotonic() + timeout_s
        while True:
            found, data, _ = self.next(max(0.1, deadline - time.monotonic()))
            if found == kind:
                return data

    def close(self) -> None:
        self.response.close()
        self.socket.close()


def text_of(response: TestResponse) -> str:
    """The words of a page, without its tags."""
    body = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", response.text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def fault_at(response: TestResponse, name: str) -> str | None:
    """The sentence that stands at a field, None if none does; the field must say that it belongs to it."""
    found = re.search(rf'<p class="help is-danger" id="{name}-fault" role="alert">(.*?)</p>', response.text, re.DOTALL)
    if found is None:
        return None
    described = f'aria-invalid="true" aria-describedby="{name}-fault'
    assert described in response.text, f"the field {name} does not name its sentence"
    return html.unescape(found[1]).strip()


def value_of(response: TestResponse, name: str) -> str | None:
    """What stands in an input or a text area."""
    found = re.search(rf'<input[^>]*\bname="{name}" value="([^"]*)"', response.text) or re.search(
        rf'<textarea[^>]*\bname="{name}"[^>]*>\n?(.*?)</textarea>', response.text, re.DOTALL
    )
    return html.unescape(found[1]) if found else None
