"""Settings: precedence, sources, files and environment; what does not hold is told with its place."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloom import config
from netloom.config import Flag, child_environment, load
from netloom.config_model import expected, masked, paths, text_of, value_of, variable
from netloom.settings import Settings
from schemas.errors import Failure

DATA = Path(__file__).parent / "data" / "config"
MESSAGES: dict[str, dict[str, str]] = json.loads((DATA / "messages.json").read_text("utf-8"))
LEVELS = ("system", "user", "here", "env", "flag")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_bad_file_is_told_exactly(name: str) -> None:
    file = DATA / f"{name}.toml"
    with pytest.raises(Failure) as caught:
        load(config=file, environment={})
    assert caught.value.code == MESSAGES[name]["code"]
    assert caught.value.info.message == MESSAGES[name]["message"].replace("{file}", str(file))
    assert "hunter2" not in str(caught.value)


def test_every_bad_file_has_its_message() -> None:
    assert {path.stem for path in DATA.glob("*.toml")} == {*MESSAGES, "whole"}


def test_a_whole_file_sets_everything() -> None:
    loaded = load(config=DATA / "whole.toml", environment={})
    default = Settings()
    same = [path for path in paths() if value_of(loaded.settings, path) == value_of(default, path)]
    assert same == []
    text = (DATA / "whole.toml").read_text("utf-8").splitlines()
    for path in paths():
        file, _, line = loaded.sources[path].place.rpartition(":")
        assert file == str(DATA / "whole.toml")
        assert text[int(line) - 1].startswith(path.rpartition(".")[2] + " =")


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    for how in ({"config": tmp_path / "no.toml"}, {"environment": {"NETLOOM_CONFIG": str(tmp_path / "no.toml")}}):
        with pytest.raises(Failure) as caught:
            load(**{"environment": {}, **how})  # type: ignore[arg-type]
        assert caught.value.info.message.endswith("no.toml cannot be read: there is no such file.")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Failure) as caught:
        load(config=tmp_path, environment={})
    assert caught.value.info.message == f"The settings file {tmp_path} cannot be read: is a directory."


# --- precedence -----------------------------------------------------------------------------------------------------
@given(ports=st.dictionaries(st.sampled_from(LEVELS), st.integers(0, 65_535)))
def test_the_strongest_level_that_speaks_wins(ports: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        files = {
            "system": folder / "etc.toml",
            "user": folder / "x/netloom/config.toml",
            "here": folder / "netloom.toml",
        }
        patch.setattr(config, "SYSTEM_FILE", files["system"])
        (folder / "x" / "netloom").mkdir(parents=True)
        for level, path in files.items():
            if level in ports:
                path.write_text(f"[web]\nport = {ports[level]}\n")
        environment = {"XDG_CONFIG_HOME": str(folder / "x")}
        if "env" in ports:
            environment["NETLOOM_WEB__PORT"] = str(ports["env"])
        flags = {"web.port": Flag(str(ports["flag"]), "--port")} if "flag" in ports else {}
        loaded = load(flags, environment=environment, folder=folder)
    spoke = [level for level in LEVELS if level in ports]
    assert loaded.settings.web.port == (ports[spoke[-1]] if spoke else 8080)
    places = {"env": "NETLOOM_WEB__PORT", "flag": "--port"} | {level: f"{path}:2" for level, path in files.items()}
    assert loaded.sources["web.port"].place == (places[spoke[-1]] if spoke else "default")
    assert loaded.chosen("web.port") == bool(spoke)


def test_a_stronger_file_hides_only_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc.toml")
    (tmp_path / "etc.toml").write_text("[web]\nport = 1\nthreads = 17\n")
    (tmp_path / "netloom.toml").write_text("[web]\nport = 2\n")
    loaded = load(environment={"XDG_CONFIG_HOME": str(tmp_path)}, folder=tmp_path)
    assert (loaded.settings.web.port, loaded.settings.web.threads) == (2, 17)
    assert loaded.files == (tmp_path / "netloom.toml", tmp_path / "etc.toml")


def test_a_named_file_stands_alone_and_an_empty_name_means_none(tmp_path: Path) -> None:
    (tmp_path / "netloom.toml").write_text("[web]\nport = 2\n")
    (tmp_path / "mine.toml").write_text("[web]\nthreads = 17\n")
    named = load(config=tmp_path / "mine.toml", environment={}, folder=tmp_path)
    assert (named.settings.web.port, named.settings.web.threads) == (8080, 17)
    assert load(environment={"NETLOOM_CONFIG": ""}, folder=tmp_path).files == ()


# --- environment ------------------------------------------------------------------------------------------------------
def _fails(environment: dict[str, str]) -> Failure:
    with pytest.raises(Failure) as caught:
        load(environment={"NETLOOM_CONFIG": "", **environment})
    return caught.value


def test_a_variable_that_is_no_setting_suggests_one() -> None:
    failure = _fails({"NETLOOM_BROKER_URL": "mqtt://x"})
    assert failure.code == "config_key"
    assert failure.info.message.endswith("Did you mean 'NETLOOM_BROKER__URL'?")


def test_a_variable_that_does_not_hold_is_named() -> None:
    message = _fails({"NETLOOM_PROBE__LIMITS__PING_COUNT": "301"}).info.message
    assert message == (
        "NETLOOM_PROBE__LIMITS__PING_COUNT: probe.limits.ping_count: it takes a whole number from 1 to 300, not '301'"
    )


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("mqtt://paris:s3cret@broker.example\n")
    environment = {"NETLOOM_CONFIG": "", "NETLOOM_BROKER__URL_FILE": str(tmp_path / "url")}
    loaded = load(environment=environment)
    assert loaded.settings.broker_url().password == "s3cret"  # noqa: S105 - the test's own
    assert loaded.sources["broker.url"].place == "NETLOOM_BROKER__URL_FILE"
    both = _fails({**environment, "NETLOOM_BROKER__URL": "mqtt://x"})
    assert both.info.message.endswith("NETLOOM_BROKER__URL says it too; keep one of them")
    gone = _fails({"NETLOOM_BROKER__URL_FILE": str(tmp_path / "no")})
    assert gone.info.message.endswith("no cannot be read: no such file or directory")


def test_what_kubernetes_says_of_a_service_called_netloom_is_not_ours() -> None:
    environment = {
        "NETLOOM_CONFIG": "",
        "NETLOOM_PORT": "tcp://10.0.0.1:8080",
        "NETLOOM_PORT_8080_TCP_ADDR": "10.0.0.1",
        "NETLOOM_SERVICE_HOST": "10.0.0.1",
        "NETLOOM_SERVICE_PORT_WEB": "8080",
    }
    assert load(environment=environment).settings.web.port == 8080


def test_an_empty_variable_says_nothing() -> None:
    assert load(environment={"NETLOOM_CONFIG": "", "NETLOOM_WEB__PORT": ""}).settings.web.port == 8080


# --- the data folder ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"STATE_DIRECTORY": "/run/a:/run/b"}, "/run/a"),
        ({"XDG_STATE_HOME": "/home/x/state"}, "/home/x/state/netloom"),
        ({"HOME": "/home/x"}, "/home/x/.local/state/netloom"),
        ({"HOME": "/home/x", "NETLOOM_DATA": "~/data"}, str(Path("~/data").expanduser())),
    ],
)
def test_the_data_folder_of_a_user(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(config, "SYSTEM_DATA", tmp_path / "not there")
    assert str(load(environment={"NETLOOM_CONFIG": "", **environment}).settings.data) == folder


def test_the_data_folder_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert str(load(environment={"NETLOOM_CONFIG": ""}).settings.data) == "/var/lib/netloom"


# --- children, secrets, sentences -----------------------------------------------------------------------------------------
@given(
    port=st.integers(0, 65_535),
    silent=st.floats(0.3, 600),
    loopback=st.booleans(),
    hosts=st.lists(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), max_size=3),
    name=st.one_of(st.none(), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)),
)
def test_a_child_finds_exactly_its_parents_settings(
    port: int, silent: float, loopback: bool, hosts: list[str], name: str | None
) -> None:
    said: dict[str, Any] = {
        "data": "/srv/x",
        "web": {"port": port, "hosts": tuple(hosts)},
        "controller": {"silent_after_s": silent},
        "probe": {"name": name, "limits": {"allow_loopback": loopback}},
    }
    settings = Settings.model_validate(said)
    around = {
        "PATH": "/bin",
        "NETLOOM_WEB__THREADS": "99",
        "NETLOOM_BROKER__URL_FILE": "/gone",
        "STATE_DIRECTORY": "/x",
    }
    environment = child_environment(settings, around)
    assert load(environment=environment).settings == settings
    assert environment["PATH"] == "/bin"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mqtt://paris:s3cret@host:1883/", "mqtt://paris:***@host:1883/"),
        ("mqtt://paris:a@b:c@host", "mqtt://paris:***@host"),
        ("mqtt://host", "mqtt://host"),
    ],
)
def test_a_password_is_masked(text: str, shown: str) -> None:
    assert masked("broker.url", text) == shown


def test_every_setting_has_its_variable_and_its_sentence() -> None:
    assert len({variable(path) for path in paths()}) == len(paths())
    assert [path for path in paths() if not expected(path)] == []
    assert text_of(value=True) == "true"
