"""`netloom controller`."""

import click

from netloom.cli import role
from netloom.cli.base import Command
from netloom.cli.options import client_options, data_option, loaded, setting


@click.command(
    cls=Command, examples=("netloom controller", "netloom controller --broker mqtts://netloom:secret@broker.example")
)
@client_options
@data_option
@setting(
    "controller.archive",
    "--archive",
    text="Database of the archive.",
    metavar="URL",
    default="SQLite in the data folder",
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Run the controller alone: it hands out tests and keeps their results."""
    role.run("controller", loaded(ctx), lambda: role.entry_point("controller.service", "controller", "controller"))
