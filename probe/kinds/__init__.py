"""The kinds of measurement: one file each, found by this registry. The name is the field of the command that asks for it."""

from typing import Final

from probe.kinds import ping, speedtest
from probe.kinds.base import Entry

REGISTRY: Final[dict[str, Entry]] = {"ping": ping.ENTRY, "speedtest": speedtest.ENTRY}
