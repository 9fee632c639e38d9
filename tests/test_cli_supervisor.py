"""Roles as children: brought back when they die, ended together, never left behind."""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from netloom.cli.child import Spec, program
from netloom.cli.supervisor import Supervisor
from schemas.errors import Failure
from tests.kit.brokers import free_port
from tests.kit.cli import Running, call, environment, gone, running
from tests.kit.iperf import alive, children
from tests.kit.wait import until

ROLES = {"broker", "controller", "web"}


def _roles(parent: Running) -> dict[str, int]:
    """The role of each child, by its last argument."""
    found: dict[str, int] = {}
    for pid in children(parent.process.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(words) > 1:  # a dead one has none
            found[words[-2].decode()] = pid
    return found


# --- serve, for real ------------------------------------------------------------------------------------------------------
def test_a_role_that_dies_comes_back_where_it_was(tmp_path: Path) -> None:
    env = environment(tmp_path, broker__port=0, web__port=0, log_format="text")
    with running(tmp_path, "serve", env=env) as serve:
        page = serve.wait_for("Page").split()[1]
        url = serve.wait_for("  Broker").split()[1]
        before = _roles(serve)
        assert set(before) == ROLES
        for role in sorted(ROLES):
            os.kill(before[role], signal.SIGKILL)
        until(lambda: _roles(serve).keys() == ROLES and not set(_roles(serve).values()) & set(before.values()), 15)
        until(
            lambda: call("target", "ls", env=environment(tmp_path, broker__url=url)).returncode == 0, 20, "all is well"
        )
        assert page.startswith("http://127.0.0.1:")
        log = serve.err.read_text()
        assert "controller: it ended unexpectedly (signal 9); it is started again in 0." in log
        below = serve.family()
        assert serve.stop() < 2
        assert serve.process.returncode == 0
        assert gone(below)


def test_children_go_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    env = environment(tmp_path, broker__port=0, web__port=0)
    with running(tmp_path, "serve", env=env) as serve:
        serve.wait_for("Add a probe")
        below = serve.family()
        assert len(below) >= len(ROLES)
        serve.process.kill()
        serve.process.wait()
        try:
            until(lambda: gone(below), 4, "the children go")
        finally:
            for pid in filter(alive, below):
                os.kill(pid, signal.SIGKILL)


def test_a_role_that_cannot_start_ends_everything_with_its_message(tmp_path: Path) -> None:
    env = environment(tmp_path, broker__port=0, web__port=0)
    with running(tmp_path, "serve", env=env) as first:
        first.wait_for("Add a probe")
        second = call("serve", env=env)
        assert second.returncode == 3
        pid = _roles(first)["broker"]
        assert f"error: The data folder {tmp_path / 'data' / 'broker'} is in use by process {pid}." in second.stderr
        assert "Exit code 3." in second.stderr
        assert second.stdout == ""


def test_a_port_that_is_taken_ends_serve(tmp_path: Path) -> None:
    env, port = environment(tmp_path), str(free_port())
    with running(tmp_path, "broker", env={**env, "NETLOOM_BROKER__PORT": port}) as broker:
        until(lambda: port in broker.err.read_text(), 10, "the broker listens")
        for command in (("serve",), ("broker",), ("demo", "--no-browser")):
            elsewhere = str(tmp_path / command[0])
            done = call(*command, env={**env, "NETLOOM_BROKER__PORT": port, "NETLOOM_DATA": elsewhere})
            assert done.returncode == 3, command
            assert f"error: Port {port} on 127.0.0.1 is taken by another program." in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", [("broker",), ("controller",), ("web",), ("probe", "--name", "paris")])
def test_a_role_alone_ends_well(tmp_path: Path, role: tuple[str, ...], number: signal.Signals) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"  # nobody is there: any start order must do
    env = environment(tmp_path, broker__port=0, web__port=0, log_format="json")
    env |= {} if role == ("broker",) else {"NETLOOM_BROKER__URL": url}
    with running(tmp_path, *role, env=env) as process:
        until(lambda: f'"{role[0]} is ready: ' in process.err.read_text(), 15, "it is ready")
        assert process.stop(number) < 2
        assert process.process.returncode == 0
        assert process.text == ""


# --- the supervisor, with children of a test's own ------------------------------------------------------------------------
READY = "import os; os.write(int(os.environ['NETLOOM_READY_FD']), b'ready here\\n'); "


def _spec(code: str, *, name: str = "role", last: bool = False) -> Spec:
    return Spec(name, (sys.executable, "-I", "-S", "-c", code), {"PATH": os.environ["PATH"]}, last=last)


def _run_for(supervisor: Supervisor, stop: threading.Event, seconds: float) -> None:
    threading.Timer(seconds, stop.set).start()
    supervisor.run()


def test_readiness_is_heard_with_its_detail() -> None:
    heard: list[tuple[str, str]] = []
    with Supervisor(threading.Event(), lambda *said: heard.append(said)) as supervisor:
        supervisor.start(_spec(READY + "import time; time.sleep(60)"))
        assert supervisor.wait_ready(("role",))
        pid = supervisor.pids()["role"]
    assert heard == [("role", "here")]
    assert not alive(pid)


def test_a_child_that_dies_before_it_is_ready_is_an_error() -> None:
    with Supervisor(threading.Event()) as supervisor:
        supervisor.start(_spec("raise SystemExit(9)"))
        with pytest.raises(Failure) as caught:
            supervisor.wait_ready(("role",))
    assert caught.value.info.message == "role ended before it was ready (exit code 9)."


def test_a_failure_comes_through_whole() -> None:
    said = Failure("port_in_use", host="127.0.0.1", port=1883).info
    code = f"import os; os.write(int(os.environ['NETLOOM_READY_FD']), {('failed ' + said.model_dump_json())!r}.encode() + b'\\n')"
    with Supervisor(threading.Event()) as supervisor:
        supervisor.start(_spec(code))
        with pytest.raises(Failure) as caught:
            supervisor.run()
    assert caught.value.info == said


def test_the_back_off_grows() -> None:
    stop = threading.Event()
    births: list[float] = []
    with Supervisor(stop, lambda *_: births.append(time.monotonic())) as supervisor:
        supervisor.start(_spec(READY + "raise SystemExit(1)"))
        _run_for(supervisor, stop, 2.5)
    gaps = [after - before for before, after in itertools.pairwise(births)]
    assert len(births) == 3  # at 0, about 0.5 and about 1.5 s; the next would be at 3.5 s
    assert 0.4 <= gaps[0] < 0.8 < gaps[1]


def test_a_deaf_child_is_killed_in_time() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + READY + "time.sleep(60)"
    with Supervisor(threading.Event()) as supervisor:
        for name in ("one", "two"):
            supervisor.start(_spec(deaf, name=name, last=name == "two"))
        assert supervisor.wait_ready(("one", "two"))
        pids = set(supervisor.pids().values())
        began = time.monotonic()
        supervisor.end()
        assert time.monotonic() - began < 2
    assert gone(pids)


def test_what_a_child_leaves_behind_in_its_group_goes_too() -> None:
    fork = "import os, time; pid = os.fork(); " + READY.replace("ready here", "ready %d") + "time.sleep(60)"
    code = fork.replace("b'ready %d\\n'", "b'ready %d\\n' % pid if pid else b''")
    heard: list[str] = []
    with Supervisor(threading.Event(), lambda _, detail: heard.append(detail)) as supervisor:
        supervisor.start(_spec(code))
        assert supervisor.wait_ready(("role",))
    until(lambda: not alive(int(heard[0])), 2, "the grandchild goes")


def test_the_last_is_asked_when_the_others_are_gone(tmp_path: Path) -> None:
    handler = "time.sleep({wait}), open({log!r}, 'a').write({name!r}), sys.exit(0)"
    code = f"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: ({handler})); {READY}time.sleep(60)"
    log = tmp_path / "order"
    with Supervisor(threading.Event()) as supervisor:
        for name, wait_s in (("z", 0.0), ("a", 0.3)):  # asked together, the last would be first
            told = code.format(wait=wait_s, log=str(log), name=name)
            supervisor.start(_spec(told, name=name, last=name == "z"))
        assert supervisor.wait_ready(("a", "z"))
    assert log.read_text() == "az"


def test_a_foreign_program_runs_tied_to_us() -> None:
    with Supervisor(threading.Event()) as supervisor:
        supervisor.start(program("sleeper", "sleep", "60"))
        pid = supervisor.pids()["sleeper"]
        until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), 5, "it has become the program")
    assert not alive(pid)
