"""`netloom watch`."""

import queue

import click

from broker.client import Message
from netloom.cli import figures, output
from netloom.cli.base import Command, usage
from netloom.cli.options import client_options, loaded
from netloom.cli.session import Session, quiet_log, session
from schemas import topics
from schemas.result import Result


@click.command(cls=Command, examples=("netloom watch", "netloom watch paris berlin --json"))
@click.argument("probes", nargs=-1, metavar="[PROBE]...")
@click.option("-n", "--number", type=click.IntRange(min=1), help="End after so many results.")
@click.option("--newest", is_flag=True, help="Begin with the newest result of each probe.")
@output.json_option
@client_options
@click.pass_context
def command(
    ctx: click.Context, *, probes: tuple[str, ...], number: int | None, newest: bool, as_json: bool | None
) -> None:
    """Print results as they come, of all probes or those named; Ctrl-C ends it."""
    for name in probes:
        if not topics.valid_name(name):
            raise usage(f"PROBE: '{output.clean(name)}' is not a probe's name: letters, digits, - and _, at most 64.")
    results: queue.Queue[Result] = queue.Queue()

    def prepare(made: Session) -> None:
        def take(topic: topics.Topic, result: Result, message: Message) -> None:
            if (newest or not message.retain) and isinstance(topic, topics.ProbeTopic):
                results.put(result)

        for name in probes or (None,):
            topic = topics.every_probe("result") if name is None else topics.probe(name, "result")
            made.bus.subscribe_to(topic, Result, take)

    found = loaded(ctx)
    quiet_log(found, "warning")
    with session(found.settings, prepare):
        _print(results, number, as_json=output.wants_json(as_json=as_json))


def _print(results: "queue.Queue[Result]", number: int | None, *, as_json: bool) -> None:
    if not as_json:
        click.echo("Waiting for results; Ctrl-C ends it.", err=True)
    seen: set[tuple[str, str]] = set()
    while number is None or len(seen) < number:
        result = results.get()
        key = (result.probe_name, result.id)
        if key in seen:  # sent again: the controller had not stored it
            continue
        seen.add(key)
        if as_json:
            output.document(result)
            continue
        when = result.measured_at.astimezone().strftime("%H:%M:%S")
        output.line(f"{when}  {output.clean(result.probe_name)} -> {figures.target(result)}  {figures.brief(result)}")
