"""Sessions: what the broker knows of each client, over one connection or several (MQTT 3.1.1, section 3.1.2.4)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from broker.server.authorize import ClientIdentity
from broker.server.counters import Counters
from broker.server.errors import Cause, Dropped
from broker.server.limits import Limits
from broker.server.outbox import Outbox
from broker.server.packets import Connect
from broker.server.subscriptions import SubscriptionIndex


class Wire(Protocol):
    """What a session needs of the connection it has at the moment."""

    def wake(self) -> None:
        """There is something to send."""

    def displace(self) -> None:
        """The same client connected again: leave the session, last will included, before returning."""


@dataclass(eq=False, slots=True)
class Session:
    """One client. It is present while it has a wire."""

    identity: ClientIdentity
    clean: bool
    outbox: Outbox
    wire: Wire | None = None
    open_exchanges: set[int] = field(default_factory=set)
    """Packet ids of QoS 2 messages that were routed and not yet released by the client."""


class Sessions:
    """Every session by client id. All of it happens between two awaits, so no two connections can share a session."""

    def __init__(
        self, limits: Limits, counters: Counters, index: SubscriptionIndex[Session], clock: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._index = index
        self._clock = clock
        self._by_id: dict[str, Session] = {}
        self._absent_since: dict[str, float] = {}  # longest absent first

    def admit(self, connect: Connect, identity: ClientIdentity, wire: Wire) -> tuple[Session, bool]:
        """Give an accepted client its session; the flag says whether it was there before.

        A connection that has it still is displaced: its will is out and its session as it left it before we go on.
        Raises Dropped when there is no room.
        """
        before = self._by_id.get(identity.client_id)
        if before is not None and before.wire is not None:
            before.wire.displace()
            self._counters.taken_over += 1
        session = self._by_id.get(identity.client_id)
        if session is not None and connect.clean_session:
            self._forget(session)
            session = None
        present = session is not None
        if session is None:
            self._make_room()
            session = Session(identity, connect.clean_session, Outbox(self._limits, self._counters))
            self._by_id[identity.client_id] = session
        self._absent_since.pop(identity.client_id, None)
        session.identity, session.wire = identity, wire
        session.outbox.resume()
        self._counters.sessions = len(self._by_id)
        return session, present

    def leave(self, session: Session) -> None:
        """The session's connection has ended; a clean session ends with it."""
        session.wire = None
        if session.clean:
            self._forget(session)
        else:
            session.outbox.pause()
            self._absent_since[session.identity.client_id] = self._clock()

    def expire(self) -> None:
        """Forget those that have been absent too long."""
        latest = self._clock() - self._limits.session_expiry_s
        while self._absent_since and next(iter(self._absent_since.values())) <= latest:
            self._evict_longest_absent()

    def _make_room(self) -> None:
        if len(self._by_id) < self._limits.max_sessions:
            return
        if not self._absent_since:
            raise Dropped(Cause.REFUSED, "too many sessions")
        self._evict_longest_absent()

    def _evict_longest_absent(self) -> None:
        self._forget(self._by_id[next(iter(self._absent_since))])
        self._counters.evicted_sessions += 1

    def _forget(self, session: Session) -> None:
        client_id = session.identity.client_id
        del self._by_id[client_id]
        self._absent_since.pop(client_id, None)
        self._index.drop(session)
        self._counters.sessions = len(self._by_id)
        self._counters.subscriptions = len(self._index)
