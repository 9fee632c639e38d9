"""The Flask application: made from a frozen configuration and a fabric, so that tests can make as many as they like."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flask import Flask, g, request

from netloom import VERSION
from schemas.request import FINAL_STATES
from web import format as fmt
from web import guard, notes, problems
from web.assets import Assets
from web.fabric import Fabric
from web.views import archive, live, machine, probes, targets, tests

THEMES: Final = ("auto", "light", "dark")
HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class WebConfig:
    """What the application is told when it is made."""

    hosts: guard.Hosts
    comment_every_s: float = 15.0


def create_app(config: WebConfig, fabric: Fabric) -> Flask:
    """Return the application. It starts nothing; `fabric` is started and stopped by whoever made it."""
    app = Flask("web", root_path=str(HERE), static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = guard.BODY_MAX_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = guard.BODY_MAX_BYTES
    app.config["MAX_FORM_PARTS"] = 100
    app.extensions["fabric"] = fabric
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    guard.install(app, config.hosts)
    problems.install(app)
    app.after_request(notes.forget)
    assets = Assets()
    app.register_blueprint(assets.blueprint())
    for blueprint in (probes.pages, tests.pages, archive.pages, targets.pages, live.pages, machine.pages):
        app.register_blueprint(blueprint)
    app.jinja_env.filters.update(
        ms=fmt.ms, percent=fmt.percent, mos=fmt.mos, rate=fmt.rate, size=fmt.size, seconds=fmt.seconds,
        stamp=fmt.stamp, iso=fmt.iso, sentence=fmt.sentence,
        codes=fmt.codes,
    )  # fmt: skip
    app.jinja_env.filters["age"] = lambda value: fmt.age(value, fabric.clock.now())

    app.jinja_env.filters["option"] = lambda target: (str(target.target_id), f"{target.name} ({target.host})")
    app.jinja_env.globals["final_states"] = FINAL_STATES

    @app.before_request
    def begin() -> None:
        # Before anything is read: what changes meanwhile is then told to the open page once more, never missed.
        g.since = fabric.hub.last_id

    @app.context_processor
    def everywhere() -> dict[str, Any]:
        theme = request.cookies.get("netloom_theme", "auto")
        return {
            "version": VERSION,
            "asset": assets.url,
            "theme": theme if theme in THEMES else "auto",
            "themes": THEMES,
            "note": notes.pending,
            "outage": fabric.outage,
            "since": g.get("since", ""),
            "archive_revision": fabric.archive_revision,
            "broker": str(fabric.url),
        }

    return app
