"""Bytes to messages and back. Whatever arrives, the only error is Failure; whatever leaves is within bounds and free of NaN."""

from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError

from schemas import limits
from schemas.command import CancelCommand, Command, RunCommand
from schemas.errors import Failure
from schemas.sentences import faults

M = TypeVar("M", bound=BaseModel)


class Invalid(Failure):
    """A JSON object that does not hold; `fields` names each field at fault with its sentence."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        name, reason = next(iter(fields.items()))
        super().__init__("bad_message", field=name or None, reason=reason)
        if not name:
            self.info = self.info.model_copy(update={"message": reason[:1].upper() + reason[1:] + "."})


def _finite(value: Any) -> bool:
    """Tell whether no NaN or infinity hides in a document; 1e999 is valid JSON and reads as infinity."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, float) and (item != item or item in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
            return False
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    return True


def decode(payload: bytes, max_bytes: int = limits.MESSAGE_MAX_BYTES) -> dict[str, Any]:
    """Return the JSON object in `payload`. Raise Failure: too_large, bad_json."""
    if len(payload) > max_bytes:
        raise Failure("too_large", size=len(payload), limit=max_bytes)
    try:
        value = pydantic_core.from_json(payload, allow_inf_nan=False)
    except ValueError as exc:
        raise Failure("bad_json", reason=str(exc)[:120]) from None
    if not isinstance(value, dict):
        raise Failure("bad_json", reason=f"it is a {type(value).__name__}")
    if not _finite(value):
        raise Failure("bad_json", reason="a number is too large")
    return value


def _version(value: dict[str, Any]) -> None:
    version = value.get("v", limits.PROTOCOL)
    if version != limits.PROTOCOL or isinstance(version, bool):
        raise Failure("unsupported_version", field="v", version=str(version)[:20], known=limits.PROTOCOL)


def validate(model: type[M], value: dict[str, Any]) -> M:
    """Return `value` as `model`. Raise Failure: unsupported_version, or Invalid (bad_message)."""
    _version(value)
    try:
        # Through JSON, because strict models take lists for tuples only from there.
        return model.model_validate_json(pydantic_core.to_json(value))
    except ValidationError as exc:
        raise Invalid(faults(exc)) from None


def parse(model: type[M], payload: bytes, max_bytes: int = limits.MESSAGE_MAX_BYTES) -> M:
    """Return the message in `payload`. Raise Failure: too_large, bad_json, unsupported_version, or Invalid (bad_message)."""
    return validate(model, decode(payload, max_bytes))


def command(value: dict[str, Any]) -> Command:
    """Return the command in a decoded object: `kind` decides, and without one it is a run."""
    kind = value.get("kind", "run")
    if kind == "cancel":
        return validate(CancelCommand, value)
    if kind == "run":
        return validate(RunCommand, value)
    raise Invalid({"kind": "run or cancel"})


def encode(message: BaseModel, max_bytes: int = limits.MESSAGE_MAX_BYTES) -> bytes:
    """Return `message` as UTF-8 JSON. Raise Failure: too_large."""
    payload = message.model_dump_json().encode()
    if len(payload) > max_bytes:
        raise Failure("too_large", size=len(payload), limit=max_bytes)
    return payload
