"""Messages such as "Target added.": carried over one redirect by a cookie that holds a word, never text."""

from typing import Final

from flask import Response, g, redirect, request

COOKIE: Final = "netloom_note"
NOTES: Final = {
    "target_added": "Target added.",
    "target_updated": "Target updated.",
    "target_deleted": "Target deleted.",
    "test_updated": "Test updated.",
    "test_deleted": "Test deleted.",
    "test_cancelled": "The test is being cancelled.",
    "probe_forgotten": "Probe forgotten. Its tests stay in the archive.",
}


def see(path: str, note: str | None = None) -> Response:
    """Return the redirect after a form (303), so that reloading the page never sends it again."""
    response = redirect(path, 303)
    made = Response(response.get_data(), response.status_code, response.headers)
    if note is not None:
        made.set_cookie(COOKIE, note, max_age=60, httponly=True, samesite="Strict")
    return made


def pending() -> str | None:
    """Return the message to show on this page, once."""
    note = NOTES.get(request.cookies.get(COOKIE, ""))
    g.note_shown = note is not None
    return note


def forget(response: Response) -> Response:
    """Drop the cookie once its message was shown."""
    if g.get("note_shown", False):
        response.delete_cookie(COOKIE, httponly=True, samesite="Strict")
    return response
