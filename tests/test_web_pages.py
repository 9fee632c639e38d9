"""Test page, archive, targets, probes and errors, against a real broker and controller; the probe is a test double."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from schemas.errors import error
from tests.kit.brokers import start_mosquitto
from tests.kit.controllers import Asker, ScriptedProbe, client, scripted_probe, start_controller
from tests.kit.pages import BOTH, FORM, Site, fault_at, site, text_of, value_of
from tests.kit.wait import until

XSS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "{{7*7}}${7*7}",
    "</pre></textarea><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "]]><!--",
]
TAGS = re.compile(r"<(?:img|svg/|script>|!--)|\b49\$", re.IGNORECASE)
"""What a payload would have become, unescaped or evaluated; the pages themselves use none of these."""


class Ground:
    """A page with everything behind it."""

    def __init__(self, page: Site, probe: ScriptedProbe, asker: Asker, url: str) -> None:
        self.page, self.probe, self.asker, self.url = page, probe, asker, url

    def begin(self, **fields: str) -> tuple[int, str]:
        """Start a test that the probe has been told of; return its number and id."""
        number = self.page.start(**fields)
        test_id = self.asker.get(number=number).summary.id
        self.probe.wait_command(test_id)
        self.probe.progress(test_id, "accepted", number=number)
        return number, test_id

    def finish(self, number: int, test_id: str, **changes: Any) -> None:
        self.probe.result(test_id, number=number, **changes)
        until(lambda: self.asker.get(test=test_id).result, what="the result is in the archive")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("pages")
    with (
        start_mosquitto(folder, extra_conf="set_tcp_nodelay true") as broker,
        start_controller(broker.url, folder / "data", offline_after_s=600, silent_after_s=600),
        scripted_probe(broker.url) as probe,
        client(broker.url) as asker,
        site(broker.url) as page,
    ):
        page.wait_ready("paris")
        yield Ground(page, probe, asker, broker.url)


def steps(response: TestResponse) -> list[tuple[str, str]]:
    return re.findall(r'<li class="is-(\w+)"[^>]*><svg.*?</svg>(.*?)</li>', response.text)


# --- a test -----------------------------------------------------------------------------------------------------------
def test_a_running_test_shows_its_steps_and_latest_figures(ground: Ground) -> None:
    number, test_id = ground.begin(**BOTH)
    figures = {"rtt_ms": 21.4, "jitter": 2.1, "loss_percent": 2.3, "mos": 4.1, "samples": [21.0, None, 21.4]}
    ground.probe.progress(
        test_id, "running", number=number, part="ping", done=43, total=100, percent=9, eta_s=23.2, figures=figures
    )
    until(lambda: ground.page.fabric.cache.live("paris", test_id), what="the page heard the progress")
    until(lambda: "Ping 43 of 100" in text_of(ground.page.get(f"/t/{number}")))
    page = ground.page.get(f"/t/{number}")
    assert steps(page) == [
        ("done", "Sent"),
        ("done", "Accepted"),
        ("now", "Ping"),
        ("todo", "Download"),
        ("todo", "Upload"),
        ("todo", "Done"),
    ]
    text = text_of(page)
    for figure in ("21.4 ms", "2.10 ms", "2.3 %", "4.10", "at most 24 s left"):
        assert figure in text
    assert '<progress class="bar" max="100" value="9"' in page.text
    assert f'action="/t/{number}/cancel"' in page.text
    assert f"/t/{number}/delete" not in page.text.split("<dialog")[0], "a running test cannot be deleted"


def test_cancel_reaches_the_probe_and_says_so(ground: Ground) -> None:
    number, test_id = ground.begin()
    response = ground.page.post(f"/t/{number}/cancel")
    assert response.status_code == 303
    assert "The test is being cancelled." in text_of(ground.page.get(response.headers["Location"]))
    ground.probe.wait_command(test_id, kind="cancel")
    ground.finish(number, test_id, status="cancelled")
    again = ground.page.post(f"/t/{number}/cancel")
    assert again.status_code == 409
    assert "has already ended" in text_of(again)


def test_a_result_shows_every_figure_with_its_unit(ground: Ground) -> None:
    number, test_id = ground.begin(**BOTH)
    detail = {"mos_detail": {"r": 88.5, "one_way_ms": 35.4}, "jitter_detail": {"rfc3550": 1.79, "ipdv_mean": 2.02}}
    ground.finish(number, test_id, status="error", **detail)
    page = ground.page.get(f"/t/{number}")
    text = text_of(page)
    for figure in (
        "23.7 ms", "20.9 ms", "31.2 ms", "1.79 ms", "2.02 ms", "25.0 %", "1 of 4 packets",
        "4.6\N{EN DASH}69.9 %", "4.30", "88.5", "40.0 Mbit/s", "30.0 Mbit/s", "50.0 Mbit/s",
        "The iperf3 server was busy.", "lab.example", "192.0.2.7",
    ):  # fmt: skip
        assert figure in text, figure
    rows = re.findall(r"<tr><td>(\d+)</td><td>(.*?)</td></tr>", page.text)
    assert rows == [("1", "21.000"), ("2", "lost"), ("3", "22.400"), ("4", "31.200")]
    assert "Upload \N{EN DASH}" in text, "what could not be measured is a dash, never 0"
    assert '"version": "iperf 3.12"' in text


def test_what_could_not_be_measured_says_why(ground: Ground) -> None:
    number, test_id = ground.begin()
    silent = error("target_silent", sent=100).model_dump()
    loss = {"packet_number": 100, "packet_percent": 100.0, "low": 96.3, "high": 100.0}
    nothing = {"ping": {"samples": [None] * 100}, "jitter": None, "mos": 1.0, "packet_number": 100, "speedtest": None}
    ground.finish(number, test_id, errors={"ping": silent}, packet_loss=loss, **nothing)
    text = text_of(ground.page.get(f"/t/{number}"))
    assert "None of 100 packets was answered" in text
    assert "target_silent" in text
    assert "The host may be down, or drop ICMP." in text
    assert "Round trip, mean \N{EN DASH}" in text
    assert "100 %" in text


def test_a_refused_test_names_code_and_remedy(ground: Ground) -> None:
    number, test_id = ground.begin()
    denied = error("target_denied", host="lab.example", address="127.0.0.1", rule="loopback")
    ground.probe.progress(test_id, "rejected", number=number, error=denied.model_dump(), field="ping.target")
    until(lambda: "Refused" in text_of(ground.page.get(f"/t/{number}")))
    text = text_of(ground.page.get(f"/t/{number}"))
    assert denied.message in text
    assert denied.hint in text
    assert "target_denied" in text


def test_a_result_is_shown_before_the_archive_has_it(ground: Ground) -> None:
    number, test_id = ground.begin()
    ground.probe.result(test_id, number=number, version=10_000, retain=True)
    until(lambda: ground.page.fabric.cache.result("paris", test_id), what="the page heard the result")
    page = ground.page.get(f"/fragments/t/{number}")
    assert "hx-get" not in page.text.split("<dialog")[0]
    assert "23.7 ms" in text_of(page)


def test_a_comment_is_edited_in_place(ground: Ground) -> None:
    number, test_id = ground.begin()
    response = ground.page.post(f"/t/{number}/comment", {"comment": "line\r\ntwo \u03a9"})
    assert response.status_code == 303
    page = ground.page.get(response.headers["Location"])
    assert "Success. Test updated." in text_of(page)
    assert value_of(page, "comment") == "line\ntwo \u03a9"
    assert "Test updated." not in text_of(ground.page.get(f"/t/{number}")), "a message is shown once"
    bad = ground.page.post(f"/t/{number}/comment", {"comment": "y" * 501})
    assert bad.status_code == 422
    assert fault_at(bad, "comment") == "At most 500 characters; these are 501."
    assert value_of(bad, "comment") == "y" * 501
    assert ground.asker.get(test=test_id).summary.comment == "line\ntwo \u03a9"


def test_deleting_asks_first(ground: Ground) -> None:
    number, test_id = ground.begin()
    early = ground.page.post(f"/t/{number}/delete")
    assert early.status_code == 409
    assert "Cancel it first" in text_of(early)
    ground.finish(number, test_id)
    asked = ground.page.get(f"/t/{number}/delete")
    assert f"Delete test {number}?" in text_of(asked)
    assert ground.asker.get(test=test_id).summary.number == number, "asking deletes nothing"
    done = ground.page.post(f"/t/{number}/delete")
    assert done.headers["Location"] == "/archive"
    assert "Test deleted." in text_of(ground.page.get("/archive"))
    gone = ground.page.get(f"/t/{number}")
    assert gone.status_code == 404
    assert f"There is no test {number}" in text_of(gone)


# --- the archive --------------------------------------------------------------------------------------------------------
def test_the_archive_pages_by_key_and_filters_in_the_address(ground: Ground) -> None:
    numbers = [ground.page.start(comment=f"page me {i}", ping_host="paged.example") for i in range(52)]
    first = ground.page.get("/archive?target=paged.example")
    shown = [int(n) for n in re.findall(r'id="row-(\d+)"', first.text)]
    assert shown == numbers[:1:-1], "newest first, 50 to a page"
    assert re.search(r"52 of \d+ match", text_of(first))
    older = re.search(r'rel="next" href="([^"]+)"', first.text)
    assert older is not None
    second = ground.page.get(older[1].replace("&amp;", "&"))
    assert [int(n) for n in re.findall(r'id="row-(\d+)"', second.text)] == numbers[1::-1]
    newer = re.search(r'rel="prev" href="([^"]+)"', second.text)
    assert newer is not None
    assert re.findall(r'id="row-(\d+)"', ground.page.get(newer[1].replace("&amp;", "&")).text)[0] == str(numbers[-1])
    assert "Standard test → paged.example" in text_of(first)
    one = ground.page.get("/archive?text=page%20me%2017&probe=paris&state=waiting")
    assert re.findall(r'id="row-(\d+)"', one.text) == [str(numbers[17])]
    assert value_of(one, "text") == "page me 17"
    for number in numbers:
        ground.page.post(f"/t/{number}/cancel")


def test_no_match_offers_to_clear_the_filters(ground: Ground) -> None:
    ground.page.start()
    page = ground.page.get("/archive?target=no-such-target")
    assert re.search(r"0 of \d+ match\.", text_of(page))
    assert '<a class="button" href="/archive">Clear filters</a>' in page.text


@pytest.mark.parametrize(
    ("query", "field", "sentence"),
    [
        ("state=foo", "state", "One of waiting, queued, accepted,"),
        ("probe=%3Cx%3E", "probe", "The name of a probe: letters, digits, - and _, at most 64."),
        (f"text={'x' * 101}", "text", "At most 100 characters."),
        (f"target={'x' * 300}", "target", "A part of an address or of a host name, at most 253 characters."),
    ],
)
def test_a_filter_that_does_not_hold_says_so_at_its_place(
    ground: Ground, query: str, field: str, sentence: str
) -> None:
    page = ground.page.get(f"/archive?{query}")
    assert page.status_code == 422
    assert (fault_at(page, field) or "").startswith(sentence)


@pytest.mark.parametrize("query", ["older_than=x", "older_than=-1", "newer_than=1e3", "older_than=5&newer_than=2"])
def test_a_place_in_the_archive_that_does_not_hold(ground: Ground, query: str) -> None:
    page = ground.page.get(f"/archive?{query}")
    assert page.status_code == 422
    assert 'role="alert"' in page.text


def test_an_empty_archive_leads_to_the_first_test(tmp_path: Any) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        start_controller(broker.url, tmp_path / "data"),
        site(broker.url) as page,
    ):
        page.wait_ready()
        assert "Run the first test" in text_of(page.get("/archive"))
        assert "No target is saved yet." in text_of(page.get("/targets"))
        index = text_of(page.get("/"))
        assert "No probe is connected yet." in index
        assert f"netloom probe --name paris --broker {broker.url}" in index


# --- targets ------------------------------------------------------------------------------------------------------------
def test_a_target_is_added_updated_and_deleted_with_its_message(ground: Ground) -> None:
    form = {"name": "hall 2", "host": "hall2.example", "standard_test": "yes", "port": "5201"}
    added = ground.page.post("/targets", form)
    assert added.status_code == 303
    listed = ground.page.get("/targets")
    assert "Target added." in text_of(listed)
    assert "hall2.example" in text_of(listed)
    number = re.search(r'href="/targets/(\d+)" aria-label="Edit hall 2"', listed.text)
    assert number is not None
    edit = ground.page.get(f"/targets/{number[1]}")
    assert value_of(edit, "host") == "hall2.example"
    ground.page.post(f"/targets/{number[1]}", form | {"host": "2001:db8::2", "speedtest": "yes", "port": "60999"})
    changed = text_of(ground.page.get("/targets"))
    assert "Target updated." in changed
    assert "2001:db8::2" in changed
    assert "port 60999" in changed
    assert "Delete the target hall 2?" in text_of(ground.page.get(f"/targets/{number[1]}/delete"))
    ground.page.post(f"/targets/{number[1]}/delete")
    gone = text_of(ground.page.get("/targets"))
    assert "Target deleted." in gone
    assert "hall 2" not in gone
    assert ground.page.get(f"/targets/{number[1]}").status_code == 404
    assert ground.page.post(f"/targets/{number[1]}", form).status_code == 404


TARGET = {"name": "good", "host": "192.0.2.1", "standard_test": "yes", "speedtest": "yes", "port": "5201"}


@pytest.mark.parametrize(
    ("field", "typed", "sentence"),
    [
        ("name", "", "A name of 1 to 64 characters."),
        ("name", "n" * 65, "A name of 1 to 64 characters."),
        ("host", "", "A target is needed: an IPv4 or IPv6 address, or a host name."),
        ("host", "http://x/", "'http://x/' is neither an IP address nor a host name."),
        ("port", "0", "A whole number from 1 to 65\u00a0535."),
        ("port", "abc", "A whole number from 1 to 65\u00a0535."),
        ("standard_test", "2", "Tick the box or leave it."),
    ],
)
def test_a_target_that_does_not_hold(ground: Ground, field: str, typed: str, sentence: str) -> None:
    before = len(ground.page.fabric.targets())
    page = ground.page.post("/targets", TARGET | {field: typed})
    assert page.status_code == 422
    assert fault_at(page, field) == sentence
    if field != "standard_test":
        assert value_of(page, field) == typed
    assert len(ground.page.fabric.targets()) == before


def test_a_target_is_for_something_and_its_name_is_its_own(ground: Ground) -> None:
    page = ground.page.post("/targets", TARGET | {"standard_test": "", "speedtest": ""})
    assert fault_at(page, "standard_test") == "Choose what the target is for: standard tests, speedtests or both."
    assert ground.page.post("/targets", TARGET | {"name": "twice"}).status_code == 303
    again = ground.page.post("/targets", TARGET | {"name": "twice"})
    assert again.status_code == 409
    assert (fault_at(again, "name") or "").startswith("A saved target is already called 'twice'.")


# --- probes -------------------------------------------------------------------------------------------------------------
def test_the_list_of_probes_tells_states_and_problems(ground: Ground) -> None:
    with scripted_probe(ground.url, "oslo", online=False) as oslo:
        refused = error("icmp_not_permitted", reason="ping_group_range is 1 0").model_dump()
        capabilities = {
            "ping": {"available": False, "error": refused},
            "speedtest": {"available": True, "detail": {"iperf3": "3.12"}},
        }
        double = error("duplicate_name", probe="oslo", address="192.0.2.8").model_dump()
        running = [{"id": "running-1", "number": 77, "part": "ping", "percent": 43}]
        oslo.say_online(version="9.8.7", capabilities=capabilities, problem=double, running=running, queued=2)
        until(lambda: ground.page.fabric.cache.probe("oslo"))
        page = ground.page.get("/fragments/probes/oslo")
        text = text_of(page)
        for words in ("Busy", "Test 77", "Ping", "2 waiting", "v9.8.7", "iperf3 3.12", "Another probe is connected as"):
            assert words in text
        assert "Standard tests are not possible on oslo." in text
        assert "<code>sysctl -w net.ipv4.ping_group_range=&#39;0 2147483647&#39;</code>" in page.text
        assert "oslo (busy: Test 77)" in ground.page.get("/").text
        oslo.bus.publish("probe/oslo/status", oslo.status("offline", reason="will"), retain=True).wait(5)
        until(lambda: "Offline" in text_of(ground.page.get("/fragments/probes/oslo")))
        assert "its connection was lost" in text_of(ground.page.get("/fragments/probes/oslo"))
        forgotten = ground.page.post("/probes/oslo/forget")
        assert forgotten.status_code == 303, text_of(forgotten)
        until(lambda: ground.page.get("/fragments/probes/oslo").text == "", what="oslo is gone")
        assert "Probe forgotten." in text_of(ground.page.get("/"))


def test_a_probe_without_a_result_says_so(ground: Ground) -> None:
    with scripted_probe(ground.url, "quito"):
        ground.page.wait_ready("quito")
        assert "No result yet." in text_of(ground.page.get("/fragments/probes/quito"))


# --- hostile text -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("payload", XSS)
def test_hostile_text_is_shown_and_never_run(ground: Ground, payload: str) -> None:
    number, test_id = ground.begin(**FORM | {"comment": payload})
    fault = {"code": payload, "message": payload, "hint": payload}
    document = {"start": {"version": payload, payload: [payload]}}
    speed = {
        "target": {"host": payload, "address": payload, "port": 1},
        "download": {"status": "success", "result": {"avg": 1.0}, "json": document, "congestion": payload},
        "upload": {"status": "error", "message": payload},
    }
    ground.finish(
        number, test_id, status="error", errors={payload: fault}, speedtest=speed, comment=payload,
        target={"host": payload, "address": payload}, probe={"version": payload, "iperf3": payload}, origin=payload,
    )  # fmt: skip
    ground.probe.say_online(
        version=payload, address=payload, problem=fault, capabilities={payload: {"available": False, "error": fault}}
    )
    until(lambda: payload in text_of(ground.page.get("/fragments/probes/paris")), what="the probe says it")
    ground.page.post("/targets", {"name": payload, "host": "192.0.2.1", "standard_test": "yes"})
    for path in ("/", f"/t/{number}", "/archive", "/targets", f"/archive?text={number}", f"/nope/{payload}"):
        page = ground.page.get(path)
        assert not TAGS.findall(page.text), path
    shown = ground.page.get(f"/t/{number}")
    assert value_of(shown, "comment") == payload
    assert payload in text_of(shown) or payload.startswith("<"), "it is shown as it is"
    legacy = ground.page.get("/autotest_json?probe=paris")
    assert legacy.content_type == "application/json"
    ground.probe.say_online()


def test_iperf_json_is_shown_whole(ground: Ground) -> None:
    number, test_id = ground.begin(**BOTH)
    ground.finish(number, test_id)
    raw = re.search(
        r'<pre class="raw" id="raw-download" tabindex="0">(.*?)</pre>', ground.page.get(f"/t/{number}").text, re.DOTALL
    )
    assert raw is not None
    assert json.loads(raw[1].replace("&#34;", '"')) == {"start": {"version": "iperf 3.12"}, "end": {}}


# --- errors and colours ---------------------------------------------------------------------------------------------------
def test_an_unknown_page_is_404_with_its_next_step(ground: Ground) -> None:
    page = ground.page.get("/nope")
    assert page.status_code == 404
    text = text_of(page)
    assert "There is no page /nope." in text
    assert "page_not_found" in text
    assert page.headers["X-Request-Number"] in text
    machine = ground.page.client.get("/nope")
    assert machine.content_type == "application/problem+json"
    assert machine.json is not None
    assert machine.json | {"status": 404, "code": "page_not_found"} == machine.json


def test_a_wrong_method_is_405(ground: Ground) -> None:
    page = ground.page.post("/archive")
    assert page.status_code == 405
    assert "GET" in page.headers["Allow"]
    assert ground.page.get("/t/1/cancel").status_code == 405


def test_a_fault_of_ours_is_500_with_a_number_and_no_details(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(ground.page.fabric.cache, "probes", broken)
    page = ground.page.get("/fragments/probes")
    assert page.status_code == 500
    assert page.headers["X-Request-Number"] in text_of(page)
    assert "secret detail" not in page.text
    assert page.headers["X-Request-Number"] in caplog.text


def test_the_theme_is_kept_and_rendered(ground: Ground) -> None:
    assert "data-theme" not in ground.page.get("/").text
    chosen = ground.page.post("/theme", {"theme": "dark", "back": "/archive?state=done"})
    assert chosen.headers["Location"] == "/archive?state=done"
    assert '<html lang="en" data-theme="dark">' in ground.page.get("/").text
    for bad in ("//evil.example/", "https://evil.example", "/\\evil.example", "/a\r\nb", ""):
        assert ground.page.post("/theme", {"theme": "nonsense", "back": bad}).headers["Location"] == "/"
    assert "data-theme" not in ground.page.get("/").text
