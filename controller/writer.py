"""The one thread that writes the archive: whatever is waiting becomes one commit, and only then is anybody told.

Everything that changes the state of tests runs here, so the job table needs no lock and a batch is all or nothing. When a commit
fails, nothing of its batch has happened: no ack, no command, and every request in it hears why.
"""

import contextlib
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection

from controller.archive import Archive
from netloom.clock import Clock
from schemas.errors import ErrorInfo, Failure

log = logging.getLogger(__name__)

BATCH_MAX: Final = 256
WAITING_MAX: Final = 20_000
TICK_S: Final = 0.1
MENDED_CHECK_S: Final = 2.0
"""How often the store is tried while it fails and nobody asks for anything."""


@dataclass(frozen=True)
class Work:
    """A change. `apply` runs inside the transaction and may raise Failure before it has changed anything.

    `done` is told, after the commit, what `apply` returned; `failed` hears why there was none.
    """

    # Any: each work passes what it likes from its own apply to its own done.
    apply: Callable[[Connection], Any]
    done: Callable[[Any], None] = lambda _: None
    failed: Callable[[Failure], None] = lambda _: None


class Writer:
    """The thread and its queues. `tick` is called about every 0.1 s in it and brings what has come due.

    `recover` runs first in the transaction after a failed one: what is in memory may be ahead of the archive then. `settled` is
    called after each batch.
    """

    def __init__(
        self,
        archive: Archive,
        clock: Clock,
        *,
        tick: Callable[[], Iterable[Work]],
        recover: Callable[[Connection], None],
        settled: Callable[[], None],
    ) -> None:
        self.problem: ErrorInfo | None = None
        """Why the last commit failed; None once one has succeeded."""
        self.counters: Counter[str] = Counter()
        """commits, store_failures, inbox_dropped."""
        self._archive, self._clock = archive, clock
        self._tick, self._recover, self._settled = tick, recover, settled
        self._urgent: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._bulk: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self.astray = False
        """The last transaction failed: what is in memory may be ahead of the archive until the next one has recovered it."""
        self._next_tick = 0.0
        self._next_check = 0.0
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)

    # --- life -----------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish what is waiting, as far as `timeout_s` allows, and end. False: the thread is still in a commit."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, work: Work, *, urgent: bool = True) -> bool:
        """Queue a change; results, which come in crowds, are not urgent. False: too much is waiting, it was dropped."""
        target = self._urgent if urgent else self._bulk
        if target.qsize() >= WAITING_MAX or self._stop.is_set():
            self.counters["inbox_dropped"] += 1
            return False
        target.put(work)
        self._wake.set()
        return True

    # --- the thread -----------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            self._wake.wait(TICK_S)
            self._wake.clear()
            batch = self._take()
            if self._stop.is_set() and not batch:
                return
            try:
                self._commit([*batch, *self._due()])
                with contextlib.suppress(Failure):  # what the broker does not take now is asked for again
                    self._settled()
            except Exception:  # whatever it was, the next batch must find this thread alive
                self.counters["handler_errors"] += 1
                log.exception("a batch of %d changes failed", len(batch))

    def _take(self) -> list[Work]:
        batch: list[Work] = []
        for source in (self._urgent, self._bulk):
            while len(batch) < BATCH_MAX:
                try:
                    batch.append(source.get_nowait())
                except queue.Empty:
                    break
        if len(batch) == BATCH_MAX:
            self._wake.set()
        return batch

    def _due(self) -> list[Work]:
        now = self._clock.monotonic()
        if self._stop.is_set() or now < self._next_tick:
            return []
        self._next_tick = now + TICK_S
        due = list(self._tick())
        if self.astray and now >= self._next_check:
            self._next_check = now + MENDED_CHECK_S
            due.append(Work(lambda conn: self._archive.put_meta(conn, "checked", str(now))))
        return due

    def _commit(self, batch: list[Work]) -> None:
        if not batch:
            return
        try:
            outcomes = self._transaction(batch)
        except Failure as why:
            self.astray = True
            self._note(why)
            for work in batch:
                with contextlib.suppress(Failure):
                    work.failed(why)
            return
        except Exception as exc:  # noqa: BLE001 - whatever one of them raised, each of the others gets its answer
            self.astray = True
            self._apart(batch, exc)
            return
        self._note(None)
        for work, outcome in outcomes:
            # Whoever cannot be told now (the broker is away) asks again, or is told by what is retained.
            with contextlib.suppress(Failure):
                if isinstance(outcome, Failure):
                    work.failed(outcome)
                else:
                    work.done(outcome)

    def _apart(self, batch: list[Work], exc: Exception) -> None:
        """Do each of a batch by itself: one of them cannot be stored, which must not hold up the others."""
        if len(batch) > 1:
            for work in batch:
                self._commit([work])
            return
        log.error("a change cannot be stored: %s", str(exc).splitlines()[0][:200])
        with contextlib.suppress(Failure):
            batch[0].failed(Failure("bad_message", field="message", reason="it cannot be stored"))

    def _transaction(self, batch: list[Work]) -> list[tuple[Work, Any]]:
        outcomes: list[tuple[Work, Any]] = []
        with self._archive.database.write() as conn:
            if self.astray:
                self._recover(conn)
            for work in batch:
                try:
                    outcomes.append((work, work.apply(conn)))
                except Failure as why:
                    outcomes.append((work, why))
            revision = self._archive.write_down_revision(conn)
        self.astray = False
        self._archive.revision = revision
        return outcomes

    def _note(self, why: Failure | None) -> None:
        self.counters["commits" if why is None else "store_failures"] += 1
        if why is not None and self.problem is None:
            log.error("%s Nothing is acknowledged until it can be.", why.info.message)
        if why is None and self.problem is not None:
            log.warning("the archive can be written again")
        self.problem = None if why is None else why.info
