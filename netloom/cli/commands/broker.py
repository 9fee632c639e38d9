"""`netloom broker`."""

import threading
from collections.abc import Callable

import click

from netloom.cli import role
from netloom.cli.base import Command
from netloom.cli.options import data_option, loaded, logging_options, setting
from netloom.files import folder_lock
from netloom.settings import Settings
from schemas.errors import Failure


def serve(settings: Settings, stop: threading.Event, ready: Callable[[str], None]) -> None:
    """Run the embedded broker until `stop`. Raise Failure: port_in_use, listen_refused, store_locked, extra_missing."""
    try:
        from broker.server import BrokerSettings, EmbeddedBroker  # noqa: PLC0415 - not every installation has amqtt
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] in role.OURS:
            raise
        raise Failure("extra_missing", command="netloom broker", reason=str(exc), extra="broker") from None

    folder = settings.data / "broker"
    wanted = BrokerSettings(host=settings.broker.host, port=settings.broker.port, data_dir=folder)
    with folder_lock(folder), EmbeddedBroker(wanted) as broker:
        ready(broker.url)
        while broker.running and not stop.wait(0.5):
            pass
    if not stop.is_set():
        raise Failure("broker_unsupported", reason="it ended by itself; the log says more")


@click.command(cls=Command, examples=("netloom broker", "netloom broker --port 1884"))
@logging_options
@data_option
@setting("broker.port", "--port", text="Port to listen on; 0 takes any free one.", metavar="PORT")
@setting("broker.host", "--host", text="Loopback address to listen on.", metavar="ADDRESS")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Run the embedded broker alone. It listens on this machine only."""
    role.run("broker", loaded(ctx), lambda: serve)
