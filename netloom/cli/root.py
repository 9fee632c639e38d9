"""`netloom` itself: what commands there are. Nothing is loaded but click until one is called."""

from typing import Final

import click

from netloom import VERSION
from netloom.cli.base import Group

_AT: Final = "netloom.cli.commands"
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": (f"{_AT}.demo", "Everything on this machine, and a first test; Ctrl-C ends it."),
    "serve": (f"{_AT}.serve", "A server: broker, controller and page."),
    "broker": (f"{_AT}.broker", "The embedded broker alone."),
    "controller": (f"{_AT}.controller", "The controller alone."),
    "web": (f"{_AT}.web", "The page alone."),
    "probe": (f"{_AT}.probe", "A probe: it measures from where it stands."),
    "test": (f"{_AT}.test", "Test a target from a probe, and follow it to its result."),
    "probes": (f"{_AT}.probes", "The probes and their states."),
    "last": (f"{_AT}.last", "The newest result of a probe."),
    "watch": (f"{_AT}.watch", "Results as they come."),
    "target": (f"{_AT}.target", "Saved targets: list, add, update, remove."),
    "archive": (f"{_AT}.archive", "The archive: list, show, comment, remove."),
    "doctor": (f"{_AT}.doctor", "What is missing, and how to mend it."),
    "config": (f"{_AT}.config", "The settings in force, and where they come from."),
    "version": (f"{_AT}.version", "The version."),
}


@click.version_option(VERSION, message="netloom %(version)s")
@click.group(
    cls=Group,
    lazy=COMMANDS,
    examples=("netloom demo", "netloom test paris 192.0.2.7 --down --up"),
    help="Netloom: probes measure the network, a controller keeps what they find, everything is JSON over MQTT.",
    epilog="In a pipe, data is JSON, one document a line. `netloom COMMAND -h` explains a command.",
)
def root() -> None:
    """Hold the commands."""
