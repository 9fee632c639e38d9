"""`netloom probe`."""

import click

from netloom.cli import role
from netloom.cli.base import Command, usage
from netloom.cli.options import client_options, data_option, loaded, setting
from netloom.config_model import variable


@click.command(
    cls=Command,
    examples=("netloom probe --name paris", "netloom probe --name paris --broker mqtts://paris:secret@broker.example"),
)
@setting("probe.name", "--name", text="The probe's name: letters, digits, - and _.", metavar="NAME")
@client_options
@data_option
@click.pass_context
def command(ctx: click.Context) -> None:
    """Run a probe: it dials the broker and measures what it is asked to."""
    found = loaded(ctx)
    if found.settings.probe.name is None:
        raise usage(
            "A probe needs a name.", f"Say it with --name, {variable('probe.name')} or probe.name in a settings file."
        )
    role.run("probe", found, lambda: role.entry_point("probe.service", "probe", "server"))
