"""What every request passes first, and what every answer carries: names, origins, sizes, and the headers that bind a browser."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from netloom.ids import new_id
from schemas.errors import Failure

BODY_MAX_BYTES: Final = 64 * 1024
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::(?P<port>[0-9]{1,5}))?\Z")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": with it a browser sends "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Hosts:
    """The names the page answers to. A name without a port stands for every port: tunnels and proxies have their own."""

    names: frozenset[str]

    @classmethod
    def of(cls, own: str, further: tuple[str, ...]) -> "Hosts":
        """Return the loopback names, the page's own address and `further` ones."""
        own = f"[{own}]" if ":" in own and not own.startswith("[") else own
        return cls(_LOOPBACK | {name.lower() for name in (own, *further)})

    def allow(self, host: str) -> bool:
        """Tell whether a Host header names this page."""
        found = _HOST.match(host)
        return found is not None and (found["name"].lower() in self.names or host.lower() in self.names)


def same_origin(host: str, fetch_site: str | None, origin: str | None, referer: str | None) -> bool:
    """Tell whether a request that changes something came from our own page. Without any evidence it did not."""
    if fetch_site is not None and fetch_site != "same-origin":
        return False
    for evidence in (origin, referer):
        if evidence is not None:
            return urlsplit(evidence).netloc.lower() == host.lower()
    return fetch_site == "same-origin"


def install(app: Flask, hosts: Hosts) -> None:
    """Put the guard before every route of `app` and the headers on every answer."""

    @app.before_request
    def check() -> None:
        g.request_number = new_id()[-8:]
        host = request.headers.get("Host", "")
        if not hosts.allow(host):
            raise Failure("bad_host", host=host[:80])
        if (request.content_length or 0) > BODY_MAX_BYTES:
            raise Failure("body_too_large")
        if request.method not in _SAFE and not same_origin(
            host, request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin"), request.headers.get("Referer")
        ):
            raise Failure("bad_origin")

    @app.after_request
    def bind(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers[name] = value
        response.headers["X-Request-Number"] = g.get("request_number", "")
        # Pages are live: going back must not show what was, nor bring back a form that was already sent.
        response.headers.setdefault("Cache-Control", "no-store")
        return response
