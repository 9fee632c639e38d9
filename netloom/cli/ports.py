"""Ports to listen on: is one taken, and if so which is not."""

import errno
import socket

from schemas.errors import Failure


def _bind(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as trial:
        # As servers do: a connection that ended a minute ago does not hold the port.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(("127.0.0.1" if host == "localhost" else host, port))
        trial.listen()
        found: int = trial.getsockname()[1]
    return found


def taken(host: str, port: int) -> bool:
    """Tell whether another program listens on the port. Any other trouble with the address is the server's to tell."""
    try:
        _bind(host, port)
    except OSError as exc:
        return exc.errno == errno.EADDRINUSE
    return False


def choose(host: str, wanted: int, *, strict: bool) -> int:
    """Return a port to listen on: `wanted` (0 is any), or unless `strict` any other if that is taken.

    Raises:
        Failure: port_in_use.
    """
    if wanted and not taken(host, wanted):
        return wanted
    if wanted and strict:
        raise Failure("port_in_use", host=host, port=wanted)
    try:
        return _bind(host, 0)
    except OSError:  # not an address of this machine: the server says so in its own words
        return wanted
