"""What the page keeps of the bus, what it says when part of it is away, and what programs read from it."""

import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from schemas import codec, limits, topics
from schemas.progress import Progress
from schemas.status import ProbeStatus
from tests.kit.brokers import BrokerProcess, free_port, start_mosquitto
from tests.kit.controllers import ScriptedProbe, scripted_probe, start_controller
from tests.kit.pages import FORM, Site, site, text_of, value_of
from tests.kit.results import make_result
from tests.kit.wait import until
from web.cache import LIVE_KEPT_S, LIVE_MAX, Cache

DATA = Path(__file__).parent / "data"
NOW = "2026-11-23T20:15:04.123Z"


class StillClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> Any:
        return codec.validate(ProbeStatus, status_fields()).at + timedelta(seconds=self.seconds)


def status_fields(**changes: Any) -> dict[str, Any]:
    return {"state": "online", "instance": "i1", "connection": "c1", "at": NOW, "since": NOW, **changes}


def status(**changes: Any) -> ProbeStatus:
    return codec.validate(ProbeStatus, status_fields(**changes))


def progress(seq: int, test: str = "test-0001", **changes: Any) -> Progress:
    return codec.validate(Progress, {"id": test, "seq": seq, "at": NOW, "state": "running", **changes})


# --- the cache --------------------------------------------------------------------------------------------------------
def test_an_offline_of_an_older_connection_is_ignored() -> None:
    cache = Cache()
    cache.take_status("paris", status(connection="new"))
    assert not cache.take_status("paris", status(connection="old", state="offline"))
    assert cache.probes()[0].status == status(connection="new")
    assert cache.take_status("paris", status(connection="new", state="offline"))


def test_the_newest_result_stays_and_every_result_ends_its_test() -> None:
    cache = Cache()
    assert cache.take_result("paris", make_result(version=7))
    cache.take_progress("paris", progress(1))
    assert not cache.take_result("paris", make_result(version=6, id="test-0001"))
    assert cache.live("paris", "test-0001") is None
    assert not cache.take_progress("paris", progress(2)), "progress after the result is late"
    assert cache.result("paris", make_result().id) == make_result(version=7)
    assert cache.result("paris", "test-0001") is None


def test_another_installation_counts_afresh() -> None:
    cache = Cache()
    cache.take_status("paris", status())
    cache.take_result("paris", make_result(version=500))
    cache.take_status("paris", status(instance="i2"))
    assert cache.take_result("paris", make_result(version=1))


def test_progress_only_goes_forward() -> None:
    cache = Cache()
    assert cache.take_progress("paris", progress(5, percent=50))
    assert not cache.take_progress("paris", progress(5))
    assert not cache.take_progress("paris", progress(4))
    found = cache.live("paris", "test-0001")
    assert found is not None
    assert found.progress.percent == 50


def test_the_cache_is_bounded() -> None:
    clock = StillClock()
    cache = Cache(clock)
    for i in range(LIVE_MAX + 10):
        cache.take_progress("paris", progress(1, f"test-{i:04}"))
    assert cache.live("paris", "test-0009") is None
    assert cache.live("paris", "test-0010") is not None
    clock.seconds += LIVE_KEPT_S + 1
    cache.purge()
    assert cache.live("paris", "test-0010") is None


def test_a_missed_heartbeat_is_silence_not_online() -> None:
    clock = StillClock()
    cache = Cache(clock)
    cache.take_status("paris", status())
    assert cache.probes()[0].silent_s(clock.monotonic()) is None
    clock.seconds += limits.OFFLINE_AFTER_S + 1
    assert cache.probes()[0].silent_s(clock.monotonic()) == limits.OFFLINE_AFTER_S + 1


# --- away -------------------------------------------------------------------------------------------------------------
def timed(page: Site, path: str, form: dict[str, str] | None = None) -> tuple[Any, float]:
    began = time.monotonic()
    response = page.get(path) if form is None else page.post(path, form)
    return response, time.monotonic() - began


