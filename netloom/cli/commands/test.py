"""`netloom test`."""

from typing import Any, Final

import click

from netloom.cli import figures, output
from netloom.cli.bar import Bar
from netloom.cli.base import FIELDS, Command, Told, usage
from netloom.cli.conditions import Condition, convert
from netloom.cli.follow import Ended, Follower
from netloom.cli.options import client_options, loaded
from netloom.cli.session import interruptible, quiet_log, session
from netloom.ids import new_id
from schemas import codec
from schemas import limits as lim
from schemas.errors import CATALOGUE, ErrorInfo
from schemas.request import TestStart

CONDITION_MET: Final = 1
INTERRUPTED: Final = 130
# The parts somebody asked for; a reason under another name is about a figure among others.
_PARTS: Final = ("ping", "speedtest", "download", "upload")
_FIELDS: Final = {
    "probe": "probe",
    "comment": "comment",
    "ping.target": "target",
    "ping.count": "count",
    "ping.timeout_s": "timeout",
    "ping.interval_ms": "interval_ms",
    "ping.size": "size",
    "speedtest.target": "target",
    "speedtest.port": "port",
    "speedtest.duration_s": "duration",
    "speedtest.streams": "streams",
}
_PING: Final = {"count": "count", "timeout": "timeout_s", "interval_ms": "interval_ms", "size": "size"}
_SPEED: Final = {"port": "port", "duration": "duration_s", "streams": "streams"}


def _parts(target: str, *, ping: bool, down: bool, up: bool, udp: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of the test as fields of test.start. Raise Told for options of a part that is not asked for."""
    speed = down or up or udp
    for name in given:
        if (name in _SPEED and not speed) or (name in _PING and not ping):
            need = "--down or --up" if name in _SPEED else "the ping"
            raise usage(f"--{name.replace('_', '-')} goes with {need}.")
    if udp and not (down or up):
        raise usage("--udp goes with --down or --up.")
    found: dict[str, Any] = {}
    if ping:
        found["ping"] = {"target": target} | {_PING[name]: value for name, value in given.items() if name in _PING}
    if speed:
        direction = "both" if down and up else "download" if down else "upload"
        protocol = "udp" if udp else "tcp"
        found["speedtest"] = {"target": target, "direction": direction, "protocol": protocol} | {
            _SPEED[name]: value for name, value in given.items() if name in _SPEED
        }
    return found


def first_error(ended: Ended) -> ErrorInfo | None:
    """Return the error that decides the exit code: why there is no result, or why a part of it has no figures."""
    if ended.result is None:
        return ended.error
    errors = ended.result.errors
    if ended.result.status == "error" and errors:
        return next(iter(errors.values()))
    return next((errors[part] for part in _PARTS if part in errors), None)


def _exit_code(ended: Ended, fail_on: tuple[Condition, ...]) -> int:
    """Return the exit code, having said on standard error which condition was met."""
    if ended.interrupted:
        return INTERRUPTED
    reason = first_error(ended)
    if reason is not None:
        entry = CATALOGUE.get(reason.code)
        return entry.exit_code if entry else 6
    met = [] if ended.result is None else [why for one in fail_on if (why := one.why(ended.result))]
    for why in met:
        click.echo(f"failed on {why}", err=True)
    return CONDITION_MET if met else 0


@click.command(
    cls=Command, examples=("netloom test paris 192.0.2.7", "netloom test paris lab.example --down --up --json")
)
@click.argument("probe")
@click.argument("target")
@click.option("-c", "--count", type=int, help=f"Packets of the ping.  [default: {lim.PING_COUNT_DEFAULT}]")
@click.option("--down", is_flag=True, help="Measure the download from an iperf3 server on the target.")
@click.option("--up", is_flag=True, help="Measure the upload to it.")
@click.option("--no-ping", is_flag=True, help="Leave the ping out.")
@click.option("--port", type=int, help=f"Port of the iperf3 server.  [default: {lim.SPEEDTEST_PORT_DEFAULT}]")
@click.option("--duration", type=int, help=f"Seconds in each direction.  [default: {lim.SPEEDTEST_DURATION_DEFAULT_S}]")
@click.option("--streams", type=int, help="Parallel streams.  [default: 1]")
@click.option("--udp", is_flag=True, help="Measure with UDP instead of TCP.")
@click.option("--interval-ms", type=int, help=f"Between packets, ms.  [default: {lim.PING_INTERVAL_DEFAULT_MS}]")
@click.option("--timeout", type=float, help=f"Seconds to wait for a packet.  [default: {lim.PING_TIMEOUT_DEFAULT_S:g}]")
@click.option("--size", type=int, help=f"Payload of a packet, bytes.  [default: {lim.PING_SIZE_DEFAULT_BYTES}]")
@click.option("--comment", default="", help="Kept with the result.")
@click.option(
    "--fail-on",
    multiple=True,
    callback=convert,
    metavar="CONDITION",
    help="End with exit code 1 if it is so, such as 'loss>1%', 'p95>50ms', 'mos<4' or 'down<100Mbit/s'. May be given again.",
)
@output.json_option
@client_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    probe: str,
    target: str,
    down: bool,
    up: bool,
    no_ping: bool,
    udp: bool,
    comment: str,
    fail_on: tuple[Condition, ...],
    as_json: bool | None,
    **given: int | float | None,  # noqa: PYI041 - click gives both
) -> None:
    """Test TARGET from PROBE and follow it to its result.

    Without --down and --up it is a ping. Ctrl-C cancels the test on the probe, too.

    Exit codes: 0 all is well, 1 --fail-on was met, 4 broker or controller, 5 the probe, 6 the target, 7 a permission, 130 Ctrl-C.
    """
    ctx.meta[FIELDS] = _FIELDS
    numbers = {name: value for name, value in given.items() if value is not None}
    parts = _parts(target, ping=not no_ping, down=down, up=up, udp=udp, given=numbers)
    fields = {"probe": probe, "comment": comment, "origin": "cli", **parts}
    codec.validate(TestStart, {**fields, "id": new_id()})
    found = loaded(ctx)
    quiet_log(found)
    followers: list[Follower] = []
    title = f"{probe} \N{RIGHTWARDS ARROW} {target}"
    with session(found.settings, lambda made: followers.append(Follower(made, probe))), interruptible() as asked:
        with Bar(title) as bar:
            bar.say("asking")
            ended = followers[0].run(fields, bar.update, asked)
        stored = ended.result is None or followers[0].wait_stored(ended.result.id)
    _tell(ended, stored=stored, as_json=output.wants_json(as_json=as_json))
    ctx.exit(_exit_code(ended, fail_on))


def _tell(ended: Ended, *, stored: bool, as_json: bool) -> None:
    """Write the result; raise Told if there is none."""
    if ended.result is None:
        reason = ended.error
        if reason is not None:
            code = (
                INTERRUPTED
                if ended.interrupted
                else CATALOGUE[reason.code].exit_code
                if reason.code in CATALOGUE
                else 5
            )
            raise Told((output.clean(reason.message),), output.clean(reason.hint), code)
        return
    if as_json:
        output.document(ended.result)
        return
    for line in figures.lines(ended.result):
        output.line(line)
    where = f"saved as #{ended.ticket.number}" if stored else "the controller has not stored it yet; the probe keeps it"
    output.line(f"  {where}")
