"""The demo, end to end: a finished test within 15 s, its end within 2, and nothing left."""

import json
import os
import shutil
import signal
import socket
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.kit.cli import NETLOOM, Terminal, call, documents, environment, gone, running
from tests.kit.wait import until

pytestmark = pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")


def _free(tmp_path: Path) -> dict[str, str]:
    """An environment in which the demo takes free ports, whatever runs beside this test."""
    return environment(tmp_path, broker__port=0, web__port=0) | {"TMPDIR": str(tmp_path)}


def test_the_demo_has_a_result_within_15_s_and_ends_within_2(tmp_path: Path) -> None:
    began = time.monotonic()
    taken = socket.create_server(("127.0.0.1", 5201)) if _is_free(5201) else None
    try:
        with running(tmp_path, "demo", "--no-browser", env=_free(tmp_path)) as demo:
            page = demo.wait_for("  Page").split()[1]
            assert time.monotonic() - began < 10
            url = demo.wait_for("  Broker").split()[1]
            demo.wait_for("  up ")
            assert time.monotonic() - began < 15
            assert "Port 5201 is taken; iperf3 uses " in demo.text
            here = environment(tmp_path, broker__url=url)
            (result,) = documents(call("last", "local", env=here).stdout)
            (row,) = documents(call("archive", "ls", env=here).stdout)
            assert (row["state"], row["origin"]) == ("done", "demo")
            _check(result)
            assert _status(page) == 200
            below = demo.family()
            assert len(below) == 5  # broker, controller, page, probe, iperf3
            assert demo.stop(signal.SIGINT) < 2
            assert demo.process.returncode == 0
            assert gone(below)
    finally:
        if taken is not None:
            taken.close()
    assert list(tmp_path.glob("netloom-demo-*")) == []


def _status(page: str) -> int:
    connection = HTTPConnection(urlsplit(page).netloc, timeout=5)
    connection.request("GET", "/")
    status = connection.getresponse().status
    connection.close()
    return status


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return trial.connect_ex(("127.0.0.1", port)) != 0


def _check(result: dict[str, object]) -> None:
    assert result["status"] == "done"
    assert result["errors"] == {}
    assert result["packet_number"] == 100
    text = json.dumps(result["speedtest"])
    assert text.count('"status": "success"') == 2


def test_without_iperf3_it_says_so_and_pings(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    env = _free(tmp_path) | {"PATH": str(bare)}
    with running(tmp_path, "demo", "--no-browser", "--keep", str(tmp_path / "kept"), env=env) as demo:
        demo.wait_for("  rtt ")
        assert "No speedtest: the program iperf3 is not installed.\n    Install it: apt install iperf3" in demo.text
        assert "  up " not in demo.text
        assert demo.stop() < 2
    assert (tmp_path / "kept" / "controller").is_dir()


@pytest.mark.netns
def test_without_permission_for_icmp_it_says_the_setting_and_measures_speed(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    # A new network namespace permits datagram ICMP to nobody; without capabilities there are no raw sockets.
    words = (
        "unshare",
        "-n",
        "sh",
        "-c",
        'ip link set lo up && exec setpriv --inh-caps=-all --bounding-set=-all "$@"',
        "-",
    )
    with running(tmp_path, "demo", "--no-browser", env=_free(tmp_path), words=(*words, *NETLOOM)) as demo:
        demo.wait_for("  up ")
        assert "  No ping: This user may not send ICMP: " in demo.text
        assert "sysctl -w net.ipv4.ping_group_range='0 2147483647'" in demo.text
        assert "  down  127.0.0.1:" in demo.text
        assert "error in" in demo.text
        below = demo.family()
        assert demo.stop() < 2
        assert gone(below)


def test_on_a_terminal_ctrl_c_ends_it_in_the_middle_of_the_test(tmp_path: Path) -> None:
    with Terminal("demo", "--no-browser", env={**_free(tmp_path), "NO_COLOR": "1"}) as terminal:
        terminal.wait_for("first test  ping", 20)
        began = time.monotonic()
        terminal.interrupt()
        assert terminal.wait(4) == 0
        assert time.monotonic() - began < 2
        until(lambda: _session_is_empty(terminal.process.pid), 2, "nothing is left")
    assert "Traceback" not in terminal.shown


def _session_is_empty(parent: int) -> bool:
    """Whether no process has `parent` as its parent."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and int(entry.name) != os.getpid():
                return False
    return True
