"""The one MQTT client of every role, on paho-mqtt.

A PUBACK is not delivery, so this client keeps nothing for later: it refuses to publish while it is down, and what was under way
when a connection broke is dropped with it. Each connection is a fresh paho client with an id of its own; reconnecting goes on for
ever, with jittered back-off. Handlers run one after the other in one thread of this client, in the order of arrival, beginning
with `on_up` for each connection; one that raises is logged and does not stop the others.
"""

import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel

from broker.link import Link, Message, Publication, Will
from netloom.ids import new_id
from netloom.url import BrokerUrl
from schemas import codec, limits, topics
from schemas.errors import ErrorInfo, Failure, error

log = logging.getLogger(__name__)

__all__ = ["BusClient", "Handler", "Message", "Publication", "Will", "matches"]

M = TypeVar("M", bound=BaseModel)

HANDSHAKE_TIMEOUT_S: Final = 10.0
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0
REFUSED_BACKOFF_MAX_S: Final = 60.0
INBOX_MAX: Final = 10_000
_LOGGED_MAX: Final = 1_000


Handler = Callable[[Message], None]
_Item = Callable[[], None] | None


@dataclass(frozen=True)
class _Subscription:
    topic_filter: str
    qos: int
    handler: Handler


class BusClient:
    """A client of the bus. `will` makes the last will for a connection id; it is called before every attempt."""

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        *,
        will: Callable[[str], Will] | None = None,
        on_up: Callable[[], None] | None = None,
        on_down: Callable[[], None] | None = None,
        keepalive_s: int = limits.KEEPALIVE_S,
    ) -> None:
        if not topics.valid_client_id(client_id):
            raise ValueError(f"not a client id: {client_id!r}")
        self.url, self.client_id = url, client_id
        self.connection = ""
        """The id of the present (or latest) connection."""
        self.counters: Counter[str] = Counter()
        """garbage, refused_subscriptions, inbox_dropped, connections, handler_errors."""
        self._will, self._on_up, self._on_down, self._keepalive_s = will, on_up, on_down, keepalive_s
        self._subscriptions: list[_Subscription] = []
        # Bounded by `call`: messages may be dropped, the news of a connection's begin and end may not.
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._up = threading.Event()
        self._stop = threading.Event()
        self._problem: ErrorInfo | None = error("broker_unreachable", url=url, reason="not connected yet")
        self._down_since = time.monotonic()
        self._threads: list[threading.Thread] = []
        self._logged: set[tuple[str, str]] = set()

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to connect, in the background."""
        for work, name in ((self._connect_for_ever, "connect"), (self._dispatch, "dispatch")):
            thread = threading.Thread(target=work, name=f"bus-{name}-{self.client_id}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Say goodbye (the will is not sent) and end both threads. What must still go out is published and waited for before."""
        self._stop.set()
        with self._lock:
            link = self._link
        if link is not None:
            link.say_goodbye()
        self._inbox.put(None)
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def up(self) -> bool:
        """Whether the connection stands and every subscription has been answered."""
        return self._up.is_set()

    @property
    def problem(self) -> ErrorInfo | None:
        """Why it is not up; None while it is."""
        if self._problem is None and not self.up:  # it fell this moment, and the reason is not known yet
            return error("broker_unreachable", url=self.url, reason="the connection was just lost")
        return self._problem

    @property
    def down_s(self) -> float | None:
        """For how many seconds it has been down; None while it is up."""
        return None if self.up else time.monotonic() - self._down_since

    def wait_up(self, timeout_s: float) -> bool:
        """Wait until the connection stands."""
        return self._up.wait(timeout_s)

    # --- messages -----------------------------------------------------------------------------------------------------
    def publish(
        self,
        topic: str,
        message: BaseModel | bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        max_bytes: int | None = None,
    ) -> Publication:
        """Hand a message to the connection. Raise Failure: broker_unreachable (down, or too much unsent), too_large."""
        payload = (
            message if isinstance(message, bytes) else codec.encode(message, max_bytes or limits.MESSAGE_MAX_BYTES)
        )
        with self._lock:
            link = self._link
        if link is None or not self.up:
            raise Failure.of(self.problem or error("broker_unreachable", url=self.url, reason="just connecting"))
        return link.publish(topic, payload, qos, retain=retain)

    def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1) -> None:
        """Have `handler` called with every message that matches, now and after every reconnect. Call it before `start`."""
        if self._threads:
            raise RuntimeError("subscribe before start: a later filter would miss messages")
        self._subscriptions.append(_Subscription(topic_filter, qos, handler))

    def subscribe_to(
        self,
        topic_filter: str,
        model: type[M],
        handler: Callable[[topics.Topic, M, Message], None],
        *,
        qos: int = 1,
        max_bytes: int = limits.MESSAGE_MAX_BYTES,
    ) -> None:
        """As `subscribe`, for messages of one model. What does not hold is dropped, counted and logged once; so is an empty one."""

        def typed(message: Message) -> None:
            topic = topics.parse(message.topic)
            if topic is None or not message.payload:
                return
            try:
                parsed = codec.parse(model, message.payload, max_bytes)
            except Failure as exc:
                self.drop(message, exc)
                return
            handler(topic, parsed, message)

        self.subscribe(topic_filter, typed, qos=qos)

    def drop(self, message: Message, why: Failure) -> None:
        """Count a message that cannot be used, and log it once for each topic and cause."""
        self.counters["garbage"] += 1
        key = (message.topic, why.code)
        if key not in self._logged and len(self._logged) < _LOGGED_MAX:
            self._logged.add(key)
            log.warning("dropped a message on %s: %s (further ones are only counted)", message.topic, why.info.message)

    # --- the dispatcher -------------------------------------------------------------------------------------------------
    def call(self, work: Callable[[], None]) -> bool:
        """Run `work` in the dispatcher's thread, after what is already waiting. False: the inbox is full, it was dropped."""
        if self._inbox.qsize() >= INBOX_MAX:
            self.counters["inbox_dropped"] += 1
            return False
        self._inbox.put(work)
        return True

    def _dispatch(self) -> None:
        while not self._stop.is_set():
            work = self._inbox.get()
            if work is None:
                continue
            try:
                work()
            except Exception:  # a handler's fault must stop neither the others nor this thread
                self.counters["handler_errors"] += 1
                log.exception("a handler failed")

    def _deliver(self, message: Message) -> None:
        for subscription in self._subscriptions:
            if matches(subscription.topic_filter, message.topic):
                try:
                    subscription.handler(message)
                except Exception:  # as in _dispatch
                    self.counters["handler_errors"] += 1
                    log.exception("the handler of %s failed", subscription.topic_filter)

    # --- connections ------------------------------------------------------------------------------------------------------
    def _connect_for_ever(self) -> None:
        failures = 0
        while not self._stop.is_set():
            if self._connect_once():
                failures = 0
            failures += 1
            most = REFUSED_BACKOFF_MAX_S if self._problem and self._problem.code == "broker_refused" else BACKOFF_MAX_S
            delay_s = min(most, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16)) * random.uniform(0.5, 1)  # noqa: S311 - jitter
            self._stop.wait(delay_s)

    def _connect_once(self) -> bool:
        """Connect and stay until the connection ends. Return whether it ever stood."""
        self.connection = new_id()
        stood = False
        link = Link(
            self.url,
            self.client_id,
            will=self._will(self.connection) if self._will else None,
            filters={s.topic_filter: s.qos for s in self._subscriptions},
            on_accepted=self._accepted,
            on_message=lambda message: self.call(lambda: self._deliver(message)),
            on_ended=self._up.clear,
        )
        try:
            link.open(self._keepalive_s)
            stood = self._handshake(link)
            if stood:
                link.ended.wait()
        except (OSError, ValueError) as exc:  # ValueError: a host or a certificate that cannot be used
            self._down(error("broker_unreachable", url=self.url, reason=str(exc) or type(exc).__name__))
        finally:
            with self._lock:
                self._link = None
                self._up.clear()
            link.close()
        if stood:
            self._lost(link)
        return stood

    def _handshake(self, link: Link) -> bool:
        """Wait for CONNACK and for the answers to all subscriptions; then the client is up."""
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        if not link.answered.wait(HANDSHAKE_TIMEOUT_S):
            self._down(error("broker_unreachable", url=self.url, reason="it does not answer as an MQTT broker"))
            return False
        if link.refused or link.ended.is_set():
            code = "broker_refused" if link.said_no else "broker_unreachable"
            self._down(error(code, url=self.url, reason=link.reason))
            return False
        if not link.subscribed.wait(max(0.0, deadline - time.monotonic())):
            self._down(error("broker_unreachable", url=self.url, reason="it does not answer subscriptions"))
            return False
        with self._lock:
            if self._stop.is_set() or link.ended.is_set():
                return False
            self._link = link
            self._problem = None
            self._up.set()
        self.counters["connections"] += 1
        if link.refused_filters:
            self.counters["refused_subscriptions"] += link.refused_filters
            log.warning("the broker refused %d subscriptions of %s", link.refused_filters, self.client_id)
        log.info("connected to %s as %s", self.url, self.client_id)
        return True

    def _lost(self, link: Link) -> None:
        reason = "said goodbye" if self._stop.is_set() else f"the connection was lost ({link.reason})"
        self._down(error("broker_unreachable", url=self.url, reason=reason))
        if self._on_down is not None:
            self._inbox.put(self._on_down)

    def _down(self, problem: ErrorInfo) -> None:
        if self._problem is None:
            self._down_since = time.monotonic()
        if (self._problem is None or self._problem.message != problem.message) and not self._stop.is_set():
            log.warning("%s", problem.message)  # once for each change of cause, not at every attempt
        self._problem = problem

    def _accepted(self, link: Link) -> None:
        if self._on_up is not None:
            self._inbox.put(lambda: self._announce(link))

    def _announce(self, link: Link) -> None:
        """Call `on_up` once the connection stands; it comes before the messages that arrived meanwhile."""
        while not link.ended.is_set() and not self._stop.is_set():
            if self._up.wait(0.05):
                if self._on_up is not None:
                    self._on_up()
                return


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether `topic` matches `topic_filter` (MQTT 3.1.1, 4.7)."""
    wanted, found = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") != topic_filter.startswith("$"):
        return False
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(found) or level not in ("+", found[i]):
            return False
    return len(wanted) == len(found)