def test_a_broker_that_is_gone_is_told_within_three_seconds_and_starts_nothing(tmp_path: Path) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data", offline_after_s=600),
        scripted_probe(broker.url) as probe,
        site(broker.url) as page,
    ):
        page.wait_ready("paris")
        assert text_of(page.get("/fragments/banner")) == ""
        broker.kill()
        began = time.monotonic()
        until(lambda: "Broker unreachable since" in text_of(page.get("/fragments/banner")), 3, "the banner")
        refused, took = timed(page, "/start", FORM | {"comment": "kept"})
        assert time.monotonic() - began < 6
        assert took < 3
        assert refused.status_code == 503
        assert refused.headers.get("Cache-Control") == "no-store"
        assert "cannot be reached" in text_of(refused)
        assert value_of(refused, "comment") == "kept"
        assert "paris" in text_of(refused), "what was known is still shown"
        for path in ("/archive", "/t/1", "/targets"):
            away, took = timed(page, path)
            assert away.status_code == 503, path
            assert away.headers["Retry-After"]
            assert took < 3
        health = page.get("/healthz").json
        assert health is not None
        assert (health["status"], health["broker"]["up"], health["away"]["part"]) == ("degraded", False, "broker")
        broker.start()
        until(lambda: page.fabric.controller_online, 15, "all is back")
        until(lambda: text_of(page.get("/fragments/banner")) == "")
        until(lambda: page.get("/archive").status_code == 200, 15, "the controller is back as well")
        assert probe.commands == [], "what was refused does not happen later"


def test_a_controller_that_is_gone_is_told_and_starts_nothing(tmp_path: Path) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data", offline_after_s=600) as controller,
        scripted_probe(broker.url) as probe,
        site(broker.url) as page,
    ):
        page.wait_ready("paris")
        controller.stop()
        until(lambda: "Controller not there since" in text_of(page.get("/")), 3, "the banner")
        refused, took = timed(page, "/start", FORM)
        assert refused.status_code == 503
        assert took < 3
        assert "controller_unreachable" in text_of(refused)
        assert "paris" in text_of(page.get("/fragments/probes"))
        controller.start()
        until(lambda: page.fabric.controller_online, 10)
        until(lambda: "Controller not there" not in text_of(page.get("/")))
        assert probe.commands == []


def test_a_controller_that_hangs_costs_less_than_three_seconds(tmp_path: Path) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        scripted_probe(broker.url, "double") as double,
        site(broker.url) as page,
    ):
        # A test double of a controller: it says that it is there and answers nothing.
        now = page.fabric.clock.now()
        said = {"state": "online", "controller_id": "k", "connection": "c", "at": now, "started_at": now}
        double.bus.publish("controller/status", json.dumps(said, default=lambda t: t.isoformat()).encode(), retain=True)
        until(lambda: page.fabric.controller_online)
        refused, took = timed(page, "/start", FORM)
        assert took < 3
        assert refused.status_code == 503
        assert "did not answer within" in text_of(refused)
        index, took = timed(page, "/")
        assert took < 1, "a page that can do without does not wait again"
        assert index.status_code == 200


def test_a_broker_that_was_never_there() -> None:
    with site(f"mqtt://127.0.0.1:{free_port()}") as page:
        until(lambda: "Broker unreachable since" in text_of(page.get("/")), 4)
        assert page.post("/start", FORM).status_code == 503
        assert page.get("/healthz").status_code == 200


# --- garbage, and what is cleared -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with start_mosquitto(tmp_path_factory.mktemp("fabric")) as found:
        yield found


@pytest.fixture(scope="module")
def ground(broker: BrokerProcess) -> Iterator[tuple[Site, ScriptedProbe]]:
    with scripted_probe(broker.url, "lima") as probe, site(broker.url) as page:
        until(lambda: page.fabric.cache.probe("lima"))
        yield page, probe


GARBAGE = [b"x", b"[]", b'{"v":9}', b'{"state":1e999}', b"[" * 10_000, b'{"v":1}', b"\xff\xfe", b'{"id":NaN}']


