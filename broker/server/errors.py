"""The errors of the embedded broker; the tree is drawn in the package's docstring."""

from enum import StrEnum

from schemas.errors import Failure


class BrokerServerError(Failure):
    """What keeps the embedded broker from running. Code, sentence and next step are the catalogue's."""


class ListenRefusedError(BrokerServerError):
    """The address to listen on is not a loopback address."""

    def __init__(self, host: str) -> None:
        super().__init__("listen_refused", host=host)


class PortInUseError(BrokerServerError):
    """Another program listens on the port already."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__("port_in_use", host=host, port=port)


class SettingError(BrokerServerError):
    """A setting that cannot be used: a limit below one, a port that may not be bound, a data folder that cannot be written."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__("config_value", field=key, place="broker", key=key, reason=reason)


class UnsupportedError(BrokerServerError):
    """The library underneath is not the one this broker was written for, or does not come up."""

    def __init__(self, reason: str) -> None:
        super().__init__("broker_unsupported", reason=reason)


class Cause(StrEnum):
    """Why a connection ended other than by the client's own DISCONNECT. Each has a counter of the same name."""

    GONE = "gone"
    MALFORMED = "malformed"
    TOO_BIG = "too_big"
    CONNECT_TIMEOUT = "connect_timeout"
    KEEP_ALIVE = "keep_alive"
    TAKEN_OVER = "taken_over"
    REFUSED = "refused"


class Dropped(Exception):  # noqa: N818 - it names what happens to a connection; it never leaves this package
    """Ends one connection: becomes one line in the log and one count."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
