"""The saved targets: a name for a host, for standard tests, for speedtests or both. A small file that a person may read."""

import logging
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from tinydb import TinyDB, where

from netloom.store import Store
from schemas.errors import ErrorInfo, Failure
from schemas.request import Target, TargetFields
from schemas.sentences import faults

log = logging.getLogger(__name__)

FIELDS: Final = tuple(TargetFields.model_fields)


class SavedTargets:
    """The targets in a file. Safe from any thread; each change is one write."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raise Failure: store_failed."""
        self._store = Store(path)
        with self._store.view() as db:
            self._revision = _count(db, "revision")
            for document in db.table("targets").all():
                _target(document, loud=True)

    @property
    def problem(self) -> ErrorInfo | None:
        """What was found damaged when the file was opened."""
        return self._store.problem

    @property
    def revision(self) -> int:
        """It grows with every change."""
        return self._revision

    def all(self) -> list[Target]:
        """Return the targets by name."""
        with self._store.view() as db:
            found = [_target(document) for document in db.table("targets").all()]
        return sorted((target for target in found if target), key=lambda target: target.name.casefold())

    def add(self, fields: TargetFields) -> Target:
        """Save a target. Raise Failure: target_exists, store_failed."""
        with self._store.edit() as db:
            _check_name(db, fields.name, None)
            number = _next_id(db)
            _keep(db, "last_id", number)
            target = Target(target_id=number, **_values(fields))
            db.table("targets").insert(target.model_dump())
            revision = self._grow(db)
        self._revision = revision
        return target

    def replace(self, target_id: int, fields: TargetFields) -> Target:
        """Replace every field of a target. Raise Failure: target_not_found, target_exists, store_failed."""
        with self._store.edit() as db:
            _check_there(db, target_id)
            _check_name(db, fields.name, target_id)
            target = Target(target_id=target_id, **_values(fields))
            db.table("targets").update(target.model_dump(), where("target_id") == target_id)
            revision = self._grow(db)
        self._revision = revision
        return target

    def delete(self, target_id: int) -> None:
        """Delete a target; its id is never used again. Raise Failure: target_not_found, store_failed."""
        with self._store.edit() as db:
            _check_there(db, target_id)
            db.table("targets").remove(where("target_id") == target_id)
            revision = self._grow(db)
        self._revision = revision

    def _grow(self, db: TinyDB) -> int:
        revision = _count(db, "revision") + 1
        _keep(db, "revision", revision)
        return revision


def _values(fields: TargetFields) -> dict[str, Any]:
    return {name: getattr(fields, name) for name in FIELDS}


def _target(document: dict[str, Any], *, loud: bool = False) -> Target | None:
    """Return a target as it is kept; None for one that somebody wrote by hand and that does not hold."""
    try:
        return Target.model_validate(dict(document))
    except ValidationError as exc:
        if loud:
            log.warning("a saved target is left out: %s", "; ".join(f"{k}: {v}" for k, v in faults(exc).items()))
        return None


def _count(db: TinyDB, name: str) -> int:
    found = db.table("counters").get(where("name") == name)
    value = found.get("value") if isinstance(found, dict) else None
    return value if isinstance(value, int) else 0


def _next_id(db: TinyDB) -> int:
    """Return an id that no target ever had; the file may have been mended by hand, so its targets count too."""
    used = [document.get("target_id") for document in db.table("targets").all()]
    return max(_count(db, "last_id"), *(number for number in used if isinstance(number, int)), 0) + 1


def _keep(db: TinyDB, name: str, value: int) -> None:
    db.table("counters").upsert({"name": name, "value": value}, where("name") == name)


def _check_there(db: TinyDB, target_id: int) -> None:
    if not db.table("targets").contains(where("target_id") == target_id):
        raise Failure("target_not_found", field="target_id", target=target_id)


def _check_name(db: TinyDB, name: str, own: int | None) -> None:
    folded = name.casefold()
    for other in db.table("targets").all():
        if other.get("target_id") != own and str(other.get("name", "")).casefold() == folded:
            raise Failure("target_exists", field="name", name=name)
