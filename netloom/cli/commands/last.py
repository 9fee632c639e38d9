"""`netloom last`."""

import click

from broker.client import Message
from netloom.cli import figures, output
from netloom.cli.base import FIELDS, Command, usage
from netloom.cli.options import client_options, loaded
from netloom.cli.session import Session, quiet_log, session
from schemas import topics
from schemas.errors import Failure
from schemas.result import Result
from schemas.status import ProbeStatus


@click.command(cls=Command, examples=("netloom last paris", "netloom last paris --json | jq .ping.avg"))
@click.argument("probe")
@output.json_option
@client_options
@click.pass_context
def command(ctx: click.Context, *, probe: str, as_json: bool | None) -> None:
    """Print the newest result of PROBE, as the broker retains it."""
    ctx.meta[FIELDS] = {"probe": "probe"}
    if not topics.valid_name(probe):
        raise usage(f"PROBE: '{output.clean(probe)}' is not a probe's name: letters, digits, - and _, at most 64.")
    results: list[Result] = []
    states: list[ProbeStatus] = []

    def prepare(made: Session) -> None:
        def take_result(_: topics.Topic, result: Result, __: Message) -> None:
            made.touch()
            results.append(result)

        def take_status(_: topics.Topic, status: ProbeStatus, __: Message) -> None:
            made.touch()
            states.append(status)

        made.bus.subscribe_to(topics.probe(probe, "result"), Result, take_result)
        made.bus.subscribe_to(topics.probe(probe, "status"), ProbeStatus, take_status)

    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings, prepare) as here:
        here.settle(enough=lambda: bool(results))
    if not results:
        raise Failure("no_result" if states else "probe_unknown", probe=probe)
    result = results[-1]
    if output.wants_json(as_json=as_json):
        output.document(result)
        return
    for line in figures.lines(result):
        output.line(line)
    output.line(f"  measured {figures.age(result.measured_at)} ago")
