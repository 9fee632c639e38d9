"""For programs: Supervision's JSON view, and whether all is well."""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from netloom import VERSION
from schemas.legacy import legacy_view
from schemas.limits import LEGACY_PROBE_PORT
from web.cache import ProbeEntry
from web.format import iso
from web.views.common import fabric

pages = Blueprint("machine", __name__)


def _announced(entry: ProbeEntry) -> tuple[str | None, int]:
    """Return the address and port the JSON view knows a probe by."""
    status = entry.status
    if status is None:
        return None, LEGACY_PROBE_PORT
    port = status.announced.port
    return status.announced.address or status.address, LEGACY_PROBE_PORT if port is None else port


def _asked_for() -> ProbeEntry | None:
    """Return the probe that is meant; None for an unknown one and for a doubtful one."""
    if "probe" in request.args:
        return fabric().cache.probe(request.args["probe"])
    address, port = request.args.get("address", ""), request.args.get("port", "")
    found = [e for e in fabric().cache.probes() if _announced(e)[0] == address and str(_announced(e)[1]) == port]
    return found[0] if len(found) == 1 else None


@pages.get("/autotest_json")
def autotest_json() -> Response:
    """Return a probe's newest result as Supervision's programs read it, or null."""
    entry = _asked_for()
    return jsonify(legacy_view(entry.result) if entry is not None and entry.result is not None else None)


@pages.get("/healthz")
def healthz() -> Response:
    """Return 200 as long as the page serves, and in the document what it reaches."""
    found = fabric()
    away, controller = found.outage(), found.controller
    document: dict[str, Any] = {
        "status": "ok" if away is None else "degraded",
        "version": VERSION,
        "broker": {"url": str(found.url), "up": found.broker_up},
        "controller": {
            "online": found.controller_online,
            "id": controller.controller_id if controller else None,
            "version": controller.version if controller else None,
        },
        "away": None
        if away is None
        else {"part": away.part, "since": iso(away.since), "code": away.info.code, "message": away.info.message},
        "probes": len(found.cache.probes()),
        "streams": found.hub.streams,
    }
    return jsonify(document)
