"""The web role: the fabric, the application and the server, from start to stop."""

import threading
from collections.abc import Callable
from typing import Final

from netloom.ids import instance
from netloom.settings import Settings
from web import server
from web.app import WebConfig, create_app
from web.fabric import Fabric
from web.guard import Hosts

SPARE_THREADS: Final = 8
"""Threads that event streams leave to the pages."""


def run(settings: Settings, stop: threading.Event, ready: Callable[[str], None]) -> None:
    """Serve the page until `stop` is set; `ready` is told its address once. Raise Failure: listen_refused, port_in_use."""
    bound = server.listen(settings.web.host, settings.web.port)
    folder = settings.data / "web"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fabric = Fabric(settings.broker_url(), f"web:{instance(folder)}", streams_max=settings.web.threads - SPARE_THREADS)
    config = WebConfig(Hosts.of(settings.web.host, settings.web.hosts))
    fabric.start()
    closer = threading.Thread(target=_close_streams, args=(stop, fabric), name="web-closer", daemon=True)
    closer.start()
    try:
        ready(url_of(settings.web.host, bound.getsockname()[1]))
        server.serve(create_app(config, fabric), bound, settings.web.threads, stop)
    finally:
        stop.set()
        fabric.stop()
        closer.join(1.0)


def url_of(host: str, port: int) -> str:
    """Return the address to open in a browser."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _close_streams(stop: threading.Event, fabric: Fabric) -> None:
    stop.wait()
    fabric.hub.close()
