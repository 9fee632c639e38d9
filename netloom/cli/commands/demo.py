"""`netloom demo`."""

import contextlib
import os
import shutil
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from netloom import log
from netloom.cli import child, fabric, output, ports, role
from netloom.cli.base import Command
from netloom.cli.first_test import TARGET, FirstTest
from netloom.cli.options import client_options, loaded, setting
from netloom.cli.supervisor import Supervisor
from netloom.config import Loaded
from netloom.settings import Settings

PROBE_NAME: Final = "local"
_IPERF: Final = "iperf3"


@contextlib.contextmanager
def _data(keep: Path | None) -> Iterator[Path]:
    """Yield a data folder: the one to keep, or one that is gone at the end."""
    if keep is not None:
        yield keep.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="netloom-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _settings(found: Loaded, data: Path) -> Settings:
    level = found.settings.log_level if found.chosen("log_level") else "warning"
    settings = fabric.settled(found, strict=False)
    return settings.model_copy(update={"data": data, "log_level": level})


def _probe(settings: Settings) -> Settings:
    """Return the settings of the demo's probe, the only one that may test the machine it runs on."""
    limits = settings.probe.limits.model_copy(update={"allow_loopback": True})
    probe = settings.probe.model_copy(update={"name": PROBE_NAME, "limits": limits})
    return settings.model_copy(update={"probe": probe})


def _start_iperf(supervisor: Supervisor, found: Loaded) -> int | None:
    """Start an iperf3 server to test against and return its port; without one say how to get it."""
    program = shutil.which(_IPERF)
    if program is None:
        output.line("  No speedtest: the program iperf3 is not installed.\n    Install it: apt install iperf3")
        return None
    wanted = found.settings.demo.iperf_port
    port = ports.choose(TARGET, wanted, strict=found.chosen("demo.iperf_port"))
    _moved("iperf3", wanted, port)
    supervisor.start(child.program(_IPERF, program, "-s", "-B", TARGET, "-p", str(port)))
    return port


def _moved(what: str, wanted: int, port: int) -> None:
    if wanted not in (0, port):
        output.line(f"  Port {wanted} is taken; {what} uses {port}.")


def _open(url: str, *, wanted: bool | None) -> None:
    """Show the page, where there is a screen (a text browser would take the terminal)."""
    screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if wanted or (wanted is None and sys.stdout.isatty() and screen):
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


@click.command(cls=Command, examples=("netloom demo", "netloom demo --port 8081 --no-browser"))
@setting("web.port", "--port", text="Port of the page, unless taken.", metavar="PORT")
@setting("broker.port", "--broker-port", text="Port of the embedded broker, unless taken.", metavar="PORT")
@setting("demo.iperf_port", "--iperf-port", text="Port of the iperf3 server, unless taken.", metavar="PORT")
@click.option(
    "--keep",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the data there.  [default: a folder that is removed at the end]",
)
@click.option(
    "--open/--no-browser", "browser", default=None, help="Open the page.  [default: on a terminal with a screen]"
)
@client_options
@click.pass_context
def command(ctx: click.Context, *, keep: Path | None, browser: bool | None) -> None:
    """Run everything on this machine: broker, controller, page, a probe called local, an iperf3 server to test against.

    A first test runs by itself. Ctrl-C ends everything.
    """
    found = loaded(ctx)
    stop = role.stop_on_signals()
    with _data(keep) as data:
        settings = _settings(found, data)
        log.setup(settings.log_level, settings.log_format, role="demo")
        told: dict[str, str] = {}
        with Supervisor(stop, told.__setitem__) as supervisor:
            _run(supervisor, found, settings, stop, browser=browser, told=told)


def _run(
    supervisor: Supervisor,
    found: Loaded,
    settings: Settings,
    stop: threading.Event,
    *,
    browser: bool | None,
    told: dict[str, str],
) -> None:
    _moved("the page", found.settings.web.port, settings.web.port)
    if settings.broker.url is None:
        _moved("the broker", found.settings.broker.port, settings.broker.port)
    iperf_port = _start_iperf(supervisor, found)
    if not fabric.start(supervisor, settings, probe=_probe(settings)):
        return
    page = told[fabric.WEB]
    output.line(f"  Page      {page}")
    output.line(f"  Broker    {settings.broker_url()}")
    output.line("  A first test runs; Ctrl-C ends everything.")
    _open(page, wanted=browser)
    first = FirstTest(settings, PROBE_NAME, iperf_port, output.line)
    test = threading.Thread(target=first.run, args=(stop,), name="first-test", daemon=True)
    test.start()
    supervisor.run()
