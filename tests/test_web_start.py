"""The form that starts a test, against a real broker and a real controller; the probe is a test double that measures nothing."""

import threading
from collections.abc import Iterator

import pytest
from werkzeug.test import TestResponse

from netloom.ids import new_id
from schemas.request import TargetChanged
from tests.kit.brokers import start_mosquitto
from tests.kit.controllers import Asker, ScriptedProbe, client, scripted_probe, start_controller
from tests.kit.pages import BOTH, FORM, Site, fault_at, site, text_of, value_of
from tests.kit.wait import until


class Ground:
    """A page with everything behind it."""

    def __init__(self, page: Site, probe: ScriptedProbe, asker: Asker, url: str) -> None:
        self.page, self.probe, self.asker, self.url = page, probe, asker, url

    def total(self) -> int:
        return self.asker.page().total


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("start")
    with (
        start_mosquitto(folder, extra_conf="set_tcp_nodelay true") as broker,
        start_controller(broker.url, folder / "data", offline_after_s=600, silent_after_s=600),
        scripted_probe(broker.url) as probe,
        client(broker.url) as asker,
        site(broker.url) as page,
    ):
        page.wait_ready("paris")
        yield Ground(page, probe, asker, broker.url)


BETWEEN = "A whole number from "
NOT_UDP = "This is an option of TCP and does not go with UDP: leave it empty."
NONSENSE: list[tuple[str, str, str]] = [
    ("probe", "", "Choose a probe."),
    ("probe", "no such probe!", "Choose a probe: letters, digits, - and _, at most 64."),
    ("standard_test", "maybe", "Tick the box or leave it."),
    ("ping_target", "x", "This saved target is not there any more: choose another, or type one."),
    ("ping_host", "", "A target is needed: an IPv4 or IPv6 address, or a host name."),
    ("ping_host", "127.1", "'127.1' looks like an IPv4 address but is not one: write four numbers from 0 to 255."),
    (
        "ping_host",
        "999.1.1.1",
        "'999.1.1.1' looks like an IPv4 address but is not one: write four numbers from 0 to 255.",
    ),
    ("ping_host", "a b; reboot", "'a b; reboot' is neither an IP address nor a host name."),
    ("ping_host", "ex\u00e4mple", "Use plain ASCII: an internationalised name in its xn-- form."),
    ("packet_number", "9", f"{BETWEEN}10 to 300."),
    ("packet_number", "301", f"{BETWEEN}10 to 300."),
    ("packet_number", "", f"{BETWEEN}10 to 300."),
    ("packet_number", "1e2", f"{BETWEEN}10 to 300."),
    ("packet_number", "\u0661\u0660\u0660", f"{BETWEEN}10 to 300."),
    ("packet_number", "9" * 400, f"{BETWEEN}10 to 300."),
    ("packet_timeout", "0", f"{BETWEEN}1 to 5\u00a0s."),
    ("packet_timeout", "6", f"{BETWEEN}1 to 5\u00a0s."),
    ("packet_timeout", "2.5", f"{BETWEEN}1 to 5\u00a0s."),
    ("packet_timeout", "NaN", f"{BETWEEN}1 to 5\u00a0s."),
    ("speedtest", "on", "Tick the box or leave it."),
    ("speedtest_target", "77", "This saved target is not there any more: choose another, or type one."),
    ("speedtest_host", "-x", "'-x' is neither an IP address nor a host name."),
    ("speedtest_port", "0", f"{BETWEEN}1 to 65\u00a0535."),
    ("speedtest_port", "65536", f"{BETWEEN}1 to 65\u00a0535."),
    ("speedtest_port", "00x", f"{BETWEEN}1 to 65\u00a0535."),
    ("direction", "sideways", "Both, download or upload."),
    ("duration_s", "61", f"{BETWEEN}1 to 60\u00a0s."),
    ("streams", "17", f"{BETWEEN}1 to 16."),
    ("streams", "-1", f"{BETWEEN}1 to 16."),
    ("protocol", "sctp", "Tcp or udp."),
    ("bitrate", "0", "A number from 0.001 to 100\u00a0000\u00a0Mbit/s, or nothing."),
    ("bitrate", "1e9", "A number from 0.001 to 100\u00a0000\u00a0Mbit/s, or nothing."),
    ("omit_s", "11", f"{BETWEEN}0 to 10\u00a0s."),
    ("window", "0", f"{BETWEEN}1 to 65\u00a0536\u00a0KiB, or nothing."),
    ("mss", "10", f"{BETWEEN}88 to 9\u00a0216\u00a0bytes, or nothing."),
    ("congestion", "cubic; id", "The name of a TCP congestion control, such as cubic or bbr."),
    ("dscp", "64", f"{BETWEEN}0 to 63, or nothing."),
    ("comment", "x" * 501, "At most 500 characters; these are 501."),
    ("comment", "a\x00b", "Control characters are not allowed."),
]