def test_garbage_is_dropped_and_the_page_goes_on(ground: tuple[Site, ScriptedProbe]) -> None:
    page, probe = ground
    leaves: tuple[topics.ProbeLeaf, ...] = ("status", "result", "progress")
    for leaf in leaves:
        for payload in GARBAGE:
            probe.raw(leaf, payload)
    probe.bus.publish("probe/in valid/status", b"{}")
    probe.say_online(version="after-garbage")
    until(lambda: "after-garbage" in page.get("/fragments/probes").text)
    assert page.fabric._bus.counters["garbage"] >= 3 * len(GARBAGE) - 2
    assert page.fabric._bus.counters["handler_errors"] == 0


def test_the_name_comes_from_the_topic(ground: tuple[Site, ScriptedProbe]) -> None:
    page, probe = ground
    probe.bus.publish("probe/lima/result", make_result(probe_name="someone-else", version=3))
    until(lambda: (entry := page.fabric.cache.probe("lima")) and entry.result)
    assert page.fabric.cache.probe("someone-else") is None
    probe.bus.publish("probe/lima/result", b"", retain=True)
    until(lambda: (entry := page.fabric.cache.probe("lima")) and entry.result is None)


# --- for programs -----------------------------------------------------------------------------------------------------
def shape(value: Any) -> Any:
    """Keys and types of a document; a number is a number."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_the_json_view_has_supervisions_keys_and_types(broker: BrokerProcess) -> None:
    expected = json.loads((DATA / "supervision_json_view.json").read_text())
    for direction in expected["speedtest"].values():
        direction["json"] = json.loads(direction["json"])  # an object, as Supervision documented it
    speed = {
        name: {"status": "success", "result": found["result"], "json": found["json"]}
        for name, found in expected["speedtest"].items()
    }
    with scripted_probe(broker.url, "Paris_Rack1") as probe, site(broker.url) as page:
        result = make_result(
            probe_name="Paris_Rack1", speedtest={"target": {"host": "192.0.2.9", "port": 5201}, **speed}
        )
        probe.bus.publish("probe/Paris_Rack1/result", result, retain=True)
        until(lambda: (entry := page.fabric.cache.probe("Paris_Rack1")) and entry.result)
        response = page.client.get("/autotest_json?probe=Paris_Rack1")
    assert response.content_type == "application/json"
    assert shape(response.json) == shape(expected)


def test_the_json_view_finds_a_probe_by_what_it_announces(broker: BrokerProcess) -> None:
    with (
        scripted_probe(broker.url, "one") as one,
        scripted_probe(broker.url, "two") as two,
        site(broker.url) as page,
    ):
        one.say_online(address="192.0.2.1", announced={"address": "10.0.0.1", "port": 20001})
        two.say_online(address="192.0.2.2")
        for probe, version in ((one, 1), (two, 2)):
            found_by = make_result(probe_name=probe.name, version=version)
            probe.bus.publish(f"probe/{probe.name}/result", found_by, retain=True)
        until(lambda: all((e := page.fabric.cache.probe(n)) and e.result and e.status for n in ("one", "two")))
        until(lambda: (e := page.fabric.cache.probe("two")) and e.status and e.status.address)

        def found(query: str) -> Any:
            response = page.client.get(f"/autotest_json?{query}")
            assert response.status_code == 200
            assert response.content_type == "application/json"
            return response.json and response.json["probe_name"]

        until(lambda: found("address=10.0.0.1&port=20001") == "one")
        assert found("address=192.0.2.2&port=20000") == "two", "its own address and 20000"
        nothing = (
            "address=192.0.2.1&port=20000",
            "address=10.0.0.1&port=x",
            "address=&port=",
            "probe=nope",
            "probe=%00",
            "",
        )
        assert [found(query) for query in nothing] == [None] * len(nothing)
        two.say_online(announced={"address": "10.0.0.1", "port": 20001})
        until(lambda: found("address=10.0.0.1&port=20001") is None, what="two with one address are ambiguous")


def test_healthz_tells_what_is_reached(tmp_path: Path) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data"),
        site(broker.url) as page,
    ):
        page.wait_ready()
        document = page.get("/healthz").json
        assert document is not None
        assert document["status"] == "ok"
        assert document["broker"] == {"url": broker.url, "up": True}
        assert document["controller"]["online"] is True
        assert document["away"] is None
        assert re.fullmatch(r"\d+\.\d+\.\d+", document["version"])
