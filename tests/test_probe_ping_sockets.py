"""Which socket is opened, what happens without permission or options, and sources that cannot be used; on loopback only."""

import errno
import socket
from typing import Any, Literal

import pytest

from probe import icmp
from probe.icmp import Fate, IcmpSocket, Plan, ability, system_options
from probe.icmp.model import Complaint
from probe.icmp.reasons import reported
from probe.icmp.sockets import LINUX, PORTABLE, Options, open_socket
from schemas.errors import Failure
from tests.kit.ping import Quiet

LOOPBACK = Plan("127.0.0.1", count=5, interval_s=0.01, timeout_s=1)


def _permitted() -> bool:
    try:
        ability()
    except Failure:
        return False
    return True


needs_icmp = pytest.mark.skipif(not _permitted(), reason="this user may not send ICMP")


class Stub:
    """Stands for an opened socket."""


def factory(**errors: OSError | None) -> Any:
    """A socket() that fails as told for "datagram" and "raw", and notes what it was asked for."""
    asked: list[tuple[int, int, int]] = []

    def make(family: int, kind: int, protocol: int) -> Any:
        asked.append((family, kind, protocol))
        error = errors["datagram" if kind == socket.SOCK_DGRAM else "raw"]
        if error is not None:
            raise error
        return Stub()

    make.asked = asked  # type: ignore[attr-defined]  # a spy is a function with a memory
    return make


DENIED = PermissionError(errno.EACCES, "Permission denied")


def test_a_datagram_socket_comes_first() -> None:
    make = factory(datagram=None, raw=None)
    assert open_socket(4, make).kind == "datagram"
    assert make.asked == [(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)]


def test_a_raw_socket_comes_second() -> None:
    make = factory(datagram=DENIED, raw=None)
    assert open_socket(6, make).kind == "raw"
    assert make.asked[-1] == (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)


def test_without_permission_the_error_names_the_setting() -> None:
    with pytest.raises(Failure) as failure:
        open_socket(4, factory(datagram=DENIED, raw=PermissionError(errno.EPERM, "Operation not permitted")))
    assert failure.value.code == "icmp_not_permitted"
    assert "sysctl -w net.ipv4.ping_group_range='0 2147483647'" in failure.value.info.hint


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EAFNOSUPPORT, "this system has no IPv6"), (errno.EMFILE, "Too many open files; Too many open files")],
)
def test_any_other_refusal_says_what_it_is(number: int, reason: str) -> None:
    problem = OSError(number, "Too many open files")
    with pytest.raises(Failure) as failure:
        open_socket(6, factory(datagram=problem, raw=problem))
    assert failure.value.code == "measurement_failed"
    assert reason in failure.value.info.message


def test_options_are_those_of_the_system() -> None:
    assert system_options("linux") == LINUX
    assert system_options("darwin") == system_options("win32") == PORTABLE


@needs_icmp
@pytest.mark.parametrize(
    ("options", "stamps"),
    [
        (PORTABLE, "user"),
        (Options(timestamp=0x7FFF), "user"),  # an option this kernel refuses
        (LINUX, "kernel"),
    ],
    ids=["taken away", "refused", "Linux"],
)
def test_the_engine_works_without_the_options_and_says_so(options: Options, stamps: str) -> None:
    if options is LINUX and system_options() != LINUX:
        pytest.skip("kernel stamps are Linux's")
    report = icmp.ping(LOOPBACK, Quiet(), options)
    assert [packet.fate for packet in report.packets] == [Fate.ANSWERED] * 5
    assert report.stamps == stamps
    assert ability(options).stamps == stamps


@needs_icmp
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("192.0.2.99", "it is not an address of this probe"),
        ("::1", "it is not an IPv4 address"),
        ("nosuch0", "this probe has no such interface"),
    ],
)
def test_a_source_that_cannot_be_used(source: str, reason: str) -> None:
    with pytest.raises(Failure) as failure:
        IcmpSocket(Plan("127.0.0.1", count=1, interval_s=1, timeout_s=1, source=source), LINUX)
    assert failure.value.code == "source_unavailable"
    assert source in failure.value.info.message
    assert reason in failure.value.info.message


@needs_icmp
def test_an_interface_as_source_where_the_system_has_no_such_thing() -> None:
    with pytest.raises(Failure, match="binds to addresses only"):
        IcmpSocket(Plan("127.0.0.1", count=1, interval_s=1, timeout_s=1, source="lo"), PORTABLE)


@needs_icmp
def test_an_address_as_source() -> None:
    with IcmpSocket(Plan("127.0.0.1", count=1, interval_s=1, timeout_s=1, source="127.0.0.9"), LINUX) as channel:
        assert channel.ident > 0


@pytest.mark.parametrize(
    ("family", "kind", "code", "wanted"),
    [
        (4, 3, 0, "host_unreachable"),
        (4, 3, 1, "host_unreachable"),
        (4, 3, 4, "message_too_big"),
        (4, 3, 9, "admin_prohibited"),
        (4, 3, 10, "admin_prohibited"),
        (4, 3, 13, "admin_prohibited"),
        (4, 11, 0, "ttl_exceeded"),
        (4, 5, 0, None),
        (6, 1, 0, "host_unreachable"),
        (6, 1, 1, "admin_prohibited"),
        (6, 1, 3, "host_unreachable"),
        (6, 1, 6, "admin_prohibited"),
        (6, 2, 0, "message_too_big"),
        (6, 3, 0, "ttl_exceeded"),
        (6, 4, 0, None),
    ],
)
def test_what_icmp_errors_mean(family: Literal[4, 6], kind: int, code: int, wanted: str | None) -> None:
    reason = reported(family, Complaint(b"", kind, code, "192.0.2.254"))
    assert (None if reason is None else (reason.code, reason.router)) == (wanted and (wanted, "192.0.2.254"))