@pytest.mark.parametrize(("field", "typed", "sentence"), NONSENSE, ids=[f"{f}={t[:12]!r}" for f, t, _ in NONSENSE])
def test_nonsense_is_refused_at_its_own_field_and_kept(ground: Ground, field: str, typed: str, sentence: str) -> None:
    form = BOTH | {field: typed}
    if field.endswith("_target"):
        form[field.replace("_target", "_host")] = ""
    before = ground.total()
    response = ground.page.post("/start", form)
    assert response.status_code == 422
    assert fault_at(response, field) == sentence
    assert response.text.count('role="alert"') == 1, "one fault, one sentence"
    if field.endswith(("_test", "speedtest", "_target", "direction", "protocol", "probe")):
        return  # boxes and lists, which keep their choice in another way
    assert value_of(response, field) == typed
    assert ground.total() == before


def test_what_was_typed_elsewhere_is_kept(ground: Ground) -> None:
    response = ground.page.post("/start", BOTH | {"packet_number": "5", "comment": "<two>\r\nlines", "bitrate": "12.5"})
    assert value_of(response, "ping_host") == "192.0.2.7"
    assert value_of(response, "comment") == "<two>\nlines"
    assert value_of(response, "bitrate") == "12.5"
    assert '<details class="options" open>' in response.text, "an option that was typed stays in sight"


def test_every_field_at_fault_has_its_own_sentence(ground: Ground) -> None:
    response = ground.page.post("/start", BOTH | {"packet_number": "x", "speedtest_host": "", "dscp": "99"})
    assert response.text.count('role="alert"') == 3
    assert all(fault_at(response, name) for name in ("packet_number", "speedtest_host", "dscp"))


@pytest.mark.parametrize(
    ("form", "field", "sentence"),
    [
        (FORM | {"standard_test": ""}, "standard_test", "Choose a standard test, a speedtest or both."),
        (BOTH | {"protocol": "udp", "mss": "1400"}, "mss", NOT_UDP),
        (BOTH | {"protocol": "udp", "congestion": "bbr"}, "congestion", NOT_UDP),
        (FORM | {"ping_target": "1"}, "ping_host", "Choose a saved target or type one, not both."),
    ],
    ids=["nothing", "mss", "congestion", "both"],
)  # fmt: skip
def test_fields_that_do_not_go_together(ground: Ground, form: dict[str, str], field: str, sentence: str) -> None:
    response = ground.page.post("/start", form)
    assert response.status_code == 422
    assert fault_at(response, field) == sentence


def test_unknown_and_doubled_fields_are_refused(ground: Ground) -> None:
    unknown = ground.page.post("/start", FORM | {"autotest": "True"})
    assert unknown.status_code == 422
    assert "There is no field 'autotest'." in text_of(unknown)
    doubled = ground.page.post("/start", {**FORM, "packet_number": ["10", "20"]})
    assert fault_at(doubled, "packet_number") == "This field was sent twice."
    damaged = ground.page.post("/start", FORM | {"id": "<x>"})
    assert "The form's own number is damaged: load the page again." in text_of(damaged)


def test_a_part_that_is_not_asked_for_is_not_judged(ground: Ground) -> None:
    number = ground.page.start(speedtest="", speedtest_port="no", mss="x")
    assert ground.asker.get(number=number).parts.speedtest is None  # type: ignore[union-attr]  # it has parts


def test_a_test_arrives_as_it_was_typed(ground: Ground) -> None:
    options = {
        "ping_host": "2001:db8::7",
        "packet_number": "300",
        "packet_timeout": "5",
        "direction": "upload",
        "speedtest_host": "lab.example",
        "speedtest_port": "60001",
        "duration_s": "3",
        "streams": "4",
        "bitrate": "12.5",
        "omit_s": "1",
        "window": "256",
        "mss": "1400",
        "congestion": "bbr",
        "dscp": "46",
        "comment": "h\u00f4tel \u2013 # / ; \U0001f600\r\n2nd",
    }
    number = ground.page.start(**{**BOTH, **options})
    record = ground.asker.get(number=number)
    sent = ground.probe.wait_command(record.summary.id)
    assert sent["ping"] | {"target": "2001:db8::7", "count": 300, "timeout_s": 5.0} == sent["ping"]
    expected = {
        "target": "lab.example",
        "port": 60001,
        "direction": "upload",
        "duration_s": 3,
        "streams": 4,
        "protocol": "tcp",
        "bitrate": 12_500_000,
        "omit_s": 1,
        "window": 256 * 1024,
        "mss": 1400,
        "congestion": "bbr",
        "dscp": 46,
    }
    assert sent["speedtest"] | expected == sent["speedtest"]
    assert sent["origin"] == "web"
    assert record.summary.comment == "h\u00f4tel \u2013 # / ; \U0001f600\n2nd"


