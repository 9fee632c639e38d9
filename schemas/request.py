"""`client/<id>/request/<verb>` and `client/<id>/reply`: what any client may ask of the controller, and what it answers."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from schemas import limits as lim
from schemas.base import Closed, Comment, Host, Instant, Name, Origin, Port, RequestId, TestId, Tolerant
from schemas.command import TestParts
from schemas.errors import ErrorInfo
from schemas.result import Result

TestState = Literal[
    "waiting", "queued", "accepted", "running", "done", "error", "cancelled", "rejected", "expired", "lost"
]
FINAL_STATES: Final[frozenset[str]] = frozenset({"done", "error", "cancelled", "rejected", "expired", "lost"})
PROVISIONAL_STATES: Final[frozenset[str]] = frozenset({"expired", "lost"})
"""Final until a result arrives after all."""


class Request(Closed):
    """What every request carries. The same id asks for the same thing once: a double click is one test."""

    v: Literal[1] = 1
    id: RequestId
    not_after: Instant | None = None
    """By the controller's clock. Later it changes nothing and answers request_expired: who asked has been told "no" by then."""


# --- tests ------------------------------------------------------------------------------------------------------------
class TestStart(Request, TestParts):
    """`test.start`: run a test on a probe."""

    probe: Name
    comment: Comment = ""
    origin: Origin = "mqtt"
    ttl_s: int = Field(lim.TTL_DEFAULT_S, ge=lim.TTL_MIN_S, le=lim.TTL_MAX_S)


class TestCancel(Request):
    """`test.cancel`."""

    test: TestId


class TestTicket(Tolerant):
    """The answer to `test.start` and `test.cancel`."""

    id: TestId
    number: int
    probe: str
    state: TestState


# --- the archive ------------------------------------------------------------------------------------------------------
class ArchivePage(Request):
    """`archive.page`: newest first; `older_than` and `newer_than` are numbers taken from the page before."""

    probe: Name | None = None
    target: Annotated[str, Field(max_length=lim.HOST_MAX_CHARS)] | None = None
    """Part of a target's host."""
    state: TestState | None = None
    text: Annotated[str, Field(max_length=100)] | None = None
    """Part of the comment."""
    older_than: int | None = Field(None, ge=1)
    newer_than: int | None = Field(None, ge=0)
    rows: int = Field(lim.PAGE_ROWS_DEFAULT, ge=1, le=lim.PAGE_ROWS_MAX)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.older_than is not None and self.newer_than is not None:
            raise ValueError("give older_than or newer_than, not both")
        return self


class TestSummary(Tolerant):
    """One row of the archive. Figures are null as in the result."""

    id: TestId
    number: int
    probe: str
    state: TestState
    silent: bool = False
    """It runs, but nothing was heard of it for 10 s."""
    origin: str
    autotest_id: str | None = None
    comment: str = ""
    created_at: Instant
    """When it was asked for, by the controller's clock; for tests that began elsewhere, when they were first heard of."""
    measured_at: Instant | None = None
    ended_at: Instant | None = None
    duration_s: float | None = None
    ping_target: str | None = None
    speedtest_target: str | None = None
    """host:port."""
    ping_avg: float | None = None
    jitter: float | None = None
    loss_percent: float | None = None
    mos: float | None = None
    download: float | None = None
    upload: float | None = None
    error: ErrorInfo | None = None
    """Why it has no result, or the first reason in it."""


class ArchiveRows(Tolerant):
    """The answer to `archive.page`."""

    rows: tuple[TestSummary, ...]
    older_than: int | None = None
    """To ask for the next older page; null on the last."""
    newer_than: int | None = None
    """To ask for the next newer page; null on the first."""
    matching: int
    """How many tests match the filter."""
    total: int
    """How many tests the archive holds."""


class ArchiveGet(Request):
    """`archive.get`: one test by its id or its number."""

    test: TestId | None = None
    number: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.test is None) == (self.number is None):
            raise ValueError("give the test's id or its number")
        return self


class TestRecord(Tolerant):
    """The answer to `archive.get`."""

    summary: TestSummary
    parts: TestParts | None = None
    """What was asked for; null for a test that began without the controller."""
    result: Result | None = None


class ArchiveComment(Request):
    """`archive.comment`: replace a test's comment."""

    test: TestId
    comment: Comment


class ArchiveDelete(Request):
    """`archive.delete`: remove a test that has ended; it stays deleted even if its result comes again."""

    test: TestId


class Done(Tolerant):
    """The answer to a request that changes something and has nothing else to tell."""

    revision: int | None = None


# --- saved targets ----------------------------------------------------------------------------------------------------
def _name(value: str) -> str:
    if value != value.strip() or not value.isprintable():
        raise ValueError("no line breaks, and no spaces at the ends")
    return value


class TargetFields(Closed):
    """A saved target: a name for a host, for standard tests, for speedtests or both."""

    name: Annotated[str, AfterValidator(_name), Field(min_length=1, max_length=lim.TARGET_NAME_MAX_CHARS)]
    host: Host
    standard_test: bool = True
    speedtest: bool = False
    port: Port = lim.SPEEDTEST_PORT_DEFAULT
    """Of the iperf3 server."""

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        if not (self.standard_test or self.speedtest):
            raise ValueError("a target is for standard tests, for speedtests or for both: choose one")
        return self


class Target(TargetFields):
    """A saved target as the controller keeps it."""

    target_id: int


class TargetList(Request):
    """`target.list`."""


class TargetAdd(Request, TargetFields):
    """`target.add`."""


class TargetUpdate(Request, TargetFields):
    """`target.update`: replace every field."""

    target_id: int


class TargetDelete(Request):
    """`target.delete`."""

    target_id: int


class Targets(Tolerant):
    """The answer to `target.list`, by name."""

    targets: tuple[Target, ...]
    revision: int


class TargetChanged(Tolerant):
    """The answer to `target.add` and `target.update`."""

    target: Target
    revision: int


# --- probes -----------------------------------------------------------------------------------------------------------
class ProbeForget(Request):
    """`probe.forget`: clear what the broker retains of a probe that is gone; its archive stays."""

    probe: Name


# --- the envelope of every answer ---------------------------------------------------------------------------------------
class Reply(Tolerant):
    """The answer to a request. `data` is the verb's answer, `fields` names every field at fault with its sentence."""

    v: Literal[1] = 1
    id: str
    status: Literal["ok", "error"]
    # Any: the model the verb's entry in VERBS names.
    data: dict[str, Any] | None = None
    error: ErrorInfo | None = None
    fields: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Verb:
    """A verb: what it is asked with and what it answers."""

    request: type[BaseModel]
    answer: type[BaseModel]
    changes: bool
    """Whether it changes something (and so needs more than the right to look)."""


VERBS: Final[dict[str, Verb]] = {
    "test.start": Verb(TestStart, TestTicket, changes=True),
    "test.cancel": Verb(TestCancel, TestTicket, changes=True),
    "archive.page": Verb(ArchivePage, ArchiveRows, changes=False),
    "archive.get": Verb(ArchiveGet, TestRecord, changes=False),
    "archive.comment": Verb(ArchiveComment, Done, changes=True),
    "archive.delete": Verb(ArchiveDelete, Done, changes=True),
    "target.list": Verb(TargetList, Targets, changes=False),
    "target.add": Verb(TargetAdd, TargetChanged, changes=True),
    "target.update": Verb(TargetUpdate, TargetChanged, changes=True),
    "target.delete": Verb(TargetDelete, Done, changes=True),
    "probe.forget": Verb(ProbeForget, Done, changes=True),
}
