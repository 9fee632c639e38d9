"""The commands that ask: against a real server and a real probe, in a pipe and on a terminal."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import iperf
from tests.kit.brokers import BrokerProcess, free_port
from tests.kit.cli import NETLOOM, Server, Terminal, call, documents, environment, server
from tests.kit.wait import until

TARGET = "127.0.0.1"
LONG = ("--timeout", "10", "--interval-ms", "1000", "-c", "30")


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("fabric")) as found:
        yield found


def _number(fabric: Server, *options: str) -> int:
    """Run a short test and return its number."""
    done = call("test", "paris", TARGET, "-c", "2", "--interval-ms", "10", *options, env=fabric.env)
    assert done.returncode == 0, done.stderr
    return int(documents(done.stdout)[0]["number"])


def _state(fabric: Server, number: int) -> str:
    (record,) = documents(call("archive", "show", str(number), env=fabric.env).stdout)
    return str(record["summary"]["state"])


# --- test ---------------------------------------------------------------------------------------------------------------
def test_a_pipe_gets_one_document_and_nothing_else(fabric: Server) -> None:
    done = call("test", "paris", TARGET, "-c", "20", "--comment", "from here", env=fabric.env)
    (result,) = documents(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (result["status"], result["packet_number"], result["origin"], result["comment"]) == (
        "done",
        20,
        "cli",
        "from here",
    )
    (record,) = documents(call("archive", "show", str(result["number"]), env=fabric.env).stdout)
    assert record["result"] == result  # it is stored when the command ends


def test_a_terminal_gets_a_live_bar_and_the_figures(fabric: Server) -> None:
    with Terminal("test", "paris", TARGET, "-c", "60", env={**fabric.env, "NO_COLOR": "1"}) as terminal:
        code = terminal.wait()
    assert code == 0
    assert re.search(r"paris → 127\.0\.0\.1  ping +█+░+ +\d+ %  \d+/60  [\d.]+ ms  loss 0 %", terminal.shown)
    assert "loss 0/60 (0 %)   MOS 4." in terminal.shown
    assert re.search(r"saved as #\d+\r\n$", terminal.shown)
    assert "\x1b[3" not in terminal.shown  # NO_COLOR


def test_speed_both_ways(fabric: Server) -> None:
    with iperf.server() as target:
        options = ("--down", "--up", "--no-ping", "--port", str(target.port), "--duration", "1", "--streams", "2")
        done = call("test", "paris", TARGET, *options, env=fabric.env)
    (result,) = documents(done.stdout)
    assert done.returncode == 0
    assert result["ping"] is None
    assert result["speedtest"]["download"]["result"]["avg"] > 1e6
    assert result["speedtest"]["upload"]["result"]["avg"] > 1e6
    assert result["speedtest_option"]["streams"] == 2


def test_ctrl_c_cancels_on_the_probe_too(fabric: Server) -> None:
    with Terminal("test", "paris", TARGET, *LONG, env=fabric.env) as terminal:
        terminal.wait_for("/30")
        terminal.interrupt()
        assert terminal.wait() == 130
    assert "cancelled in" in terminal.shown  # what was measured until then is told
    number = re.search(r"#(\d+)", terminal.shown)
    assert number is not None
    assert _state(fabric, int(number[1])) == "cancelled"


def test_sigterm_cancels_in_a_pipe(fabric: Server) -> None:
    with subprocess.Popen(
        [*NETLOOM, "test", "paris", TARGET, *LONG], env=fabric.env, stdout=subprocess.PIPE
    ) as process:
        until(lambda: _busy(fabric), 10, "the test runs")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    (result,) = documents(out.decode())
    assert result["status"] == "cancelled"


def _busy(fabric: Server) -> bool:
    return bool(documents(call("probes", env=fabric.env).stdout)[0]["running"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("paris", "nope.invalid"), 6, None),
        (("paris", TARGET, "--down", "--no-ping", "--port", "1"), 6, None),
        (("paris", "169.254.169.254"), 2, "this probe may not test metadata addresses"),
        (("berlin", TARGET), 5, "No probe is called 'berlin'"),
        (("no name", TARGET), 2, "PROBE: choose a probe"),
        (("paris", "bad host"), 2, "TARGET: 'bad host' is neither an IP address nor a host name"),
        (("paris", TARGET, "-c", "0"), 2, "--count: a whole number from 1 to 300"),
        (("paris", TARGET, "-c", "many"), 2, "'many' is not a valid integer"),
        (("paris", TARGET, "--timeout", "nan"), 2, "--timeout: a number from 0.1 to 10.0"),
        (("paris", TARGET, "--port", "5201"), 2, "--port goes with --down or --up"),
        (("paris", TARGET, "--udp"), 2, "--udp goes with --down or --up"),
        (("paris", TARGET, "--no-ping"), 2, "the test asks for nothing"),
        (("paris", TARGET, "--no-ping", "--down", "-c", "3"), 2, "--count goes with the ping"),
        (("paris", TARGET, "--down", "--duration", "61"), 2, "--duration: a whole number from 1 to 60"),
        (("paris", TARGET, "--comment", "x" * 501), 2, "--comment: at most 500 characters"),
        (("paris", TARGET, "--fail-on", "loss~1"), 2, "'loss~1' is not a condition"),
        (("paris", TARGET, "--cuont", "3"), 2, "No such option '--cuont'"),
        (("paris",), 2, "Missing argument 'TARGET'"),
    ],
)
def test_each_failure_has_its_sentence_and_its_code(
    fabric: Server, arguments: tuple[str, ...], code: int, message: str | None
) -> None:
    done = call("test", *arguments, env=fabric.env)
    assert done.returncode == code, done.stderr
    if message is None:  # it ran: the result says why
        assert documents(done.stdout)[0]["errors"]
    else:
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert f"  Exit code {code}." in done.stderr


@pytest.mark.parametrize(("condition", "code"), [("loss>1%", 0), ("rtt<1s", 1), ("mos<4", 0), ("down<1Gbit/s", 1)])
def test_fail_on(fabric: Server, condition: str, code: int) -> None:
    done = call("test", "paris", TARGET, "-c", "3", "--fail-on", condition, env=fabric.env)
    assert done.returncode == code
    assert (f"failed on {condition}: " in done.stderr) == (code == 1)
    assert documents(done.stdout)[0]["status"] == "done"


def test_without_a_broker_it_says_so_at_once(tmp_path: Path) -> None:
    env = environment(tmp_path, broker__url=f"mqtt://me:s3cret@127.0.0.1:{free_port()}")
    for command in (
        ("test", "paris", TARGET),
        ("probes",),
        ("last", "paris"),
        ("watch",),
        ("target", "ls"),
        ("archive", "ls"),
    ):
        done = call(*command, env=env, timeout_s=8)
        assert done.returncode == 4, command
        assert "cannot be reached" in done.stderr
        assert "s3cret" not in done.stdout + done.stderr


def test_without_a_controller_it_says_so(tmp_path: Path, mosquitto: BrokerProcess) -> None:
    env = environment(tmp_path, broker__url=mosquitto.url)
    done = call("test", "paris", TARGET, env=env, timeout_s=8)
    assert (done.returncode, "The controller is not there. Nothing was started." in done.stderr) == (4, True)


# --- probes, last, watch --------------------------------------------------------------------------------------------------
def test_probes(fabric: Server) -> None:
    (found,) = documents(call("probes", env=fabric.env).stdout)
    assert (found["probe"], found["state"], found["capabilities"]["ping"]["available"]) == ("paris", "online", True)
    text = call("probes", "--text", env=fabric.env).stdout
    assert re.search(r"^paris +online .* ping, speedtest$", text, re.MULTILINE)


def test_last(fabric: Server) -> None:
    number = _number(fabric)
    (result,) = documents(call("last", "paris", env=fabric.env).stdout)
    assert result["number"] == number
    assert f"#{number}   done in" in call("last", "paris", "--text", env=fabric.env).stdout
    unknown = call("last", "berlin", env=fabric.env)
    assert (unknown.returncode, "No probe is called 'berlin'." in unknown.stderr) == (5, True)
    assert call("last", "no/name", env=fabric.env).returncode == 2


def test_watch_tells_results_as_they_come(fabric: Server) -> None:
    with Terminal("watch", "paris", "-n", "2", env=fabric.env) as terminal:
        terminal.wait_for("Waiting for results")
        _number(fabric)
        terminal.wait_for("rtt")
        _number(fabric)
        assert terminal.wait() == 0
    assert len(re.findall(r"paris -> 127\.0\.0\.1  rtt [\d.]+ ms", terminal.shown)) == 2


def test_watch_begins_with_what_is_retained_if_asked(fabric: Server) -> None:
    number = _number(fabric)
    (result,) = documents(call("watch", "--newest", "-n", "1", env=fabric.env).stdout)
    assert result["number"] == number


# --- archive, target --------------------------------------------------------------------------------------------------------
def test_the_archive(fabric: Server) -> None:
    number = _number(fabric, "--comment", "to be removed")
    (row,) = documents(call("archive", "ls", "--comment", "to be removed", "--rows", "1", env=fabric.env).stdout)
    assert (row["number"], row["probe"]) == (number, "paris")
    assert call("archive", "comment", str(number), "kept", env=fabric.env).returncode == 0
    text = call("archive", "show", f"#{number}", "--text", env=fabric.env).stdout
    assert text.splitlines()[-1] == "  kept"
    refused = call("archive", "rm", str(number), env=fabric.env)
    assert (refused.returncode, "needs --yes where nobody can be asked" in refused.stderr) == (2, True)
    assert call("archive", "rm", str(number), "--yes", env=fabric.env).returncode == 0
    gone = call("archive", "show", row["id"], env=fabric.env)
    assert gone.returncode == 2
    assert "There is no test" in gone.stderr


def test_rm_asks_on_a_terminal(fabric: Server) -> None:
    number = _number(fabric)
    with Terminal("archive", "rm", str(number), env=fabric.env) as terminal:
        terminal.wait_for("[y/N]")
        terminal.type("n\n")
        assert terminal.wait() == 130
    assert _state(fabric, number) == "done"


def test_nothing_is_removed_if_one_is_not_there(fabric: Server) -> None:
    number = _number(fabric)
    assert call("archive", "rm", str(number), "999999", "--yes", env=fabric.env).returncode == 2
    assert _state(fabric, number) == "done"


def test_targets(fabric: Server) -> None:
    (made,) = documents(call("target", "add", "gateway", "192.0.2.1", env=fabric.env).stdout)
    assert (made["host"], made["standard_test"], made["speedtest"]) == ("192.0.2.1", True, False)
    again = call("target", "add", "gateway", "192.0.2.2", env=fabric.env)
    assert (again.returncode, "'gateway'" in again.stderr) == (2, True)
    bad = call("target", "add", "x", "bad host", env=fabric.env)
    assert (bad.returncode, "HOST: 'bad host' is neither" in bad.stderr) == (2, True)
    (changed,) = documents(
        call("target", "update", "gateway", "--host", "192.0.2.3", "--speedtest", env=fabric.env).stdout
    )
    assert (changed["host"], changed["standard_test"], changed["speedtest"]) == ("192.0.2.3", True, True)
    assert call("target", "update", "gateway", env=fabric.env).returncode == 2
    assert "gateway" in call("target", "ls", "--text", env=fabric.env).stdout
    assert call("target", "rm", "gateway", env=fabric.env).returncode == 2
    assert call("target", "rm", str(made["target_id"]), "--yes", env=fabric.env).returncode == 0
    assert call("target", "ls", env=fabric.env).stdout == ""


# --- the pipe -----------------------------------------------------------------------------------------------------------------
def test_a_reader_that_has_had_enough_is_no_error(fabric: Server) -> None:
    for _ in range(3):
        _number(fabric)
    command = " ".join(NETLOOM)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} archive ls | head -n 1; {command} config show | true"],
        env=fabric.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["probe"] == "paris"


def test_a_locale_without_unicode_is_no_error(fabric: Server) -> None:
    env = {**fabric.env, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    done = call("test", "paris", TARGET, "-c", "2", "--text", env=env)
    assert (done.returncode, "paris ? 127.0.0.1" in done.stdout) == (0, True)


def test_doctor_finds_everything_well(fabric: Server) -> None:
    found = documents(call("doctor", "--json", env=fabric.env).stdout)
    levels = {finding["subject"]: finding["level"] for finding in found}
    assert {levels[name] for name in ("version", "broker", "controller", "clock", "icmp", "iperf3", "data")} == {"ok"}
    assert any(finding["text"] == "1 online, 0 offline" for finding in found)
    assert os.fspath(Path(fabric.env["NETLOOM_DATA"])) in json.dumps(found)


def test_doctor_says_what_fails_and_how_to_mend_it(tmp_path: Path) -> None:
    env = environment(tmp_path, broker__url=f"mqtt://127.0.0.1:{free_port()}") | {"PATH": os.environ["PATH"]}
    done = call("doctor", env=env)
    assert done.returncode in {4, 7}  # 7 where ICMP or iperf3 is missing, too
    assert re.search(r"^FAIL  The broker at .* cannot be reached", done.stdout, re.MULTILINE)
    assert "      Start it, or correct the address" in done.stdout
    assert done.stdout.rstrip().endswith(f"Exit code {done.returncode}.")


def test_doctor_without_a_controller(tmp_path: Path, mosquitto: BrokerProcess) -> None:
    done = call("doctor", env=environment(tmp_path, broker__url=mosquitto.url))
    assert done.returncode in {4, 7}
    assert "FAIL  The controller is not there." in done.stdout
    assert "Start it with `netloom serve`" in done.stdout
