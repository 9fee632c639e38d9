"""A thread that does one thing again and again."""

import logging
import threading
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

_AFTER_FAULT_S: Final = 1.0


class Worker:
    """Calls `turn` until it is stopped; `turn` returns for how many seconds to rest (None: until woken)."""

    def __init__(self, name: str, turn: Callable[[], float | None]) -> None:
        self._turn = turn
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first turn comes at once."""
        self._thread.start()

    def wake(self) -> None:
        """Have the next turn now."""
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """End after the present turn, and wait for that."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                rest_s = self._turn()
            except Exception:  # one bad turn must not end the thread
                log.exception("a turn of %s failed", self._thread.name)
                rest_s = _AFTER_FAULT_S
            self._wake.wait(rest_s)
