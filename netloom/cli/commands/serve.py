"""`netloom serve`."""

import click

from netloom import log
from netloom.cli import fabric, role
from netloom.cli.base import Command
from netloom.cli.options import client_options, data_option, loaded, setting
from netloom.cli.supervisor import Supervisor


@click.command(cls=Command, examples=("netloom serve", "netloom serve --broker mqtts://netloom:secret@broker.example"))
@client_options
@data_option
@setting("web.port", "--port", text="Port of the page; 0 takes any free one.", metavar="PORT")
@setting("web.host", "--host", text="Address the page listens on.", metavar="ADDRESS")
@setting("broker.port", "--broker-port", text="Port of the embedded broker; 0 takes any free one.", metavar="PORT")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Run a server: broker, controller and page, each a process of its own.

    With --broker the controller and the page use that broker, and none is started here.
    """
    found = loaded(ctx)
    log.setup(found.settings.log_level, found.settings.log_format, role="supervisor")
    stop = role.stop_on_signals()
    settings = fabric.settled(found, strict=True)
    broker = settings.broker_url()
    told: dict[str, str] = {}
    with Supervisor(stop, told.__setitem__) as supervisor:
        if not fabric.start(supervisor, settings):
            return
        files = ", ".join(map(str, found.files)) or "defaults (no file)"
        click.echo(f"  Page      {told[fabric.WEB]}")
        click.echo(f"  Broker    {broker}")
        click.echo(f"  Data      {settings.data}   settings: {files}")
        click.echo(f"  Add a probe: netloom probe --name NAME --broker {broker}")
        supervisor.run()
