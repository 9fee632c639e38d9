"""The probe's own topics on the bus: what it says goes out through here, and is dropped while there is no connection."""

from pydantic import BaseModel

from broker.client import BusClient, Publication
from schemas import topics
from schemas.errors import Failure


class Uplink:
    """Publishes below `probe/<name>/`."""

    def __init__(self, bus: BusClient, name: str) -> None:
        self.bus, self.name = bus, name

    def say(
        self, leaf: topics.ProbeLeaf, message: BaseModel | bytes, *, qos: int = 1, retain: bool = False
    ) -> Publication | None:
        """Hand a message to the connection. None: there is none, and nothing is kept for later here."""
        try:
            return self.bus.publish(topics.probe(self.name, leaf), message, qos=qos, retain=retain)
        except Failure:
            return None
