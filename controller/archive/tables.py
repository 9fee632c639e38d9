"""What the archive stores. Plain SQL types only, so that SQLite and PostgreSQL hold the same.

`tests` is what the list shows and filters; its rows stay short, because a filter may have to look at each. The documents of a test
lie apart from it, and iperf3's own JSON, which is the bulk, lies compressed apart from those.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)

LAYOUT: Final = 1
"""The version of these tables; a change needs a step in `engine.STEPS`."""

NUMBER_MAX: Final = 2**63 - 1
"""The largest integer a database holds; what a client asks for beyond it exists nowhere."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class InstantMs(TypeDecorator[datetime]):
    """An aware time as milliseconds since 1970: it sorts, and no database puts a zone of its own on it."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To the database."""
        return None if value is None else (value - _EPOCH) // timedelta(milliseconds=1)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """From the database."""
        return None if value is None else _EPOCH + timedelta(milliseconds=value)


metadata = MetaData()

tests = Table(
    "tests",
    metadata,
    # SQLite gives out AUTOINCREMENT numbers only for this very type; PostgreSQL makes it a sequence.
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False),
    Column("probe", String(64), nullable=False),
    Column("request_id", String(64), unique=True),
    Column("state", String(16), nullable=False),
    Column("silent", Boolean, nullable=False, server_default=false()),
    Column("origin", String(32), nullable=False),
    Column("autotest_id", String(64)),
    Column("created_at", InstantMs, nullable=False),
    Column("measured_at", InstantMs),
    Column("ended_at", InstantMs),
    Column("duration_s", Float),
    Column("ttl_s", Integer),
    Column("deadline_at", InstantMs),
    Column("cancel_at", InstantMs),
    Column("has_result", Boolean, nullable=False, server_default=false()),
    Column("ping_target", String(255)),
    Column("speedtest_target", String(320)),
    Column("ping_avg", Float),
    Column("jitter", Float),
    Column("loss_percent", Float),
    Column("mos", Float),
    Column("download", Float),
    Column("upload", Float),
    # What the filters look into, in small letters: SQLite and PostgreSQL disagree on what LIKE does with capitals.
    Column("hosts_folded", Text, nullable=False, server_default=""),
    Column("comment_folded", Text, nullable=False, server_default=""),
    Column("comment", Text, nullable=False, server_default=""),
    Column("error", Text),
    UniqueConstraint("probe", "id", name="uq_tests_probe_id"),
    sqlite_autoincrement=True,
)

Index("ix_tests_id", tests.c.id)
Index("ix_tests_probe", tests.c.probe, tests.c.number)
Index("ix_tests_probe_state", tests.c.probe, tests.c.state, tests.c.number)
Index("ix_tests_state", tests.c.state, tests.c.number)
Index("ix_tests_hosts", tests.c.hosts_folded, tests.c.probe, tests.c.state, tests.c.number)
Index(
    "ix_tests_comment",
    tests.c.comment_folded,
    tests.c.probe,
    tests.c.state,
    tests.c.number,
    sqlite_where=tests.c.comment_folded != "",
    postgresql_where=tests.c.comment_folded != "",
)

documents = Table(
    "documents",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("parts", Text),
    Column("result", Text),
)

raw = Table(
    "raw",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("probe", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("request_id", String(64), unique=True),
    Column("deleted_at", InstantMs, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("value", Text, nullable=False),
)
