"""`netloom target`."""

from typing import Any, Final

import click

from netloom.cli import output
from netloom.cli.base import FIELDS, Group, usage
from netloom.cli.options import client_options, loaded
from netloom.cli.session import Session, quiet_log, session
from netloom.ids import new_id
from schemas import codec
from schemas import limits as lim
from schemas.errors import Failure
from schemas.request import Done, Target, TargetAdd, TargetChanged, TargetFields, Targets

_FIELDS: Final = {name: name for name in ("name", "host", "port")} | {"new_name": "name"}


@click.group(
    cls=Group,
    examples=("netloom target ls", "netloom target add gateway 192.0.2.1"),
    help="Saved targets, for the page's form.",
)
def command() -> None:
    """Hold the sub-commands."""


def _list(here: Session) -> tuple[Target, ...]:
    return here.ask.call("target.list", Targets).targets


def find(targets: tuple[Target, ...], text: str) -> Target:
    """Return the target with this name or number. Raise Failure: target_not_found."""
    for target in targets:
        if target.name == text:
            return target
    for target in targets:
        if str(target.target_id) == text:
            return target
    raise Failure("target_not_found", target=f"'{output.clean(text)}'")


def _uses(target: Target) -> str:
    words = ["standard tests"] if target.standard_test else []
    return " and ".join([*words, *(["speedtests"] if target.speedtest else [])])


def _show(targets: tuple[Target, ...], *, as_json: bool | None) -> None:
    if output.wants_json(as_json=as_json):
        for target in targets:
            output.document(target)
        return
    if not targets:
        click.echo("No targets are saved. Add one: netloom target add NAME HOST", err=True)
        return
    rows = [(str(t.target_id), t.name, t.host, str(t.port) if t.speedtest else "-", _uses(t)) for t in targets]
    output.table(("ID", "NAME", "HOST", "PORT", "FOR"), rows)


@command.command("ls", examples=("netloom target ls", "netloom target ls --json"))
@output.json_option
@client_options
@click.pass_context
def ls(ctx: click.Context, *, as_json: bool | None) -> None:
    """List the saved targets, by name."""
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        targets = _list(here)
    _show(targets, as_json=as_json)


@command.command(
    "add", examples=("netloom target add gateway 192.0.2.1", "netloom target add lab lab.example --speedtest")
)
@click.argument("name")
@click.argument("host")
@click.option("--standard/--no-standard", default=True, show_default=True, help="For standard tests.")
@click.option("--speedtest/--no-speedtest", default=False, show_default=True, help="For speedtests.")
@click.option("--port", type=int, default=lim.SPEEDTEST_PORT_DEFAULT, show_default=True, help="Of its iperf3 server.")
@output.json_option
@client_options
@click.pass_context
def add(
    ctx: click.Context, *, name: str, host: str, standard: bool, speedtest: bool, port: int, as_json: bool | None
) -> None:
    """Save a target."""
    ctx.meta[FIELDS] = _FIELDS
    # Any: fields of target.add.
    fields: dict[str, Any] = {
        "name": name,
        "host": host,
        "standard_test": standard,
        "speedtest": speedtest,
        "port": port,
    }
    codec.validate(TargetAdd, {**fields, "id": new_id()})
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        target = here.ask.call("target.add", TargetChanged, **fields).target
    _show((target,), as_json=as_json)


@command.command(
    "update", examples=("netloom target update gateway --host 192.0.2.2", "netloom target update 3 --name lab")
)
@click.argument("target")
@click.option("--name", help="New name.")
@click.option("--host", help="New host.")
@click.option("--standard/--no-standard", default=None, help="For standard tests.")
@click.option("--speedtest/--no-speedtest", default=None, help="For speedtests.")
@click.option("--port", type=int, help="Of its iperf3 server.")
@output.json_option
@client_options
@click.pass_context
def update(ctx: click.Context, /, *, target: str, standard: bool | None, as_json: bool | None, **given: Any) -> None:
    """Change the saved target with this name or number; what is not said stays."""
    ctx.meta[FIELDS] = _FIELDS
    changes = {name: value for name, value in {**given, "standard_test": standard}.items() if value is not None}
    if not changes:
        raise usage("Nothing to change: say --name, --host, --port, --standard or --speedtest.")
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        old = find(_list(here), target)
        kept = {name: getattr(old, name) for name in TargetFields.model_fields}
        changed = here.ask.call("target.update", TargetChanged, target_id=old.target_id, **(kept | changes)).target
    _show((changed,), as_json=as_json)


@command.command("rm", examples=("netloom target rm gateway", "netloom target rm gateway --yes"))
@click.argument("target")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
@click.pass_context
def rm(ctx: click.Context, *, target: str, yes: bool) -> None:
    """Remove the saved target with this name or number; results stay."""
    output.confirm(f"Removing the saved target '{output.clean(target)}'", yes=yes)
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        here.ask.call("target.delete", Done, target_id=find(_list(here), target).target_id)
