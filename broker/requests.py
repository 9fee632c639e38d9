"""Requests and their replies: how a page or a command asks the controller, and how it learns that there is none."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel

from broker.client import BusClient, Message
from netloom.ids import new_id
from schemas import codec, limits, topics
from schemas.errors import Failure
from schemas.request import VERBS, Reply
from schemas.status import ControllerStatus

A = TypeVar("A", bound=BaseModel)


class Refusal(Failure):
    """The controller said no; `fields` names every field at fault with its sentence."""

    def __init__(self, reply: Reply) -> None:
        if reply.error is None:
            raise ValueError("a refusal needs its error")
        self.info, self.field = reply.error, next(iter(reply.fields), None)
        self.fields = dict(reply.fields)
        Exception.__init__(self, f"{self.info.code}: {self.info.message}")


class Requester:
    """Asks the controller over a bus client that has not been started yet. `on_controller` hears every status of it."""

    def __init__(self, bus: BusClient, on_controller: Callable[[ControllerStatus], None] | None = None) -> None:
        self._bus, self._on_controller = bus, on_controller
        self._waiting: dict[str, Future[Reply]] = {}
        self._lock = threading.Lock()
        self._controller: ControllerStatus | None = None
        self._heard_at = 0.0
        self._offset: timedelta | None = None
        self._first_status = threading.Event()
        bus.subscribe_to(topics.reply(bus.client_id), Reply, self._on_reply, max_bytes=limits.ARCHIVE_PAGE_MAX_BYTES)
        bus.subscribe_to(topics.CONTROLLER_STATUS, ControllerStatus, self._on_status)

    @property
    def controller(self) -> ControllerStatus | None:
        """The controller's newest status; None if none was ever heard."""
        return self._controller

    @property
    def controller_online(self) -> bool:
        """Whether the controller said it is there and has not been silent for longer than the heartbeat deadline."""
        found = self._controller
        return (
            self._bus.up
            and found is not None
            and found.state == "online"
            and time.monotonic() - self._heard_at < limits.OFFLINE_AFTER_S
        )

    def call(self, verb: str, answer: type[A], *, timeout_s: float = limits.REQUEST_TIMEOUT_S, **fields: Any) -> A:
        """Ask for `verb` with `fields` (an `id` is made unless given) and return its answer.

        Raises:
            Invalid: a field does not hold; nothing was sent.
            Refusal: the controller said no.
            Failure: broker_unreachable, controller_unreachable, request_timeout; what was asked for will not happen later.
        """
        entry = VERBS[verb]
        until = time.monotonic() + timeout_s
        if not self._bus.wait_up(timeout_s):
            raise Failure.of(self._bus.problem) if self._bus.problem else Failure("request_timeout", seconds=timeout_s)
        self._first_status.wait(min(1.0, max(0.0, until - time.monotonic())))
        if not self.controller_online:
            raise Failure("controller_unreachable")
        left_s = max(0.0, until - time.monotonic())
        request_id = str(fields.pop("id", None) or new_id())
        late = self._not_after(left_s)
        values = {**fields, "id": request_id, **({"not_after": late} if late else {})}
        request = codec.validate(entry.request, values)
        waiting: Future[Reply] = Future()
        with self._lock:
            self._waiting[request_id] = waiting
        try:
            self._bus.publish(topics.request(self._bus.client_id, verb), request)
            reply = waiting.result(left_s)
        except TimeoutError:
            raise Failure("request_timeout", seconds=timeout_s) from None
        finally:
            with self._lock:
                self._waiting.pop(request_id, None)
        if reply.status == "error":
            raise Refusal(reply)
        return codec.validate(answer, reply.data or {})

    def _not_after(self, seconds: float) -> str | None:
        """When to give up, by the controller's clock; None until its clock is known."""
        if self._offset is None:
            return None
        return (datetime.now(UTC) + self._offset + timedelta(seconds=seconds)).isoformat()

    def _on_reply(self, _: topics.Topic, reply: Reply, __: Message) -> None:
        with self._lock:
            waiting = self._waiting.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def _on_status(self, _: topics.Topic, status: ControllerStatus, message: Message) -> None:
        self._controller, self._heard_at = status, time.monotonic()
        if not message.retain:
            self._offset = status.at - datetime.now(UTC)
        self._first_status.set()
        if self._on_controller is not None:
            self._on_controller(status)
