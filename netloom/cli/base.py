"""Groups and commands of the command line. Imports click alone, so that `netloom --help` is quick."""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

import click

EXAMPLES: Final = "examples"


def coloured(stream: IO[str]) -> bool:
    """Tell whether `stream` may be coloured (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, stream: IO[str], **how: Any) -> str:
    """Return `text` in a style, or plain where there are no colours."""
    return click.style(text, **how) if coloured(stream) else text


class Told(click.ClickException):
    """An error as a person reads it: each sentence on its line, what to do next, the exit code."""

    def __init__(self, sentences: Sequence[str], hint: str, code: int) -> None:
        super().__init__(sentences[0])
        self.sentences, self.hint = sentences, hint
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance, too

    def show(self, file: IO[Any] | None = None) -> None:
        """Write it to standard error."""
        out = file or sys.stderr
        for sentence in self.sentences:
            click.echo(f"{style('error:', out, fg='red', bold=True)} {sentence}", file=out)
        if self.hint:
            click.echo(f"  {self.hint}", file=out)
        click.echo(f"  Exit code {self.exit_code}.", file=out)


def usage(sentence: str, hint: str = "", *more: str) -> Told:
    """Return the error of a command line that does not hold."""
    return Told((sentence, *more), hint, 2)


class _Helped(click.Command):
    """A command whose help begins with examples."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        self.examples: Sequence[str] = attributes.pop(EXAMPLES, ())
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"], "max_content_width": 110})
        super().__init__(*args, **attributes)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the usage."""
        if self.examples:
            formatter.write("Examples:\n")
            for example in self.examples:
                formatter.write(f"  {example}\n")
            formatter.write("\n")
        super().format_usage(ctx, formatter)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; what does not hold is told as every other error is."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as exc:
            path = exc.ctx.command_path if exc.ctx else info_name or "netloom"
            raise usage(exc.format_message(), f"See `{path} -h`.") from None


class Command(_Helped):
    """A command. A Failure of the catalogue that it raises becomes the error a person reads."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        from schemas.errors import Failure  # noqa: PLC0415 - keeps pydantic out of `netloom --help`

        try:
            return super().invoke(ctx)
        except Failure as exc:
            raise told(exc, ctx) from None


def told(exc: Any, ctx: click.Context | None = None) -> Told:
    """Return a Failure as a person reads it; fields at fault are named by their options."""
    from schemas.errors import CATALOGUE  # noqa: PLC0415 - as in Command

    entry = CATALOGUE.get(exc.info.code)
    code = entry.exit_code if entry else 4  # an error of a newer controller
    fields: Mapping[str, str] = getattr(exc, "fields", {})
    if not fields or exc.info.code != "bad_message":  # any other error says itself what it is about
        return Told((exc.info.message,), exc.info.hint, code)
    names = _option_names(ctx) if ctx else {}
    lines = [f"{names.get(field, field)}: {reason}" if field else reason for field, reason in fields.items()]
    lines = list(dict.fromkeys(lines))  # two parts of a test may stand for one argument
    return Told(lines, f"See `{ctx.command_path} -h`." if ctx else exc.info.hint, code)


def _option_names(ctx: click.Context) -> dict[str, str]:
    """Return the option or argument that stands for each field of a message: {"ping.count": "--count"}."""
    by_field: Mapping[str, str] = ctx.meta.get(FIELDS, {})
    said = {
        parameter.name or "": parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.make_metavar(ctx)
        for parameter in ctx.command.params
    }
    return {field: said[name] for field, name in by_field.items() if name in said}


FIELDS: Final = "netloom.fields"
"""Key of `ctx.meta`: the parameter that stands for each field of the message a command sends."""


class Group(_Helped, click.Group):
    """A group that knows its commands by name and one line of help, and loads one when it is called.

    `lazy` holds, by name, the module that has the command as `command`, and the line.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **attributes: Any) -> None:
        attributes.setdefault("no_args_is_help", True)
        super().__init__(*args, **attributes)
        self.lazy = lazy or {}
        self.command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, lazy ones in their order."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, loading it."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        found: click.Command = importlib.import_module(self.lazy[cmd_name][0]).command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command to call. One that there is not is answered with the nearest there is."""
        name = args[0]
        names = self.list_commands(ctx)
        if name not in names and not name.startswith("-"):
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"Did you mean `{ctx.command_path} {near[0]}`?" if near else f"See `{ctx.command_path} -h`."
            raise usage(f"There is no command '{name}'.", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without loading the lazy ones."""
        rows = [(name, line) for name, (_, line) in self.lazy.items()]
        for name in super().list_commands(ctx):
            found = super().get_command(ctx, name)
            rows.append((name, found.get_short_help_str(80) if found else ""))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
