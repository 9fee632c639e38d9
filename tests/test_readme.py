"""Every command of the README runs, word for word, in a network namespace of its own where the usual ports are free."""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.wait import until

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("     #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]

NOT_RUN = {
    "./scripts/demo": "its set-up installs packages; CI's own set-up is the same script, and `netloom demo` runs here",
    "./scripts/test": "it is what runs this test",
    "netloom serve --broker mqtts://netloom:secret@mosquitto.example:8883": "mosquitto.example stands for a broker of yours",
    "netloom probe --name paris --broker mqtts://paris:secret@mosquitto.example:8883": "as above",
}
BESIDE_A_SERVER = ("netloom serve", "netloom probe --name paris")
BESIDE_THE_DEMO = [line for line in COMMANDS if line not in NOT_RUN and line not in BESIDE_A_SERVER]

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
    pytest.mark.skipif(shutil.which("iperf3") is None, reason="needs iperf3"),
]


@dataclass
class Place:
    """A network namespace and a home of its own."""

    namespace: str
    home: Path

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command line there, in a session of its own."""
        bin_folder = Path(sys.executable).parent
        environment = {
            **os.environ,
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "NETLOOM_DATA": str(self.home / "data"),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
        }
        return subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.namespace,
                "bash",
                "-c",
                f"exec {command}" if "source" not in command else command,
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """Run a command line to its end and return what it printed; it must end well."""
        process = self.start(command)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"{command}: {text}"
        return text


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    namespace = f"readme-{secrets.token_hex(3)}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run(["ip", "-n", namespace, "link", "set", "lo", "up"], check=True)
        yield Place(namespace, tmp_path_factory.mktemp("home"))
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


@contextlib.contextmanager
def _demo(place: Place) -> Iterator[None]:
    process = place.start("netloom demo --no-browser")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r"\s+up\s", line):
                break
        else:
            raise AssertionError("the demo ended before its first result")
        yield
    finally:
        _end(process)


def test_no_command_is_forgotten() -> None:
    assert len(COMMANDS) >= 12
    assert set(NOT_RUN) <= set(COMMANDS), "a reason for a command that is not there"
    assert all(line.startswith(("netloom ", "mosquitto_", "source ")) for line in BESIDE_THE_DEMO)


def test_commands_beside_the_demo(place: Place) -> None:
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("mosquitto_pub is not installed")
    with _demo(place):
        said = {command: place.run(command) for command in BESIDE_THE_DEMO}
        until(lambda: len(place.run("netloom archive ls").splitlines()) == 4, 15, "all four tests are archived")
    assert "demo" in said["netloom --help"]
    ping = json.loads(said["netloom test local 127.0.0.1 -c 20 --json"])
    assert (ping["status"], ping["packet_number"]) == ("done", 20)
    both = json.loads(said["netloom test local 127.0.0.1 --down --up --duration 3"])
    assert both["speedtest"]["download"]["result"]["avg"] > 1e6
    assert json.loads(said["netloom last local"])["probe_name"] == "local"
    (subscribed,) = [text for command, text in said.items() if command.startswith("mosquitto_sub")]
    assert json.loads(subscribed)["type"] == "result"


def test_a_server_and_a_probe_beside_it(place: Place) -> None:
    server = place.start(BESIDE_A_SERVER[0])
    probe = place.start(BESIDE_A_SERVER[1])
    try:
        # The first tries may come before the broker listens.
        until(lambda: '"paris"' in place.start("netloom probes").communicate(timeout=20)[0], 20, "the probe is online")
    finally:
        begin = time.monotonic()
        for process in (probe, server):
            process.send_signal(signal.SIGTERM)
        for process in (probe, server):
            process.communicate(timeout=10)
    assert time.monotonic() - begin < 4, "two processes, at most 2 s each"
    assert (probe.returncode, server.returncode) == (0, 0)
