"""Name resolution: literals pass, failures are typed, a dead name server costs its time-out and no more."""

import socket
import threading
import time
from typing import Any

import pytest

from probe.resolve import resolve
from schemas.errors import Failure


def answering(*addresses: str) -> Any:
    asked: list[tuple[Any, ...]] = []

    def lookup(*arguments: Any) -> list[tuple[Any, ...]]:
        asked.append(arguments)
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    lookup.asked = asked  # type: ignore[attr-defined]  # a spy is a function with a memory
    return lookup


def failing(error: Exception) -> Any:
    def lookup(*_: Any) -> list[tuple[Any, ...]]:
        raise error

    return lookup


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", 4, "192.0.2.7"),
        ("2001:DB8:0::1", 6, "2001:db8::1"),
        ("::ffff:192.0.2.7", None, "192.0.2.7"),
        ("::ffff:192.0.2.7", 4, "192.0.2.7"),
    ],
)
def test_a_literal_passes_without_being_asked_for(host: str, family: int | None, address: str) -> None:
    lookup = answering("198.51.100.1")
    assert resolve(host, family, lookup=lookup) == address
    assert lookup.asked == []


@pytest.mark.parametrize(("host", "family"), [("192.0.2.7", 6), ("2001:db8::1", 4), ("::ffff:192.0.2.7", 6)])
def test_a_literal_of_the_other_family_is_refused(host: str, family: int) -> None:
    with pytest.raises(Failure) as failure:
        resolve(host, family, lookup=answering())
    assert failure.value.code == "dns_failed"
    assert f"not an IPv{family} address" in failure.value.info.message


@pytest.mark.parametrize(("family", "wanted"), [(None, socket.AF_UNSPEC), (4, socket.AF_INET), (6, socket.AF_INET6)])
def test_the_first_answer_of_the_wanted_family_is_taken(family: int | None, wanted: socket.AddressFamily) -> None:
    lookup = answering("192.0.2.8", "192.0.2.9")
    assert resolve("lab.example", family, lookup=lookup) == "192.0.2.8"
    assert lookup.asked == [("lab.example", None, wanted, socket.SOCK_DGRAM)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label too long"), "it is not a valid name"),
        (OSError(24, "Too many open files"), "Too many open files"),
    ],
)
def test_a_failed_lookup_names_host_and_reason(error: Exception, reason: str) -> None:
    with pytest.raises(Failure) as failure:
        resolve("lab.example", lookup=failing(error))
    assert failure.value.code == "dns_failed"
    assert failure.value.info.message == f"The probe could not resolve 'lab.example': {reason}."


def test_an_answer_without_an_address_is_a_failure() -> None:
    with pytest.raises(Failure, match="holds no address"):
        resolve("lab.example", lookup=answering("nonsense"))


def test_a_dead_name_server_costs_the_time_out_and_no_more() -> None:
    release = threading.Event()

    def lookup(*_: Any) -> list[tuple[Any, ...]]:
        release.wait(10)
        return []

    start = time.monotonic()
    with pytest.raises(Failure) as failure:
        resolve("lab.example", timeout_s=0.2, lookup=lookup)
    took_s = time.monotonic() - start
    release.set()
    assert failure.value.code == "dns_timeout"
    assert "0.2 s" in failure.value.info.message
    assert 0.2 <= took_s < 1.0


def test_the_system_resolver_knows_this_machine() -> None:
    assert resolve("localhost", 4) == "127.0.0.1"
