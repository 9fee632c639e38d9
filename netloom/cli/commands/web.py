"""`netloom web`."""

import click

from netloom.cli import role
from netloom.cli.base import Command
from netloom.cli.options import client_options, data_option, loaded, setting


@click.command(cls=Command, examples=("netloom web", "netloom web --port 8081 --broker mqtt://127.0.0.1:1884"))
@client_options
@data_option
@setting("web.port", "--port", text="Port of the page; 0 takes any free one.", metavar="PORT")
@setting("web.host", "--host", text="Address the page listens on.", metavar="ADDRESS")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Run the page alone; broker and controller are elsewhere."""
    role.run("web", loaded(ctx), lambda: role.entry_point("web.service", "web", "web"))
