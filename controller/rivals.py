"""There is one controller in a fabric: the later one refuses to start, and if two have started at once, the later one stops.

A retained "online" proves nothing, its writer may be dead. So this one asks before it takes anything: a request that any controller
answers, on its own reply topic. Its own copy of that request comes back too, after everything that is retained: without a sign
of another controller until then, it begins at once.
"""

import logging
import threading
from datetime import timedelta
from typing import Final

from broker.client import BusClient, Message
from controller.heartbeat import Identity
from netloom.clock import Clock
from netloom.ids import new_id
from schemas import codec, topics
from schemas.errors import Failure
from schemas.request import Reply, TargetList
from schemas.status import ControllerStatus

log = logging.getLogger(__name__)

ECHO_S: Final = 2.0
"""How long to wait for the own question: rights may keep it away."""
STALE_WAIT_S: Final = 0.5
"""How long an old sign is given to be more than old."""
PERIODS: Final = 2
"""How many heartbeats a fresh sign is given to be followed by a live one."""


class Rivals:
    """Watches for other controllers. `cleared` is set once this one may work; `conflict` once it must not."""

    def __init__(self, bus: BusClient, identity: Identity, clock: Clock, period_s: float) -> None:
        self.cleared = threading.Event()
        self.overwritten = threading.Event()
        """Another controller has written over the retained status."""
        self.conflict: Failure | None = None
        self._bus, self._identity, self._clock, self._period_s = bus, identity, clock, period_s
        self._question = new_id()
        self._asked_at: float | None = None
        self._echoed = False
        self._sign: ControllerStatus | None = None
        self._wait_until = 0.0
        bus.subscribe_to(topics.CONTROLLER_STATUS, ControllerStatus, self._on_status)
        bus.subscribe(topics.CONTROLLER_STATUS, self._on_anything)
        bus.subscribe_to(topics.reply(bus.client_id), Reply, self._on_reply)

    def ask(self) -> None:
        """Ask who is there. Raise Failure (broker_unreachable). Called for each connection; without effect once cleared."""
        if not self.cleared.is_set():
            self._echoed = False
            self._asked_at = self._clock.monotonic()
            self._bus.publish(topics.request(self._bus.client_id, "target.list"), TargetList(id=self._question))

    def echo(self, request_id: str) -> None:
        """This controller's own question has come back."""
        self._echoed = self._echoed or request_id == self._question

    def judge(self) -> None:
        """Decide, as soon as enough is known. Raise Failure (controller_exists)."""
        if self.conflict is not None:
            raise self.conflict
        if self.cleared.is_set() or self._asked_at is None or not self._bus.up:
            return
        now = self._clock.monotonic()
        if not self._echoed and now - self._asked_at < ECHO_S:
            return
        if self._sign is not None and now < self._wait_until:
            return
        if self._sign is not None:
            log.warning("another controller (%s) has left its status behind; taking over", self._sign.controller_id)
        self.cleared.set()

    def _on_anything(self, message: Message) -> None:
        """Garbage, or an empty message that clears: what readers find there is no status any more."""
        try:
            codec.parse(ControllerStatus, message.payload)
        except Failure:
            self.overwritten.set()

    def _on_status(self, _: topics.Topic, status: ControllerStatus, message: Message) -> None:
        if status.controller_id == self._identity.controller_id and (
            message.retain or status.started_at == self._identity.started_at
        ):
            return  # this one itself, or what it left behind
        if not message.retain:
            self.overwritten.set()
        if status.state == "offline":
            if self._sign is not None and self._sign.controller_id == status.controller_id:
                self._sign = None
        elif message.retain:
            self._suspect(status)
        elif not self.cleared.is_set() or self._is_earlier(status):
            self._conflict(status.controller_id)

    def _suspect(self, status: ControllerStatus) -> None:
        if self.cleared.is_set() or self._sign is not None:
            return
        self._sign = status
        fresh = abs(self._clock.now() - status.at) < timedelta(seconds=3 * self._period_s)
        wait_s = PERIODS * self._period_s if fresh else STALE_WAIT_S
        self._wait_until = self._clock.monotonic() + wait_s
        if fresh:
            log.warning(
                "the broker keeps a status of controller %s; waiting up to %.0f s", status.controller_id, wait_s
            )

    def _is_earlier(self, status: ControllerStatus) -> bool:
        """Tell whether the other is the one that stays; both sides judge alike."""
        return (status.started_at, status.controller_id) < (self._identity.started_at, self._identity.controller_id)

    def _on_reply(self, _: topics.Topic, reply: Reply, __: Message) -> None:
        if reply.id == self._question and (not self.cleared.is_set() or self._sign is not None):
            self._conflict(self._sign.controller_id if self._sign else "unknown")

    def _conflict(self, controller_id: str) -> None:
        if self.conflict is None:
            self.conflict = Failure("controller_exists", controller_id=controller_id)
