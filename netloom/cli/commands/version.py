"""`netloom version`."""

import json
import platform
import sys

import click

from netloom import VERSION
from netloom.cli.base import Command
from schemas.limits import PROTOCOL


@click.command(cls=Command, examples=("netloom version", "netloom version --json"))
@click.option("--json", "as_json", is_flag=True, help="As JSON, with Python and protocol.")
def command(*, as_json: bool) -> None:
    """Print the version."""
    if not as_json:
        click.echo(f"netloom {VERSION}")
        return
    python = ".".join(map(str, sys.version_info[:3]))
    click.echo(
        json.dumps(
            {"netloom": VERSION, "protocol": PROTOCOL, "python": python, "platform": platform.platform(terse=True)}
        )
    )
