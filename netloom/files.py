"""Files that survive a crash: written beside, synced, renamed; and a lock on a data folder."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import Failure

PRIVATE = 0o600


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Replace `path` by `data`, wholly or not at all, durably. Raise OSError (the old content is then untouched)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def read_text(path: Path) -> str | None:
    """Return the file's text, None if there is no such file. Raise OSError, UnicodeDecodeError."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None


def set_aside(path: Path) -> Path:
    """Rename a damaged file to `<name>.corrupt-<seconds>`, never over another one, and return where it is now."""
    stamp = int(time.time())
    while (aside := path.with_name(f"{path.name}.corrupt-{stamp}")).exists():
        stamp += 1
    path.replace(aside)
    return aside


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. Raise Failure (store_locked, with the owner's pid). The kernel frees it at any end."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            raise Failure("store_locked", path=folder, pid=handle.read().strip() or "unknown") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
