"""Help, suggestions, and what the command line loads before it has to."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from netloom.cli import main
from netloom.cli.base import Group
from netloom.cli.root import COMMANDS, root
from netloom.config_model import default_of, paths, variable
from tests.kit.cli import call, environment

HEAVY = ("flask", "waitress", "sqlalchemy", "tinydb", "amqtt", "pydantic", "paho")
NOT_FOR_A_PROBE = ("flask", "waitress", "sqlalchemy", "tinydb", "amqtt")


def _commands(group: Group, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*before, name), found
        if isinstance(found, Group):
            yield from _commands(found, (*before, name))


assert isinstance(root, Group)
ALL = dict(_commands(root))


def test_all_commands_are_there() -> None:
    leaves = {" ".join(path) for path, command in ALL.items() if not isinstance(command, Group)}
    assert leaves == {
        *(
            "demo",
            "serve",
            "broker",
            "controller",
            "web",
            "probe",
            "test",
            "probes",
            "last",
            "watch",
            "doctor",
            "version",
        ),
        *("target ls", "target add", "target update", "target rm"),
        *("archive ls", "archive show", "archive comment", "archive rm"),
        *("config show", "config path"),
    }


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_help_begins_with_two_examples(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*path, "-h"]) == 0
    text = capsys.readouterr().out
    head, _, rest = text.partition("Usage: ")
    assert head.startswith("Examples:\n")
    examples = head.splitlines()[1:3]
    assert all(" ".join(("netloom", *path)) in line for line in examples)
    assert rest.startswith(" ".join(("netloom", *path)))


@pytest.mark.parametrize(
    "path", [path for path, command in ALL.items() if not isinstance(command, Group)], ids=" ".join
)
def test_every_option_says_its_default_and_every_setting_its_variable(path: tuple[str, ...]) -> None:
    names = {name.replace(".", "_"): name for name in paths()}
    for parameter in ALL[path].params:
        if not isinstance(parameter, click.Option) or parameter.name == "help":
            continue
        assert parameter.help, parameter.name
        if not parameter.expose_value and parameter.name in names:
            setting = names[parameter.name]
            assert f"env: {variable(setting)}" in parameter.help
            assert default_of(setting) in parameter.help


def test_the_examples_are_understood() -> None:
    for path, command in ALL.items():
        for example in getattr(command, "examples", ()):
            words = re.split(r" \| ", example.partition("netloom ")[2])[0]
            assert words.startswith(" ".join(path)), example
            options = set(re.findall(r" (--[a-z-]+)", words))
            known = {
                name
                for found in (command, *_below(path))
                for one in found.params
                for name in (*one.opts, *one.secondary_opts)
            }
            assert options <= known, example


def _below(path: tuple[str, ...]) -> list[click.Command]:
    return [command for other, command in ALL.items() if other[: len(path)] == path]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("prob",), "Did you mean `netloom probe`?"),
        (("archiv",), "Did you mean `netloom archive`?"),
        (("target", "update-it"), "Did you mean `netloom target update`?"),
        (("xyzzy",), "See `netloom -h`."),
        (("serve", "--brokr", "x"), "--broker"),
        (("archive", "show"), "Missing argument 'TEST'"),
        (("web", "--port", "99999"), "--port: it takes a whole number from 0 to 65535, not '99999'"),
        (("web", "--log-level", "loud"), "--log-level: it takes one of debug, info, warning or error, not 'loud'"),
        (("probe", "--name", "no name"), "--name: it takes 1 to 64 letters, digits, - and _, not 'no name'"),
        (("probe",), "Say it with --name, NETLOOM_PROBE__NAME or probe.name in a settings file."),
        (("probes", "--broker", "http://x"), "--broker: a broker is written as mqtt://host"),
        (("watch", "-n", "0"), "0 is not in the range x>=1"),
        (("watch", "a/b"), "PROBE: 'a/b' is not a probe's name"),
    ],
)
def test_what_is_not_understood_is_answered_with_what_might_be(
    arguments: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETLOOM_CONFIG", "")
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert hint.replace("'", "") in captured.err.replace("'", "")
    assert captured.err.endswith("  Exit code 2.\n")


def test_settings_that_do_not_hold_are_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[brokr]\n")
    for command in ("serve", "probe", "probes", "doctor"):
        done = call(command, "--config", str(tmp_path / "bad.toml"), env=environment(tmp_path))
        assert done.returncode == 3
        assert done.stderr == (
            f"error: {tmp_path / 'bad.toml'}:1: unknown setting 'brokr'. Did you mean 'broker'?\n"
            "  `netloom config show` lists the settings.\n  Exit code 3.\n"
        )


# --- what is loaded -------------------------------------------------------------------------------------------------------
def _loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["prob"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"import contextlib, io\nfrom netloom.cli import main\nwith contextlib.redirect_stderr(io.StringIO()): main({arguments})"
    assert _loaded(code) & set(HEAVY) == set()


def test_the_probe_command_stays_light() -> None:
    code = (
        "import netloom.cli.commands.probe\nfrom netloom.cli.role import entry_point\n"
        "entry_point('probe.service', 'probe', 'server')"
    )
    loaded = _loaded(code)
    assert loaded & set(NOT_FOR_A_PROBE) == set()
    assert "probe" in loaded


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_loads_a_role_before_it_runs(name: str) -> None:
    assert (
        _loaded(f"import {COMMANDS[name][0]}") & {*NOT_FOR_A_PROBE, "web", "controller", "iperf3", "pythonping"}
        == set()
    )


def test_a_role_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "flask.py").write_text("raise ModuleNotFoundError(\"No module named 'flask'\", name='flask')\n")
    env = environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    done = call("web", env=env)
    assert done.returncode == 7
    assert "error: 'netloom web' needs more packages: No module named 'flask'." in done.stderr
    assert "Install them: `pip install 'netloom[web]'`." in done.stderr


# --- config, version ------------------------------------------------------------------------------------------------------
def test_config_show_masks_secrets_and_names_sources(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[controller]\narchive = "postgresql://netloom:s3cret@db.example/x"\n')
    env = environment(tmp_path, broker__url="mqtt://me:s3cret@broker.example", web__port=8081)
    done = call("config", "show", "--config", str(tmp_path / "my.toml"), "--log-level", "debug", env=env)
    assert done.returncode == 0
    assert "s3cret" not in done.stdout + done.stderr
    shown = {line.split()[0]: re.split(r" {2,}", line)[1:] for line in done.stdout.splitlines()[1:]}
    assert set(shown) == set(paths())
    assert shown["broker.url"] == ["mqtt://me:***@broker.example", "NETLOOM_BROKER__URL"]
    assert shown["controller.archive"] == ["postgresql://netloom:***@db.example/x", f"{tmp_path / 'my.toml'}:2"]
    assert shown["web.port"] == ["8081", "NETLOOM_WEB__PORT"]
    assert shown["log_level"] == ["debug", "--log-level"]
    assert shown["web.threads"] == ["64", "default"]


def test_config_path(tmp_path: Path) -> None:
    env = environment(tmp_path)
    none = call("config", "path", env=env)
    assert (none.returncode, none.stdout, "No settings file is in use" in none.stderr) == (0, "", True)
    (tmp_path / "my.toml").touch()
    assert call("config", "path", "--config", str(tmp_path / "my.toml"), env=env).stdout == f"{tmp_path / 'my.toml'}\n"


def test_version(tmp_path: Path) -> None:
    env = environment(tmp_path)
    assert call("version", env=env).stdout == call("--version", env=env).stdout == "netloom 0.1.0\n"
    assert '"protocol": 1' in call("version", "--json", env=env).stdout
