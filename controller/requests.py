"""What any client may ask, by verb. What changes the archive runs in its writer thread, everything else in a thread of its own.

A request is carried out once: a changing one that comes again, with the same id, gets the answer that was given before.
"""

import contextlib
import logging
import queue
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import Connection

from broker.client import BusClient, Message
from controller.answers import Answers
from controller.writer import Work, Writer
from netloom.clock import Clock
from schemas import codec, limits, topics
from schemas.errors import ErrorInfo, Failure
from schemas.request import VERBS, Reply, Request

log = logging.getLogger(__name__)

ANSWERS_KEPT: Final = 1_000
WAITING_MAX: Final = 1_000


@dataclass(frozen=True)
class Direct:
    """A verb that is answered beside the archive's writer. Any: each takes its own request model."""

    answer: Callable[[Any], BaseModel]


@dataclass(frozen=True)
class Change:
    """A verb that changes the archive: `apply` in a transaction, `answer` after its commit, from what `apply` returned.

    Any: each takes its own request model, and hands on what it likes.
    """

    apply: Callable[[Connection, Any], Any]
    answer: Callable[[Any], BaseModel]


@dataclass(frozen=True)
class _Asked:
    client_id: str
    verb: str
    request: Request


class Requests:
    """The handlers of every verb. Nothing is taken before `open`: another controller may be at work.

    `echo` hears the id of each request that this controller has sent itself.
    """

    def __init__(
        self, bus: BusClient, writer: Writer, answers: Answers, clock: Clock, echo: Callable[[str], None]
    ) -> None:
        self.counters: Counter[str] = Counter()
        """requests, refused_requests, request_errors, repeated_requests."""
        self.open = False
        self._bus, self._writer, self._clock, self._echo = bus, writer, clock, echo
        self._table: dict[str, Direct | Change] = {
            "test.start": Change(answers.start, answers.started),
            "test.cancel": Change(answers.cancel, answers.cancelled),
            "archive.page": Direct(answers.page),
            "archive.get": Direct(answers.get),
            "archive.comment": Change(answers.comment, answers.done),
            "archive.delete": Change(answers.delete, answers.done),
            "target.list": Direct(answers.targets),
            "target.add": Direct(answers.add_target),
            "target.update": Direct(answers.update_target),
            "target.delete": Direct(answers.delete_target),
            "probe.forget": Direct(answers.forget_probe),
        }
        self._given: OrderedDict[tuple[str, str], Reply] = OrderedDict()
        self._given_lock = threading.Lock()
        self._waiting: queue.Queue[_Asked | None] = queue.Queue(WAITING_MAX)
        self._thread = threading.Thread(target=self._run, name="requests", daemon=True)
        bus.subscribe(topics.every_request(), self._on_request)

    # --- life -----------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End; what is still waiting is not answered."""
        self.open = False
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout_s)

    # --- arrival ----------------------------------------------------------------------------------------------------------
    def _on_request(self, message: Message) -> None:
        topic = topics.parse(message.topic)
        if message.retain:
            return
        if isinstance(topic, topics.RequestTopic) and topic.client_id == self._bus.client_id:
            with contextlib.suppress(Failure):
                self._echo(str(codec.decode(message.payload).get("id")))
            return
        if not self.open:
            return
        if not isinstance(topic, topics.RequestTopic):
            self._bus.drop(message, Failure("unknown_verb", verb=message.topic.rpartition("/")[2][:64]))
            return
        self.counters["requests"] += 1
        request_id = ""
        try:
            value = codec.decode(message.payload)
            if isinstance(value.get("id"), str):
                request_id = value["id"][:64]
            if topic.verb not in self._table:
                raise Failure("unknown_verb", verb=topic.verb)  # noqa: TRY301 - one place answers every refusal
            request: Any = codec.validate(VERBS[topic.verb].request, value)
        except Failure as exc:
            if exc.code in ("bad_json", "too_large"):
                self._bus.drop(message, exc)
            self._refuse(topic.client_id, request_id, exc)
            return
        self._queue(_Asked(topic.client_id, topic.verb, request))

    def _queue(self, asked: _Asked) -> None:
        if self._repeat(asked):
            return
        entry = self._table[asked.verb]
        if isinstance(entry, Direct):
            try:
                self._waiting.put_nowait(asked)
            except queue.Full:
                self.counters["inbox_dropped"] += 1
            return

        def apply(conn: Connection) -> Any:
            self._check_time(asked.request)
            return entry.apply(conn, asked.request)

        def done(outcome: Any) -> None:
            self._answer(asked, entry.answer(outcome))

        self._writer.submit(Work(apply, done, lambda why: self._refuse(asked.client_id, asked.request.id, why)))

    def _check_time(self, request: Request) -> None:
        """Raise Failure (request_expired) if whoever asked has been told "no" by now."""
        if request.not_after is not None and (now := self._clock.now()) > request.not_after:
            raise Failure("request_expired", late=(now - request.not_after).total_seconds())

    # --- the thread of the direct verbs -------------------------------------------------------------------------------------
    def _run(self) -> None:
        while (asked := self._waiting.get()) is not None:
            try:
                self._carry_out(asked)
            except Exception:  # a fault in one answer must not take the thread with it
                self.counters["handler_errors"] += 1
                log.exception("the request %s failed", asked.verb)
                self._refuse(asked.client_id, asked.request.id, Failure("internal", request=asked.request.id))

    def _carry_out(self, asked: _Asked) -> None:
        entry = self._table[asked.verb]
        if not isinstance(entry, Direct) or self._repeat(asked):
            return
        try:
            self._check_time(asked.request)
            answer = entry.answer(asked.request)
        except Failure as why:
            self._refuse(asked.client_id, asked.request.id, why)
        else:
            self._answer(asked, answer)

    # --- answering ----------------------------------------------------------------------------------------------------------
    def _repeat(self, asked: _Asked) -> bool:
        """Answer a repeated request as before. False: it is new, or looks at something and changes nothing."""
        with self._given_lock:
            given = self._given.get((asked.verb, asked.request.id))
        if given is None:
            return False
        self.counters["repeated_requests"] += 1
        self._send(asked.client_id, given)
        return True

    def _answer(self, asked: _Asked, answer: BaseModel) -> None:
        reply = Reply(id=asked.request.id, status="ok", data=answer.model_dump(mode="json"))
        if VERBS[asked.verb].changes:
            with self._given_lock:
                self._given[asked.verb, asked.request.id] = reply
                while len(self._given) > ANSWERS_KEPT:
                    self._given.popitem(last=False)
        self._send(asked.client_id, reply)

    def _refuse(self, client_id: str, request_id: str, why: Failure) -> None:
        self.counters["refused_requests"] += 1
        self._send(client_id, Reply(id=request_id, status="error", error=why.info, fields=_fields(why, why.info)))

    def _send(self, client_id: str, reply: Reply) -> None:
        try:
            self._bus.publish(topics.reply(client_id), reply, max_bytes=limits.ARCHIVE_PAGE_MAX_BYTES)
        except Failure as why:
            # While the broker is away, whoever asked is told by its own time-out.
            if why.code == "too_large" and reply.status == "ok":
                self._send(client_id, Reply(id=reply.id, status="error", error=why.info))


def _fields(why: Failure, info: ErrorInfo) -> dict[str, str]:
    if isinstance(why, codec.Invalid):
        return why.fields
    return {} if why.field is None else {why.field: info.message}
