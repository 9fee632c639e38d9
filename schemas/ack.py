"""`probe/<name>/ack`: which results the controller has stored, and which it never will."""

from typing import Literal

from schemas.base import Tolerant


class Refused(Tolerant):
    """A result that cannot be stored; the probe puts it into quarantine."""

    id: str
    code: str


class Ack(Tolerant):
    """Sent only after the controller's own commit."""

    v: Literal[1] = 1
    stored: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
