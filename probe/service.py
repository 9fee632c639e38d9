"""The probe as a role: from its settings to its clean end."""

import contextlib
import logging
import threading
from collections.abc import Callable

from netloom.files import folder_lock
from netloom.settings import Settings
from probe.agent import Agent
from schemas.errors import Failure

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event, ready: Callable[[str], None]) -> None:
    """Work until `stop` is set. Raise Failure: config_value (no name), store_locked."""
    name = settings.probe.name
    if name is None:
        raise Failure("config_value", place="settings", key="probe.name", reason="a probe needs a name: --name paris")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(settings.data / f"probe-{name}"))
        except OSError as exc:  # a probe with a broken disk still measures, and says so
            log.warning("the data folder cannot be locked: %s", exc)
        agent = Agent(settings, name)
        agent.start()
        ready(name)
        try:
            stop.wait()
        finally:
            agent.stop()
