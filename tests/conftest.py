"""Fixtures that every test may use: brokers, both kinds where the test asks for `broker`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.brokers import BROKERS, BrokerProcess, start_broker


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    """A real broker in a process of its own: the embedded one, then mosquitto."""
    with start_broker(request.param, tmp_path) as found:
        yield found


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A real mosquitto."""
    with start_broker("mosquitto", tmp_path) as found:
        yield found
