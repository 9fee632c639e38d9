"""Identifiers: UUIDv7 for messages, and the persisted identity of an installation."""

import os
import time
import uuid
from pathlib import Path

from netloom.files import read_text, write_atomic


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562 5.7): it sorts by its time of making, ms."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def instance(folder: Path) -> str:
    """Return the identity kept in `folder`, made at the first call. It tells two installations with one name apart."""
    path = folder / "instance"
    if found := (read_text(path) or "").strip():
        return found
    made = os.urandom(8).hex()
    write_atomic(path, made.encode())
    return made
