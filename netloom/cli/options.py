"""Settings as options: each shows its environment variable and its default, and knows which setting it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from netloom import config
from netloom.cli.base import usage
from netloom.config_model import default_of, variable

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

_FLAGS: Final = "netloom.flags"
_CONFIG: Final = "netloom.config"


def setting(path: str, *names: str, text: str, metavar: str = "TEXT", default: str = "") -> Decorator[Any]:
    """Return an option that sets `path`; `default` is shown where the model has none."""

    def keep(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta.setdefault(_FLAGS, {})[path] = config.Flag(value, parameter.opts[-1])

    shown = default_of(path) or default
    notes = f"env: {variable(path)}" + (f"; default: {shown}" if shown else "")
    return click.option(
        *names, path.replace(".", "_"), metavar=metavar, expose_value=False, callback=keep, help=f"{text}  [{notes}]"
    )


def _config_option(command: F) -> F:
    def keep(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[_CONFIG] = Path(value)

    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        expose_value=False,
        callback=keep,
        help=f"Settings file.  [env: {config.CONFIG_VARIABLE}; default: ./netloom.toml, ~/.config/netloom/config.toml, "
        "/etc/netloom/config.toml]",
    )(command)


def logging_options(command: F) -> F:
    """Add the options every command has: settings file and log."""
    level = setting("log_level", "--log-level", text="debug, info, warning or error.", metavar="LEVEL")
    form = setting("log_format", "--log-format", text="auto, text or json.", metavar="FORMAT")
    decorated: F = _config_option(level(form(command)))
    return decorated


def data_option(command: F) -> F:
    """Add the data folder."""
    default = "/var/lib/netloom as root, else ~/.local/state/netloom"
    decorated: F = setting("data", "--data", text="Data folder.", metavar="FOLDER", default=default)(command)
    return decorated


def broker_option(command: F) -> F:
    """Add the broker's address."""
    decorated: F = setting(
        "broker.url",
        "--broker",
        text="Broker: mqtt://user:password@host:1883 or mqtts://host.",
        metavar="URL",
        default="mqtt://127.0.0.1:1883",
    )(command)
    return decorated


def client_options(command: F) -> F:
    """Add the options of a command that talks to a broker."""
    return broker_option(logging_options(command))


def loaded(ctx: click.Context) -> config.Loaded:
    """Return the settings in force for this command. Raise Told for an option that does not hold, Failure for the rest."""
    try:
        return config.load(ctx.meta.get(_FLAGS), config=ctx.meta.get(_CONFIG))
    except config.ConfigError as exc:
        if exc.source.kind != "flag":
            raise
        sentence = exc.info.message.replace(f"{exc.field}: ", "", 1)  # the option says which setting it is
        raise usage(sentence, f"See `{ctx.command_path} -h`.") from None
