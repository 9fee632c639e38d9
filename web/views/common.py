"""What the views share: the fabric, and asking the controller within the time one answer may take."""

import time
from typing import Any, TypeVar, cast

from flask import current_app, g, request
from pydantic import BaseModel

from schemas.request import Target
from web.fabric import ASK_TIMEOUT_S, Fabric

A = TypeVar("A", bound=BaseModel)


def fabric() -> Fabric:
    """Return the application's fabric."""
    return cast("Fabric", current_app.extensions["fabric"])


def left_s() -> float:
    """Return how long this request may still wait for the controller: however often it asks, an answer comes within 3 s."""
    asked_at: float = g.setdefault("asked_at", time.monotonic())
    return max(0.05, ASK_TIMEOUT_S - (time.monotonic() - asked_at))


def ask(verb: str, answer: type[A], **fields: Any) -> A:
    """Ask the controller. Raise Failure."""
    return fabric().ask(verb, answer, timeout_s=left_s(), **fields)


def ask_once(verb: str, answer: type[A], **fields: Any) -> A:
    """Ask for something that has an id of its own. Raise Failure."""
    return fabric().ask_once(verb, answer, timeout_s=left_s(), **fields)


def known_targets() -> tuple[Target, ...]:
    """Return the saved targets, as far as known."""
    return fabric().known_targets(left_s())


def form_lists() -> dict[str, list[str]]:
    """Return the form as it was sent, every field with all its values."""
    return {name: request.form.getlist(name) for name in request.form}
