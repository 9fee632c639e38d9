"""`/events`: the news for an open page."""

from flask import Blueprint, Response, request

from web.views.common import fabric

pages = Blueprint("live", __name__)


@pages.get("/events")
def events() -> Response:
    """Return a stream that begins behind `Last-Event-ID` (or `since`), with a snapshot if that is too long ago."""
    since = request.headers.get("Last-Event-ID") or request.args.get("since", "")
    gone = request.environ.get("waitress.client_disconnected", lambda: False)
    stream = fabric().hub.open(since, gone)
    response = Response(iter(stream), content_type="text/event-stream; charset=utf-8")
    response.call_on_close(stream.close)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response
