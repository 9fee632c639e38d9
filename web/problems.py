"""Errors as answers: the right status, and a page or a problem document (RFC 9457) with code, cause and next step."""

import logging
from http import HTTPStatus
from typing import Final

from flask import Flask, Response, g, jsonify, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from schemas.errors import CATALOGUE, ErrorInfo, Failure, error

log = logging.getLogger(__name__)

_RETRY_S: Final = 5


def status_of(info: ErrorInfo) -> int:
    """Return the HTTP status of an error; one that another program's catalogue brought is a 502."""
    entry = CATALOGUE.get(info.code)
    return entry.http if entry is not None else HTTPStatus.BAD_GATEWAY


def wants_page() -> bool:
    """Tell whether the answer is for a person's browser."""
    return "text/html" in request.headers.get("Accept", "")


def answer(info: ErrorInfo, status: int | None = None) -> Response:
    """Return `info` as a page or as a problem document."""
    status = status or status_of(info)
    if wants_page():
        made = make_response(render_template("error.html", error=info, status=status), status)
    else:
        made = jsonify(
            type=f"urn:netloom:error:{info.code}",
            title=info.message,
            detail=info.hint,
            status=status,
            code=info.code,
            instance=request.path,
            request=g.get("request_number", ""),
        )
        made.status_code = status
        made.content_type = "application/problem+json"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        made.headers["Retry-After"] = str(_RETRY_S)
    return made


def _of_http(exc: HTTPException) -> ErrorInfo:
    match exc.code:
        case HTTPStatus.NOT_FOUND:
            return error("page_not_found", path=request.path[:200])
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return error("method_not_allowed", path=request.path[:200], method=request.method)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return error("body_too_large")
    return error("bad_json", reason=exc.name.lower())


def install(app: Flask) -> None:
    """Have every error of `app` answered here."""

    @app.errorhandler(Failure)
    def failed(exc: Failure) -> Response:
        return answer(exc.info)

    @app.errorhandler(HTTPException)
    def refused(exc: HTTPException) -> Response:
        if exc.code is not None and exc.code < HTTPStatus.BAD_REQUEST:  # a redirect is no error
            return make_response(exc.get_response())
        made = answer(_of_http(exc), exc.code)
        if allow := exc.get_response().headers.get("Allow"):
            made.headers["Allow"] = allow
        return made

    @app.errorhandler(Exception)
    def broken(exc: Exception) -> Response:
        log.error("request %s: %s %s failed", g.get("request_number"), request.method, request.path, exc_info=exc)
        return answer(error("internal", request=g.get("request_number", "?")))
