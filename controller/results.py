"""What probes report: results into the archive and acks back, progress into the job table, status into the registry."""

from collections import Counter, defaultdict, deque
from typing import Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection

from broker.client import BusClient, Message
from controller.archive import Archive, Stored
from controller.jobs import Jobs
from controller.registry import Registry
from controller.writer import Work, Writer
from netloom.clock import Clock
from schemas import codec, topics
from schemas.ack import Ack, Refused
from schemas.base import TestId
from schemas.errors import Failure
from schemas.progress import Progress
from schemas.result import Result
from schemas.status import ProbeStatus

_ID: Final[TypeAdapter[str]] = TypeAdapter(TestId)
EARLY_MAX: Final = 2_000
"""So many retained results are kept until this controller may work."""
ACK_IDS_MAX: Final = 200
"""So many ids fit into a message."""

COUNTED: Final[dict[Stored, str]] = {
    "new": "results",
    "known": "results",
    "duplicate": "duplicates",
    "deleted": "tombstoned",
}


class Intake:
    """The handlers of everything that probes send. Nothing is taken before `begin`: another controller may be at work."""

    def __init__(
        self, bus: BusClient, writer: Writer, archive: Archive, jobs: Jobs, registry: Registry, clock: Clock
    ) -> None:
        self.counters: Counter[str] = Counter()
        """results (stored), duplicates, tombstoned, refused."""
        self.open = False
        self._early: deque[Message] = deque(maxlen=EARLY_MAX)
        self._bus, self._writer, self._archive = bus, writer, archive
        self._jobs, self._registry, self._clock = jobs, registry, clock
        self._acks: defaultdict[str, list[str]] = defaultdict(list)
        bus.subscribe(topics.every_probe("status"), self._on_status)
        bus.subscribe(topics.every_probe("result"), self._on_result)
        bus.subscribe_to(topics.every_probe("progress"), Progress, self._on_progress)

    def begin(self) -> None:
        """Take what comes from now on, and the retained results that came before. In the bus client's thread."""
        self.open = True
        while self._early:
            self._on_result(self._early.popleft())

    # --- status -----------------------------------------------------------------------------------------------------------
    def _on_status(self, message: Message) -> None:
        topic = topics.parse(message.topic)
        if not isinstance(topic, topics.ProbeTopic):
            return
        if not message.payload:
            self._registry.forget(topic.name)
            return
        try:
            status = codec.parse(ProbeStatus, message.payload)
        except Failure as exc:
            self._bus.drop(message, exc)
            return
        if self._registry.hear(topic.name, status, retained=message.retain) and self.open:
            self._writer.submit(Work(lambda conn: self._jobs.restarted(conn, topic.name)))

    # --- progress -----------------------------------------------------------------------------------------------------------
    def _on_progress(self, topic: topics.Topic, progress: Progress, message: Message) -> None:
        if not isinstance(topic, topics.ProbeTopic) or message.retain or not self.open:
            return
        self._writer.submit(Work(lambda conn: self._jobs.progress(conn, topic.name, progress)))

    # --- results ------------------------------------------------------------------------------------------------------------
    def _on_result(self, message: Message) -> None:
        topic = topics.parse(message.topic)
        if not isinstance(topic, topics.ProbeTopic) or not message.payload:
            return
        if not self.open:
            if message.retain:  # the others are sent again by their probes, for nobody has acknowledged them
                self._early.append(message)
            return
        name = topic.name
        try:
            result = codec.parse(Result, message.payload)
        except Failure as exc:
            self._bus.drop(message, exc)
            if not message.retain and (found := _id_of(message.payload)):
                self._refuse(name, found, exc.code)
            return

        def failed(why: Failure) -> None:
            if why.code == "bad_message":
                self._refuse(name, result.id, why.code)

        work = Work(
            lambda conn: self._store(conn, name, result),
            lambda outcome: self._stored(name, result.id, outcome),
            failed,
        )
        self._writer.submit(work, urgent=False)

    def _store(self, conn: Connection, probe: str, result: Result) -> Stored:
        outcome, _ = self._archive.store(conn, probe, result, self._clock.now())
        # In memory at once, for what is judged later in the same transaction; a failed one reloads the table.
        self._jobs.ended(probe, result.id)
        return outcome

    def _stored(self, probe: str, test_id: str, outcome: Stored) -> None:
        self.counters[COUNTED[outcome]] += 1
        self._acks[probe].append(test_id)

    def send_acks(self) -> None:
        """Tell each probe, in one message, what is stored since the last call. Raise Failure (broker_unreachable)."""
        acks, self._acks = self._acks, defaultdict(list)
        for probe, ids in acks.items():
            for at in range(0, len(ids), ACK_IDS_MAX):
                self._bus.publish(topics.probe(probe, "ack"), Ack(stored=tuple(ids[at : at + ACK_IDS_MAX])))

    def _refuse(self, probe: str, test_id: str, code: str) -> None:
        self.counters["refused"] += 1
        self._bus.publish(topics.probe(probe, "ack"), Ack(refused=(Refused(id=test_id, code=code),)))


def _id_of(payload: bytes) -> str | None:
    """Return the id in a message that does not hold, if one can be read."""
    try:
        return _ID.validate_python(codec.decode(payload).get("id"))
    except (Failure, ValidationError):
        return None