def test_a_double_click_is_one_test(ground: Ground) -> None:
    form = FORM | {"id": new_id(), "comment": "double"}
    before = ground.total()
    answers: list[TestResponse] = []

    def click() -> None:
        with ground.page.client.application.test_client() as browser:
            answers.append(Site(ground.page.fabric, browser).post("/start", form))

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join(10)
    assert [answer.status_code for answer in answers] == [303] * 4
    assert len({answer.headers["Location"] for answer in answers}) == 1
    again = ground.page.post("/start", form)
    assert again.headers["Location"] == answers[0].headers["Location"]
    assert ground.total() == before + 1
    changed = ground.page.post("/start", form | {"comment": "another"})
    assert changed.headers["Location"] != again.headers["Location"], "a changed form is a new wish"


def test_a_fresh_page_carries_a_fresh_id_and_the_defaults(ground: Ground) -> None:
    first, second = ground.page.get("/"), ground.page.get("/")
    assert value_of(first, "id") != value_of(second, "id")
    defaults = {"packet_number": "100", "packet_timeout": "3", "speedtest_port": "5201", "duration_s": "10"}
    assert {name: value_of(first, name) for name in defaults} == defaults
    assert first.headers["Cache-Control"] == "no-store"
    assert '<option value="paris" selected>' in first.text


def test_only_fitting_saved_targets_are_offered(ground: Ground) -> None:
    for name, host, ping, speed in (("gw", "192.0.2.1", True, False), ("iperf", "192.0.2.2", False, True)):
        ground.asker.call(
            "target.add", TargetChanged, name=name, host=host, standard_test=ping, speedtest=speed, port=5999
        )
    until(lambda: "gw (192.0.2.1)" in ground.page.get("/").text, what="the new targets are offered")
    text = ground.page.get("/").text
    ping_list, speed_list = (
        text.split('id="speedtest_target"')[0].split('id="ping_target"')[1],
        text.split('id="speedtest_target"')[1],
    )
    assert "gw (" in ping_list
    assert "iperf (" not in ping_list
    assert "iperf (" in speed_list
    assert "gw (" not in speed_list
    numbers = {target.name: str(target.target_id) for target in ground.page.fabric.targets()}
    number = ground.page.start(
        **BOTH
        | {"ping_host": "", "ping_target": numbers["gw"], "speedtest_host": "", "speedtest_target": numbers["iperf"]}
    )
    parts = ground.asker.get(number=number).parts
    assert parts is not None
    assert parts.ping is not None
    assert parts.speedtest is not None
    assert (parts.ping.target, parts.speedtest.target, parts.speedtest.port) == ("192.0.2.1", "192.0.2.2", 5999)
    unfit = ground.page.post("/start", FORM | {"ping_host": "", "ping_target": numbers["iperf"]})
    assert fault_at(unfit, "ping_target") == "This saved target is not there any more: choose another, or type one."


def test_a_test_can_be_run_again(ground: Ground) -> None:
    number = ground.page.start(**BOTH | {"packet_number": "42", "bitrate": "100", "streams": "2", "comment": "again?"})
    page = ground.page.get(f"/?again={number}")
    kept = {"packet_number": "42", "bitrate": "100", "streams": "2", "comment": "again?", "ping_host": "192.0.2.7"}
    assert {name: value_of(page, name) for name in kept} == kept
    assert "There is no test 999999" in text_of(ground.page.get("/?again=999999"))
    assert ground.page.get("/?again=x%27").status_code == 200


def test_a_probe_that_is_not_there_is_explained(ground: Ground) -> None:
    unknown = ground.page.post("/start", FORM | {"probe": "atlantis"})
    assert unknown.status_code == 404
    assert (fault_at(unknown, "probe") or "").startswith("No probe is called 'atlantis'.")
    with scripted_probe(ground.url, "rome") as rome:
        ground.page.wait_ready("rome")
        rome.bus.publish("probe/rome/status", rome.status("offline", reason="stopped"), retain=True).wait(5)
        until(lambda: "it was stopped" in ground.page.get("/").text, what="rome is shown as stopped")
        offline = ground.page.post("/start", FORM | {"probe": "rome"})
        assert offline.status_code == 409
        assert "offline since" in (fault_at(offline, "probe") or "")
        assert value_of(offline, "ping_host") == "192.0.2.7"


def test_the_start_address_leads_back_to_the_form(ground: Ground) -> None:
    assert ground.page.get("/start").headers["Location"] == "/"
