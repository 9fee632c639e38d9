"""The address of a broker: mqtt://user:password@host:1883/prefix/ or mqtts://host:8883/prefix/?ca=/path/to/ca.pem."""

import ipaddress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from schemas.topics import check_prefix

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerUrl:
    """A broker's address in parts; the password never prints."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    prefix: str = ""
    """Put before every topic; "" or levels that end in "/"."""
    ca: str | None = None
    """File of the certificate authority to trust instead of the system's."""

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Return the parts of `text`. Raise ValueError with a sentence."""
        parts = urlsplit(text)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("a broker is written as mqtt://host, mqtt://user:password@host:1883 or mqtts://host")
        query = parse_qs(parts.query, keep_blank_values=True)
        if unknown := set(query) - {"ca"}:
            raise ValueError(f"'{unknown.pop()}' is not an option of a broker's address; there is only ca=FILE")
        try:
            port = parts.port
        except ValueError:
            raise ValueError("the broker's port is a whole number from 1 to 65535") from None
        return cls(
            host=parts.hostname,
            port=_PORTS[parts.scheme] if port is None else port,
            tls=parts.scheme == "mqtts",
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            prefix=check_prefix(parts.path.lstrip("/")),
            ca=query["ca"][0] if "ca" in query else None,
        )

    def __str__(self) -> str:
        """The address without user and password, fit for logs and pages."""
        try:
            host = f"[{self.host}]" if ipaddress.ip_address(self.host).version == 6 else self.host  # noqa: PLR2004 - IPv6
        except ValueError:
            host = self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}/{self.prefix}".rstrip("/")
