"""`netloom doctor`."""

import sys
from dataclasses import asdict
from typing import Final

import click
from pydantic_core import to_json

from netloom.cli import output
from netloom.cli.base import Command, style
from netloom.cli.checks import Finding, everything
from netloom.cli.options import client_options, data_option, loaded
from netloom.cli.session import quiet_log

_COLOURS: Final = {"ok": "green", "warn": "yellow", "FAIL": "red"}


def _line(found: Finding) -> None:
    output.line(f"{style(f'{found.level:<4}', sys.stdout, fg=_COLOURS[found.level])}  {output.clean(found.text)}")
    if found.fix:
        output.line(f"      {output.clean(found.fix)}")


@click.command(cls=Command, examples=("netloom doctor", "netloom doctor --broker mqtts://paris:secret@broker.example"))
@click.option("--json", "as_json", is_flag=True, help="One JSON document a finding.")
@client_options
@data_option
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> None:
    """Look at everything that can be missing here, and say how to mend it.

    Exit codes: 0 nothing fails, 7 a permission, a package or the data folder, 4 broker or controller.
    """
    settings = loaded(ctx)
    quiet_log(settings)
    found: list[Finding] = []
    for check in everything(settings.settings):
        for finding in check():
            found.append(finding)
            if as_json:
                output.line(to_json(asdict(finding)).decode())
            else:
                _line(finding)
    code = max((finding.code for finding in found if finding.level == "FAIL"), default=0)
    fails, warnings = (sum(finding.level == level for finding in found) for level in ("FAIL", "warn"))
    if not as_json:
        output.line(f"{fails} failed, {warnings} warning{'' if warnings == 1 else 's'}. Exit code {code}.")
    ctx.exit(code)
