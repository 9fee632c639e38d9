"""The command line: `netloom`, on click. Each command is one small file of `netloom.cli.commands`, loaded when it is called.

base      groups and commands: lazy, with examples first, with suggestions      options     settings as options
output    text for a terminal, JSON lines for a pipe                           figures     a result in a few lines
session   a connection to broker and controller                                follow      start a test and follow it to its end
bar       the live bar                                                         conditions  --fail-on
role      a role as a process                                                  supervisor  roles as children of one process

Data goes to standard output, everything else to standard error. Exit codes: 0 well, 1 `--fail-on` met, 2 usage, and those of the
error catalogue (`schemas.errors`): 3 settings, 4 broker or controller, 5 probe, 6 target, 7 permission or package, 130 Ctrl-C.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from netloom.cli.root import root  # noqa: PLC0415 - what a broken installation lacks is then an error of this call

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream of a test's own
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that lacks a character shows "?"
    try:
        with root.make_context("netloom", list(sys.argv[1:] if arguments is None else arguments)) as context:
            root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return _flushed(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()
    return 0


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_gone()
    return code


def _reader_gone() -> int:
    """End quietly: whoever read has had enough (`| head`). Python would complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
