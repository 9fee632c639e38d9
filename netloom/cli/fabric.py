"""The roles of one machine: which children make up a server, and with which settings."""

from netloom.cli import child, ports
from netloom.cli.supervisor import Supervisor
from netloom.config import Loaded
from netloom.log import resolve
from netloom.settings import Settings

BROKER, CONTROLLER, WEB, PROBE = "broker", "controller", "web", "probe"


def settled(loaded: Loaded, *, strict: bool) -> Settings:
    """Return the settings with real ports for what will listen, and the log's format as it is on this process's error stream.

    Real ones, so that a role that dies comes back where it was. With `strict`, a port that is taken is an error; otherwise only if
    somebody chose it.
    """
    settings = loaded.settings
    web = settings.web.model_copy(
        update={"port": ports.choose(settings.web.host, settings.web.port, strict=strict or loaded.chosen("web.port"))}
    )
    broker = settings.broker
    if broker.url is None:
        port = ports.choose(broker.host, broker.port, strict=strict or loaded.chosen("broker.port"))
        broker = broker.model_copy(update={"port": port})
    return settings.model_copy(update={"web": web, "broker": broker, "log_format": resolve(settings.log_format)})


def start(supervisor: Supervisor, settings: Settings, *, probe: Settings | None = None) -> bool:
    """Start the roles, the broker first unless it is elsewhere; return False if told to stop meanwhile.

    `probe` holds the settings of a probe to start beside them. Raises Failure of a role that cannot start.
    """
    embedded = settings.broker.url is None
    if embedded:
        supervisor.start(child.role(BROKER, settings, last=True))
        if not supervisor.wait_ready((BROKER,)):
            return False
    for name in (CONTROLLER, WEB):
        supervisor.start(child.role(name, settings))
    if probe is not None:
        supervisor.start(child.role(PROBE, probe))
    return supervisor.wait_ready((CONTROLLER, WEB, *((PROBE,) if probe else ())))
