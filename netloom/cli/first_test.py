"""The demo's first test: as soon as its probe is there, beside the supervisor."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from broker.client import Message
from netloom.cli import figures
from netloom.cli.bar import Bar
from netloom.cli.follow import Follower
from netloom.cli.session import Session, session
from netloom.settings import Settings
from schemas import topics
from schemas.errors import Failure
from schemas.status import ProbeStatus

TARGET: Final = "127.0.0.1"
DURATION_S: Final = 3
ONLINE_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class FirstTest:
    """A ping, and with an iperf3 server both directions of a speedtest; `say` gets what a person should read."""

    settings: Settings
    probe: str
    iperf_port: int | None
    say: Callable[[str], None]

    def fields(self) -> dict[str, Any]:
        """Return the fields of test.start."""
        speed = {"target": TARGET, "port": self.iperf_port, "direction": "both", "duration_s": DURATION_S}
        parts = {"ping": {"target": TARGET}} | ({"speedtest": speed} if self.iperf_port else {})
        return {"probe": self.probe, "origin": "demo", "comment": "the demo's first test", **parts}

    def run(self, stop: threading.Event) -> None:
        """Wait for the probe, test, tell. Whatever goes wrong is told, and the demo goes on."""
        online = threading.Event()
        followers: list[Follower] = []

        def prepare(made: Session) -> None:
            def take(_: topics.Topic, status: ProbeStatus, __: Message) -> None:
                if status.state == "online" and not online.is_set():
                    self._missing(status)
                    online.set()

            made.bus.subscribe_to(topics.probe(self.probe, "status"), ProbeStatus, take)
            followers.append(Follower(made, self.probe))

        try:
            with session(self.settings, prepare, who="demo"):
                online.wait(ONLINE_TIMEOUT_S)  # without one, the controller says that the probe is not there
                with Bar("first test") as bar:
                    ended = followers[0].run(self.fields(), bar.update, stop)
        except Failure as exc:
            if not stop.is_set():
                self._tell_error(exc.info.message, exc.info.hint)
            return
        if ended.result is not None and not stop.is_set():
            for line in figures.lines(ended.result):
                self.say(line)
        elif ended.error is not None and not stop.is_set():
            self._tell_error(ended.error.message, ended.error.hint)

    def _missing(self, status: ProbeStatus) -> None:
        """Tell what this probe cannot do, and how to mend it."""
        for kind, found in status.capabilities.items():
            if not found.available and found.error is not None:
                self.say(f"  No {kind}: {found.error.message}\n    {found.error.hint}")

    def _tell_error(self, message: str, hint: str) -> None:
        self.say(f"  The first test: {message}\n    {hint}")
