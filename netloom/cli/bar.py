"""The live bar: one line on the terminal's error stream, drawn over and over, gone at the end."""

import shutil
import sys
import time
from types import TracebackType
from typing import IO, Final, Self

from netloom.cli.base import style
from netloom.cli.figures import ms, percent, rate
from netloom.cli.output import clean
from schemas.progress import Progress

WIDTH: Final = 20
PERIOD_S: Final = 0.05
FULL, EMPTY = "\N{FULL BLOCK}", "\N{LIGHT SHADE}"
_CLEAR: Final = "\r\x1b[2K"


def text(progress: Progress) -> str:
    """Return a step as one line: part, bar, how far, the newest figures."""
    if progress.state != "running":
        return progress.state
    share = (progress.percent or 0.0) / 100
    full = min(WIDTH, round(share * WIDTH))
    words = [f"{progress.part or '':<9}", FULL * full + EMPTY * (WIDTH - full), f"{100 * share:3.0f} %"]
    if progress.done is not None and progress.total is not None:
        unit = "" if progress.part == "ping" else " s"
        words.append(f"{progress.done:.0f}/{progress.total:.0f}{unit}")
    return "  ".join([*words, *_figures(progress)])


def _figures(progress: Progress) -> list[str]:
    found = progress.figures
    if found is None:
        return []
    words = [] if found.bits_per_second is None else [rate(found.bits_per_second)]
    if progress.part == "ping" or progress.part is None:
        words += [] if found.rtt_ms is None else [f"{ms(found.rtt_ms)} ms"]
        words += [] if found.loss_percent is None else [f"loss {percent(found.loss_percent)}"]
    if progress.eta_s is not None:
        words.append(f"at most {progress.eta_s:.0f} s more")
    return words


class Bar:
    """A bar on `stream`; where that is no terminal it draws nothing."""

    def __init__(self, title: str, stream: IO[str] | None = None) -> None:
        self._title, self._stream = clean(title), stream or sys.stderr
        self._on = self._stream.isatty()
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write("")

    def update(self, progress: Progress) -> None:
        """Draw a step."""
        now = time.monotonic()
        if progress.state == "running" and now - self._drawn_at < PERIOD_S:
            return
        self._drawn_at = now
        room = shutil.get_terminal_size().columns - 1
        shown = f"{self._title}  {text(progress)}"[:room]
        self._write(shown.replace(FULL, style(FULL, self._stream, fg="green")))

    def say(self, words: str) -> None:
        """Show words in place of a step."""
        self._write(f"{self._title}  {words}"[: shutil.get_terminal_size().columns - 1])

    def _write(self, shown: str) -> None:
        if self._on:
            self._stream.write(_CLEAR + shown)
            self._stream.flush()
