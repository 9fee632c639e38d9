"""Who listens on a TCP port of this machine, as far as this user may know (Linux)."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"
_PROC: Final = Path("/proc")


def _sockets(port: int) -> Iterator[str]:
    """Yield the inode of every socket that listens on `port`."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


@dataclass(frozen=True)
class Owner:
    """A process that listens."""

    pid: int
    name: str
    ours: bool

    def __str__(self) -> str:
        """How it is called in a sentence."""
        return f"{self.name} (pid {self.pid})"


def owner(port: int) -> Owner | None:
    """Return the process that listens on `port`, None if this user may not see it."""
    wanted = {f"socket:[{inode}]" for inode in _sockets(port)}
    if not wanted:
        return None
    for process in _PROC.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if any(os.readlink(handle) in wanted for handle in (process / "fd").iterdir()):  # noqa: PTH115 - not a path
                command = (process / "cmdline").read_bytes()
                name = (process / "comm").read_text().strip()
                return Owner(int(process.name), name, b"netloom" in command)
        except OSError:  # gone, or another user's
            continue
    return None
