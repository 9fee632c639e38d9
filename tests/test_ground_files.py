"""Files are replaced wholly or not at all, damaged ones are set aside, and a folder has one owner."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloom.files import folder_lock, read_text, set_aside, write_atomic
from netloom.ids import instance, new_id
from netloom.url import BrokerUrl
from schemas.errors import Failure

ROOT = Path(__file__).resolve().parents[1]

WRITER = """
import sys
from pathlib import Path
from netloom.files import write_atomic
path, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    number += 1
    write_atomic(path, (str(number) * 5000).encode())
"""

OWNER = """
import sys
from pathlib import Path
from netloom.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def _child(script: str, path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def _kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(8):
        child = _child(WRITER, path)
        while not path.exists():
            pass
        _kill(child)
        text = path.read_text()
        number = text[: len(text) // 5000]
        assert text == number * 5000


def test_a_write_that_fails_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_files_are_private_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    write_atomic(path, b"x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_text(path) == "x"
    assert read_text(tmp_path / "absent") is None


def test_damaged_files_are_set_aside_and_never_overwritten(tmp_path: Path) -> None:
    kept = []
    for number in range(3):
        path = tmp_path / "file"
        path.write_text(str(number))
        kept.append(set_aside(path))
    assert [path.read_text() for path in kept] == ["0", "1", "2"]
    assert len(set(kept)) == 3


def test_a_folder_has_one_owner_who_is_named(tmp_path: Path) -> None:
    child = _child(OWNER, tmp_path)
    with pytest.raises(Failure) as caught, folder_lock(tmp_path):
        pass
    assert caught.value.code == "store_locked"
    assert str(child.pid) in caught.value.info.message
    _kill(child)
    with folder_lock(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_an_instance_is_made_once(tmp_path: Path) -> None:
    made = instance(tmp_path)
    assert instance(tmp_path) == made
    assert instance(tmp_path / "other") != made


def test_ids_are_uuid7_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {uuid.UUID(i).version for i in ids} == {7}
    assert {uuid.UUID(i).variant for i in ids} == {uuid.RFC_4122}
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


def test_a_broker_address_in_parts() -> None:
    url = BrokerUrl.parse("mqtts://us%40er:p%2Fw@hub.example/site-a/floor/?ca=/etc/ca.pem")
    assert (url.host, url.port, url.tls, url.user, url.password) == ("hub.example", 8883, True, "us@er", "p/w")
    assert (url.prefix, url.ca) == ("site-a/floor/", "/etc/ca.pem")
    assert "p/w" not in repr(url)
    assert str(url) == "mqtts://hub.example:8883/site-a/floor"
    assert str(BrokerUrl.parse("mqtt://[::1]:1884")) == "mqtt://[::1]:1884"
    assert BrokerUrl.parse("mqtt://localhost").port == 1883


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a broker is written as"),
        ("localhost:1883", "a broker is written as"),
        ("http://localhost", "a broker is written as"),
        ("mqtt://", "a broker is written as"),
        ("mqtt://host:99999", "a whole number from 1 to 65535"),
        ("mqtt://host:x", "a whole number from 1 to 65535"),
        ("mqtt://host/site-a", "a topic prefix"),
        ("mqtt://host/+/", "a topic prefix"),
        ("mqtt://host/?tls=no", "not an option"),
    ],
)
def test_a_broker_address_that_is_none_says_so(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BrokerUrl.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_sentence(text: str) -> None:
    try:
        url = BrokerUrl.parse(text)
    except ValueError as exc:
        assert str(exc)  # noqa: PT017 - both outcomes are right, and each is checked
    else:
        assert url.host
