"""`netloom archive`."""

from typing import Any, Final

import click

from netloom.cli import figures, output
from netloom.cli.base import FIELDS, Group
from netloom.cli.options import client_options, loaded
from netloom.cli.session import Session, quiet_log, session
from netloom.ids import new_id
from schemas import codec
from schemas import limits as lim
from schemas.request import ArchivePage, ArchiveRows, Done, TestRecord, TestSummary

_PAGE: Final = {name: name for name in ("probe", "target", "state", "text", "rows", "older_than")}
_NUMBER_MAX: Final = 2**53


@click.group(cls=Group, examples=("netloom archive ls", "netloom archive show 813"), help="The archive of all tests.")
def command() -> None:
    """Hold the sub-commands."""


# Any: fields of archive.get.
def _which(test: str) -> dict[str, Any]:
    """Return how to ask for a test: by its number, or by its id."""
    number = test.removeprefix("#")
    return {"number": int(number)} if number.isdecimal() and 0 < int(number) < _NUMBER_MAX else {"test": test}


def _get(here: Session, test: str) -> TestRecord:
    return here.ask.call("archive.get", TestRecord, **_which(test))


def _target(row: TestSummary) -> str:
    return row.ping_target or row.speedtest_target or figures.NONE


def _row(row: TestSummary) -> tuple[str, ...]:
    when = (row.measured_at or row.created_at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return (
        str(row.number),
        when,
        row.probe,
        _target(row),
        row.state,
        figures.ms(row.ping_avg),
        figures.percent(row.loss_percent),
        figures.NONE if row.mos is None else f"{row.mos:.2f}",
        figures.rate(row.download),
        figures.rate(row.upload),
        row.comment,
    )


_HEAD: Final = ("#", "TIME", "PROBE", "TARGET", "STATE", "RTT ms", "LOSS", "MOS", "DOWN", "UP", "COMMENT")


@command.command("ls", examples=("netloom archive ls", "netloom archive ls --probe paris --state error --json"))
@click.option("--probe", help="Of this probe.")
@click.option("--target", help="With this in the target's host.")
@click.option("--state", help="In this state, such as done, error or lost.")
@click.option("--comment", "text", help="With this in the comment.")
@click.option("--rows", type=int, default=lim.PAGE_ROWS_DEFAULT, show_default=True, help="At most so many.")
@click.option("--older-than", type=int, metavar="NUMBER", help="Older than the test with this number.")
@output.json_option
@client_options
@click.pass_context
def ls(ctx: click.Context, /, *, as_json: bool | None, **given: Any) -> None:
    """List tests, newest first."""
    ctx.meta[FIELDS] = _PAGE
    fields = {name: value for name, value in given.items() if value is not None}
    codec.validate(ArchivePage, {**fields, "id": new_id()})
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        page = here.ask.call("archive.page", ArchiveRows, **fields)
    if output.wants_json(as_json=as_json):
        for row in page.rows:
            output.document(row)
        return
    output.table(_HEAD, [_row(row) for row in page.rows])
    more = f"; older: --older-than {page.older_than}" if page.older_than is not None else ""
    click.echo(f"{len(page.rows)} of {page.matching} matching, {page.total} in all{more}", err=True)


@command.command("show", examples=("netloom archive show 813", "netloom archive show 813 --json | jq .result"))
@click.argument("test")
@output.json_option
@client_options
@click.pass_context
def show(ctx: click.Context, *, test: str, as_json: bool | None) -> None:
    """Show the test with this number or id."""
    ctx.meta[FIELDS] = {"test": "test", "number": "test"}
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        record = _get(here, test)
    if output.wants_json(as_json=as_json):
        output.document(record)
        return
    summary = record.summary
    if record.result is not None:
        for line in figures.lines(record.result):
            output.line(line)
    else:
        output.line(
            f"{output.clean(summary.probe)} -> {output.clean(_target(summary))}   #{summary.number}   {summary.state}"
        )
        if summary.error is not None:
            output.line(f"  {output.clean(summary.error.message)}")
            output.line(f"  {output.clean(summary.error.hint)}")
    if summary.comment:
        output.line(f"  {output.clean(summary.comment)}")


@command.command(
    "comment", examples=("netloom archive comment 813 'after the switch was changed'", "netloom archive comment 813 ''")
)
@click.argument("test")
@click.argument("comment")
@client_options
@click.pass_context
def comment(ctx: click.Context, *, test: str, comment: str) -> None:
    """Replace the comment of the test with this number or id."""
    ctx.meta[FIELDS] = {"test": "test", "number": "test", "comment": "comment"}
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        here.ask.call("archive.comment", Done, test=_get(here, test).summary.id, comment=comment)


@command.command("rm", examples=("netloom archive rm 813", "netloom archive rm 811 812 813 --yes"))
@click.argument("tests", nargs=-1, required=True, metavar="TEST...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_options
@click.pass_context
def rm(ctx: click.Context, *, tests: tuple[str, ...], yes: bool) -> None:
    """Remove tests, by number or id, with their results."""
    ctx.meta[FIELDS] = {"test": "tests", "number": "tests"}
    what = f"test {output.clean(tests[0])}" if len(tests) == 1 else f"{len(tests)} tests"
    output.confirm(f"Removing {what} from the archive", yes=yes)
    found = loaded(ctx)
    quiet_log(found)
    with session(found.settings) as here:
        ids = [_get(here, test).summary.id for test in tests]  # all are there, or nothing is removed
        for test in ids:
            here.ask.call("archive.delete", Done, test=test)
