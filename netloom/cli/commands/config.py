"""`netloom config`."""

import json

import click

from netloom import config
from netloom.cli import output
from netloom.cli.base import Group
from netloom.cli.options import broker_option, data_option, loaded, logging_options
from netloom.config_model import expected, masked, paths, text_of, value_of, variable


@click.group(
    cls=Group,
    examples=("netloom config show", "NETLOOM_WEB__PORT=8081 netloom config show"),
    help="The settings in force, and where they come from.",
)
def command() -> None:
    """Hold the sub-commands."""


@command.command("show", examples=("netloom config show", "netloom config show --json"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document a setting.")
@logging_options
@broker_option
@data_option
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> None:
    """List every setting with its value and source; passwords are hidden."""
    found = loaded(ctx)
    rows: list[tuple[str, str, str]] = []
    for path in paths():
        value = value_of(found.settings, path)
        text = None if value in (None, ()) else masked(path, text_of(value))
        source = found.sources[path]
        if as_json:
            said = {"setting": path, "value": text, "source": source.kind, "place": source.place}
            output.line(json.dumps(said | {"variable": variable(path), "takes": expected(path)}))
        else:
            rows.append((path, "-" if text is None else text, source.place))
    if rows:
        output.table(("SETTING", "VALUE", "SOURCE"), rows)


@command.command("path", examples=("netloom config path", "netloom config path --config /etc/netloom/paris.toml"))
@logging_options
@click.pass_context
def path(ctx: click.Context) -> None:
    """Print the settings files that are read, strongest first."""
    found = loaded(ctx)
    for file in found.files:
        output.line(str(file.absolute()))
    if not found.files:
        looked = ", ".join(map(str, config.search()))
        click.echo(f"No settings file is in use. Looked for: {looked}", err=True)
