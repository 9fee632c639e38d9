"""`netloom probes`."""

import json
from typing import Any

import click

from broker.client import Message
from netloom.cli import figures, output
from netloom.cli.base import Command
from netloom.cli.options import client_options, loaded
from netloom.cli.session import Session, quiet_log, session
from schemas import topics
from schemas.status import ProbeStatus


def collect(made: Session, found: dict[str, ProbeStatus]) -> None:
    """Have the status of every probe come into `found`."""

    def take(topic: topics.Topic, status: ProbeStatus, _: Message) -> None:
        made.touch()
        if isinstance(topic, topics.ProbeTopic):
            found[topic.name] = status

    made.bus.subscribe_to(topics.every_probe("status"), ProbeStatus, take)


def state(status: ProbeStatus) -> str:
    """Return a probe's state in a word."""
    return "busy" if status.state == "online" and status.running else status.state


def _can(status: ProbeStatus) -> str:
    words = [kind if found.available else f"no {kind}" for kind, found in sorted(status.capabilities.items())]
    return ", ".join(words) or figures.NONE


# Any: JSON.
def _record(name: str, status: ProbeStatus) -> dict[str, Any]:
    return {"probe": name, **status.model_dump(mode="json")}


@click.command(cls=Command, examples=("netloom probes", "netloom probes --json | jq -r .probe"))
@output.json_option
@client_options
@click.pass_context
def command(ctx: click.Context, *, as_json: bool | None) -> None:
    """List the probes: free, busy or offline, and since when."""
    found: dict[str, ProbeStatus] = {}
    settings = loaded(ctx)
    quiet_log(settings)
    with session(settings.settings, lambda made: collect(made, found)) as here:
        here.settle()
    if output.wants_json(as_json=as_json):
        for name, status in sorted(found.items()):
            output.line(json.dumps(_record(name, status)))
        return
    if not found:
        click.echo("No probe has been here yet. Start one: netloom probe --name NAME", err=True)
        return
    rows = [
        (
            name,
            state(status),
            figures.age(status.since),
            status.version or figures.NONE,
            status.address or figures.NONE,
            _can(status),
        )
        for name, status in sorted(found.items())
    ]
    output.table(("PROBE", "STATE", "FOR", "VERSION", "ADDRESS", "TESTS"), rows)
