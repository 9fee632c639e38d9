"""`probe/<name>/autotests`: everything a probe is to repeat."""

from typing import Literal

from pydantic import Field

from schemas import limits as lim
from schemas.base import Closed, TestId
from schemas.command import TestParts


class Autotest(TestParts):
    """One test and how often to repeat it."""

    id: TestId
    period_s: int = Field(lim.AUTOTEST_PERIOD_DEFAULT_S, ge=lim.AUTOTEST_PERIOD_MIN_S, le=lim.AUTOTEST_PERIOD_MAX_S)
    paused: bool = False
    comment: str = Field("", max_length=lim.COMMENT_MAX_CHARS)


class AutotestSet(Closed):
    """The whole set; an empty list removes all, an empty payload changes nothing."""

    v: Literal[1] = 1
    controller_id: TestId
    revision: int = Field(ge=1)
    autotests: tuple[Autotest, ...] = Field(max_length=lim.AUTOTESTS_PER_PROBE_MAX)
