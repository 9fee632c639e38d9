"""Server-sent events: one ring of events for all open pages, each of which only keeps its place in it.

A page that asks from a place the ring still holds gets what it missed; any other gets a snapshot first. A page that reads too
slowly falls out of the ring and gets a snapshot too, so it costs no memory. A stream ends by itself after a while, and after so
many bytes that an unread one never blocks its thread; the page then comes back where it was.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from netloom.ids import new_id
from schemas.errors import Failure

RING: Final = 256
COMMENT_EVERY_S: Final = 15.0
"""Something must be written for a connection that is gone to be noticed."""
LOOK_EVERY_S: Final = 1.0
STREAM_MAX_S: Final = 600.0
STREAM_MAX_BYTES: Final = 4 * 1024 * 1024

Snapshot = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Event:
    """One event; `data` is JSON on one line."""

    seq: int
    kind: str
    data: str


class Hub:
    """The events of all pages. `streams_max` bounds how many are open at once."""

    def __init__(self, snapshot: Snapshot, streams_max: int = 56, *, comment_every_s: float = COMMENT_EVERY_S) -> None:
        self._snapshot, self._streams_max, self._comment_every_s = snapshot, streams_max, comment_every_s
        self._boot = new_id()[-12:]
        self._ring: deque[Event] = deque(maxlen=RING)
        self._seq = 0
        self._streams = 0
        self._closed = False
        self._news = threading.Condition()

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return self._streams

    @property
    def last_id(self) -> str:
        """The id of the newest event: a page made now is to listen from here."""
        with self._news:
            return self._id(self._seq)

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Tell every open page. Never blocks."""
        line = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        with self._news:
            self._seq += 1
            self._ring.append(Event(self._seq, kind, line))
            self._news.notify_all()

    def close(self) -> None:
        """End every stream."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def open(self, since: str = "", gone: Callable[[], bool] = lambda: False) -> "Stream":
        """Return a stream that begins behind the event `since`. Raise Failure (too_many_streams)."""
        with self._news:
            if self._streams >= self._streams_max or self._closed:
                raise Failure("too_many_streams")
            self._streams += 1
        return Stream(self, since, gone)

    # --- for its streams ------------------------------------------------------------------------------------------------
    def release(self) -> None:
        """Count a stream as ended."""
        with self._news:
            self._streams -= 1

    def place(self, since: str) -> int | None:
        """Return the place in the ring that an event id names; None if it is not (or no longer) in there."""
        boot, _, seq = since.partition("-")
        if boot != self._boot or not seq.isascii() or not seq.isdigit() or len(seq) > 15:  # noqa: PLR2004 - no id is longer
            return None
        return int(seq) if int(seq) <= self._seq else None

    def after(self, place: int | None, timeout_s: float) -> tuple[bool, list[Event], int]:
        """Wait for events behind `place`. Return whether a snapshot must come first, the events, and the new place."""
        with self._news:
            if place is not None and place == self._seq and not self._closed:
                self._news.wait(timeout_s)
            oldest = self._ring[0].seq if self._ring else self._seq + 1
            if place is None or place < oldest - 1:
                return True, [], self._seq
            return False, [event for event in self._ring if event.seq > place], self._seq

    def format(self, event: Event) -> bytes:
        """Return an event as it goes over the wire."""
        return f"id: {self._id(event.seq)}\nevent: {event.kind}\ndata: {event.data}\n\n".encode()

    def snapshot(self, place: int) -> bytes:
        """Return the state of everything as an event."""
        line = json.dumps(self._snapshot(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return self.format(Event(place, "snapshot", line))

    @property
    def closed(self) -> bool:
        """Whether the streams are to end."""
        return self._closed

    @property
    def comment_every_s(self) -> float:
        """How often an idle stream says something."""
        return self._comment_every_s

    def _id(self, seq: int) -> str:
        return f"{self._boot}-{seq}"


class Stream:
    """One page's stream. Iterate it in the request's thread; `close` may be called twice."""

    def __init__(self, hub: Hub, since: str, gone: Callable[[], bool]) -> None:
        self._hub, self._gone = hub, gone
        self._place = hub.place(since)
        self._open = True

    def close(self) -> None:
        """Give the slot back."""
        if self._open:
            self._open = False
            self._hub.release()

    def __iter__(self) -> Iterator[bytes]:
        began = spoke = time.monotonic()
        sent = 0
        yield b": hello\n\n"
        while not self._hub.closed and not self._gone():
            due, events, self._place = self._hub.after(self._place, LOOK_EVERY_S)
            chunk = self._hub.snapshot(self._place) if due else b"".join(map(self._hub.format, events))
            now = time.monotonic()
            if not chunk and now - spoke >= self._hub.comment_every_s:
                chunk = b": still here\n\n"
            if chunk:
                spoke, sent = now, sent + len(chunk)
                yield chunk
            if now - began > STREAM_MAX_S or sent > STREAM_MAX_BYTES:
                return
