"""The adapter to waitress: a listening socket of ours, a loop of ours, so that it stops when told."""

import errno
import ipaddress
import socket
import threading
from typing import Any, Final

import waitress.server
from flask import Flask
from waitress import wasyncore

from schemas.errors import Failure

LOOP_S: Final = 0.2
_BACKLOG: Final = 256
_CONNECTIONS_MAX: Final = 1_000


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raise Failure: listen_refused (not loopback), port_in_use."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise Failure("listen_refused", host=host) from None
    if not address.is_loopback:
        raise Failure("listen_refused", host=host)
    bound = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)  # noqa: PLR2004 - IP version
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((str(address), port))
        # Two servers may both bind with SO_REUSEADDR; only one may listen.
        bound.listen(_BACKLOG)
    except OSError as exc:
        bound.close()
        if exc.errno in (errno.EADDRINUSE, errno.EACCES):
            raise Failure("port_in_use", host=host, port=port) from None
        raise Failure("listen_refused", host=host) from None
    return bound


def serve(app: Flask, bound: socket.socket, threads: int, stop: threading.Event) -> None:
    """Serve `app` on `bound` until `stop` is set; event streams must have been told to end before."""
    sockets: dict[int, Any] = {}
    server = waitress.server.create_server(
        app,
        map=sockets,
        sockets=[bound],
        threads=threads,
        connection_limit=_CONNECTIONS_MAX,
        backlog=_BACKLOG,
        ident="netloom",
        # One request is read ahead so that a page that is gone is noticed while its stream waits.
        channel_request_lookahead=1,
        max_request_header_size=32 * 1024,
        # The page itself answers up to here with its own error; beyond, waitress cuts.
        max_request_body_size=1024 * 1024,
        clear_untrusted_proxy_headers=True,
        asyncore_use_poll=True,
    )
    try:
        while not stop.is_set():
            wasyncore.loop(timeout=LOOP_S, use_poll=True, map=sockets, count=1)
    finally:
        server.task_dispatcher.shutdown(timeout=1.0)
        for channel in list(sockets.values()):
            channel.close()
