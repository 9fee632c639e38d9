"""A probe's own limits: what it grants, and which addresses it leaves alone."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netloom.settings import ProbeLimits
from probe.limits import check_address, check_command
from schemas.command import PingSpec, RunCommand, SpeedtestSpec
from schemas.errors import Failure
from tests.netlab import needs_lab

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("240.0.0.1", "reserved"),
    ],
)
def test_these_addresses_are_denied_by_name_of_the_rule(address: str, rule: str) -> None:
    with pytest.raises(Failure) as caught:
        check_address("some.example", address, ProbeLimits())
    assert caught.value.code == "target_denied"
    assert rule in caught.value.info.message
    assert "some.example" in caught.value.info.message


@pytest.mark.parametrize("address", ["192.0.2.7", "10.0.0.7", "192.168.1.1", "2001:db8::1", "fd12::1"])
def test_other_addresses_are_granted(address: str) -> None:
    check_address(address, address, ProbeLimits())


def test_only_loopback_can_be_allowed() -> None:
    allowed = ProbeLimits(allow_loopback=True)
    check_address("localhost", "127.0.0.1", allowed)
    check_address("localhost", "::1", allowed)
    with pytest.raises(Failure):
        check_address("x", "169.254.1.1", allowed)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace with 192.0.2.1/24, whose broadcast address is 192.0.2.255."""
    name = f"limits-{secrets.token_hex(3)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            "link add dummy0 type veth peer name dummy1",
            "addr add 192.0.2.1/24 broadcast 192.0.2.255 dev dummy0",
            "link set dummy0 up",
            "link set dummy1 up",
            "route add prohibit 192.0.3.0/24",
        ):
            subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@needs_lab
@pytest.mark.netns
def test_the_broadcast_address_of_a_network_of_its_own_is_denied(namespace: str) -> None:
    program = (
        "from netloom.settings import ProbeLimits\n"
        "from probe.limits import check_address\n"
        "from schemas.errors import Failure\n"
        "for address in ('192.0.2.7', '192.0.2.255', '192.0.3.7'):\n"
        "    try:\n"
        "        check_address(address, address, ProbeLimits())\n"
        "        print('granted')\n"
        "    except Failure as exc:\n"
        "        print('broadcast' if 'broadcast' in exc.info.message else exc.code)\n"
    )
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["granted", "broadcast", "granted"], "a route that prohibits is another matter"


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (RunCommand(ping=PingSpec(target="a.example", count=11)), "ping.count"),
        (RunCommand(ping=PingSpec(target="a.example", count=5, timeout_s=2.5)), "ping.timeout_s"),
        (RunCommand(ping=PingSpec(target="a.example", count=5, timeout_s=1.0, interval_ms=40)), "ping.interval_ms"),
        (RunCommand(speedtest=SpeedtestSpec(target="a.example", duration_s=6)), "speedtest.duration_s"),
        (RunCommand(speedtest=SpeedtestSpec(target="a.example", duration_s=5, streams=3)), "speedtest.streams"),
    ],
)
def test_narrower_limits_are_kept_and_named(command: RunCommand, field: str) -> None:
    narrow = ProbeLimits(
        ping_count=10, ping_timeout_s=2, ping_interval_min_ms=50, speedtest_duration_s=5, speedtest_streams=2
    )
    with pytest.raises(Failure) as caught:
        check_command(command, narrow)
    assert (caught.value.code, caught.value.field) == ("limit_exceeded", field)
    check_command(command, ProbeLimits())
