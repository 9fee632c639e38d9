"""The contract as JSON Schema documents, one a message."""

from typing import Any

from pydantic import BaseModel

from schemas.ack import Ack
from schemas.autotest import AutotestSet
from schemas.command import CancelCommand, RunCommand
from schemas.progress import Progress
from schemas.request import VERBS, Reply
from schemas.result import Result
from schemas.status import ControllerStatus, ProbeStatus

MESSAGES: dict[str, type[BaseModel]] = {
    "command.run": RunCommand,
    "command.cancel": CancelCommand,
    "progress": Progress,
    "result": Result,
    "ack": Ack,
    "probe.status": ProbeStatus,
    "autotests": AutotestSet,
    "reply": Reply,
    "controller.status": ControllerStatus,
}


def documents() -> dict[str, dict[str, Any]]:
    """Return every message, request and answer by name as a JSON Schema document (draft 2020-12)."""
    models = dict(MESSAGES)
    for verb, entry in VERBS.items():
        models[f"request.{verb}"] = entry.request
        models[f"answer.{verb}"] = entry.answer
    return {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(mode="serialization" if name in {"result", "progress"} else "validation"),
        }
        for name, model in models.items()
    }
