"""Start a test and follow it to its end: by what the probe says, and by asking the controller when it says nothing."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from broker.client import Message
from netloom.cli.session import Session
from schemas import topics
from schemas.ack import Ack
from schemas.errors import ErrorInfo, Failure, error
from schemas.progress import Progress
from schemas.request import FINAL_STATES, TestRecord, TestTicket
from schemas.result import Result

ASK_AFTER_S: Final = 3.0
"""Without a word from the probe for so long, the controller is asked."""
GIVE_UP_AFTER_S: Final = 60.0
"""Without a word from either for so long, the command gives up; the test is the controller's to end."""
CANCEL_PATIENCE_S: Final = 3.0
STORED_PATIENCE_S: Final = 1.0
TICK_S: Final = 0.1


@dataclass(frozen=True)
class Ended:
    """How a test ended: with a result, or without one and then why."""

    ticket: TestTicket
    result: Result | None = None
    error: ErrorInfo | None = None
    interrupted: bool = False
    """Somebody asked for its end with Ctrl-C."""


class Follower:
    """Listens to one probe. Make it while the session is prepared, before it connects."""

    def __init__(self, session: Session, probe: str) -> None:
        self._session = session
        self._news: queue.Queue[Progress | Result] = queue.Queue()
        self._stored: set[str] = set()
        bus = session.bus
        bus.subscribe_to(topics.probe(probe, "progress"), Progress, self._take)
        bus.subscribe_to(topics.probe(probe, "result"), Result, self._take)
        bus.subscribe_to(topics.probe(probe, "ack"), Ack, self._acknowledged)

    def _take(self, _: topics.Topic, news: Progress | Result, __: Message) -> None:
        self._news.put(news)

    def _acknowledged(self, _: topics.Topic, ack: Ack, __: Message) -> None:
        self._stored.update(ack.stored)

    def run(
        self, fields: dict[str, Any], on_progress: Callable[[Progress], None], interrupted: threading.Event
    ) -> Ended:
        """Start a test with `fields` of test.start and return how it ended. Once `interrupted` is set it is cancelled.

        Raises:
            Failure: it was not started, or nothing was heard of it for a minute.
        """
        ticket = self._session.ask.call("test.start", TestTicket, **fields)
        return self._follow(ticket, on_progress, interrupted)

    def wait_stored(self, result_id: str) -> bool:
        """Wait a moment for the controller to have stored a result, so that whoever asks it next finds it."""
        until = time.monotonic() + STORED_PATIENCE_S
        while result_id not in self._stored and time.monotonic() < until:
            time.sleep(0.01)
        return result_id in self._stored

    def _follow(
        self, ticket: TestTicket, on_progress: Callable[[Progress], None], interrupted: threading.Event
    ) -> Ended:
        heard_at = asked_at = time.monotonic()
        cancelled_at: float | None = None
        while True:
            now = time.monotonic()
            if interrupted.is_set() and cancelled_at is None:
                cancelled_at = now
                self._cancel(ticket)
            if cancelled_at is not None and now - cancelled_at > CANCEL_PATIENCE_S:
                return Ended(ticket, error=error("cancelled"), interrupted=True)
            news = self._next(ticket.id)
            if news is not None:
                heard_at = asked_at = time.monotonic()
                ended = self._judge(ticket, news, on_progress)
            elif now - asked_at >= ASK_AFTER_S:
                asked_at = now
                record = self._look(ticket.id)
                heard_at = now if record else heard_at
                ended = self._judge_record(ticket, record)
            else:
                ended = None
            if ended is not None:
                return ended if cancelled_at is None else Ended(ticket, ended.result, ended.error, interrupted=True)
            if now - heard_at > GIVE_UP_AFTER_S:
                raise Failure.of(self._session.bus.problem or error("controller_unreachable"))

    def _next(self, test_id: str) -> Progress | Result | None:
        with contextlib.suppress(queue.Empty):
            news = self._news.get(timeout=TICK_S)
            if news.id == test_id:
                return news
        return None

    @staticmethod
    def _judge(ticket: TestTicket, news: Progress | Result, on_progress: Callable[[Progress], None]) -> Ended | None:
        if isinstance(news, Result):
            return Ended(ticket, news)
        if news.state == "rejected":
            return Ended(ticket, error=news.error or error("unsupported", what="this"))
        on_progress(news)
        return None

    @staticmethod
    def _judge_record(ticket: TestTicket, record: TestRecord | None) -> Ended | None:
        if record is None or record.summary.state not in FINAL_STATES:
            return None
        if record.result is not None:
            return Ended(ticket, record.result)
        return Ended(ticket, error=record.summary.error or error("lost", probe=ticket.probe))

    def _look(self, test_id: str) -> TestRecord | None:
        """Return what the controller knows; None if it cannot say just now."""
        with contextlib.suppress(Failure):
            return self._session.ask.call("archive.get", TestRecord, test=test_id, timeout_s=1.0)
        return None

    def _cancel(self, ticket: TestTicket) -> None:
        with contextlib.suppress(Failure):  # it may have ended meanwhile
            self._session.ask.call("test.cancel", TestTicket, test=ticket.id, timeout_s=CANCEL_PATIENCE_S / 2)
