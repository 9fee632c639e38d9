"""The page in a real Chromium, with a real broker, controller, probe and iperf3 server behind it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from broker.requests import Refusal
from tests.kit import iperf
from tests.kit.brokers import BrokerProcess, start_mosquitto
from tests.kit.controllers import Asker, client, scripted_probe, start_controller
from tests.kit.pages import Running, serve
from tests.kit.probes import start_probe
from tests.kit.results import make_result
from tests.kit.wait import until

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TEST_MS = 20_000
PAGES = ("/", "/archive", "/targets", "/nope")


@dataclass
class House:
    """Everything behind the page."""

    page: Running
    broker: BrokerProcess
    asker: Asker
    iperf_port: int

    @property
    def url(self) -> str:
        return self.page.url.rstrip("/")

    def knows_paris(self) -> bool:
        try:
            self.done()
        except Refusal:
            return False
        return True

    def done(self, **fields: object) -> int:
        """Run a short ping and return its number."""
        ticket = self.asker.start("paris", ping={"target": "127.0.0.1", "count": 12, "timeout_s": 1.0}, **fields)
        self.asker.wait_state(ticket.id, "done")
        return ticket.number


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with (
        start_mosquitto(folder, extra_conf="set_tcp_nodelay true") as broker,
        start_controller(broker.url, folder / "controller", offline_after_s=60, silent_after_s=10),
        start_probe(broker.url, folder),
        iperf.server() as server,
        client(broker.url) as asker,
        serve(broker.url, folder / "web") as page,
    ):
        asker.wait_controller()
        house = House(page, broker, asker, server.port)
        until(house.knows_paris, what="the controller knows the probe")
        yield house


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


class Watched:
    """A context whose pages note every complaint and every request that leaves the machine."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.context = context
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self._origin = urlsplit(origin).netloc
        context.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        context.on("weberror", lambda e: self.complaints.append(str(e.error)))
        context.on("dialog", lambda d: self.complaints.append(f"dialog {d.message}"))
        context.on("request", lambda r: None if self._own(r.url) else self.foreign.append(r.url))
        context.set_default_timeout(8_000)

    def _own(self, url: str) -> bool:
        return urlsplit(url).netloc == self._origin or url.startswith(("data:", "blob:"))

    def open(self, url: str) -> Page:
        page = self.context.new_page()
        page.goto(url)
        return page

    def quiet(self) -> None:
        assert self.complaints == []
        assert self.foreign == []


@pytest.fixture
def watched(browser: Browser, house: House) -> Iterator[Watched]:
    context = browser.new_context(timezone_id="Europe/Paris")
    yield Watched(context, house.url)
    context.close()


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def live(page: Page) -> None:
    expect(page.locator("#link-state")).to_have_text("Live")


def test_a_test_from_start_to_deletion(house: House, watched: Watched) -> None:
    elsewhere = watched.open(f"{house.url}/archive")
    live(elsewhere)
    page = watched.open(f"{house.url}/?probe=paris")
    expect(page.locator("#probe-paris")).to_contain_text("Free")
    page.fill("#ping_host", "127.0.0.1")
    page.fill("#packet_number", "60")
    page.fill("#speedtest_host", "127.0.0.1")
    page.fill("#speedtest_port", str(house.iperf_port))
    page.click("summary:has-text('iperf3 options')")
    page.fill("#duration_s", "2")
    page.fill("#comment", "from the browser <b>&</b>")
    page.dblclick("#start-button")
    page.wait_for_url("**/t/*")
    # Live: figures appear while it runs, and nobody reloads.
    expect(page.locator("#test .step")).to_have_text(re.compile(r"Ping \d+ of 60"), timeout=TEST_MS)
    expect(page.locator("[data-live=rtt]")).to_have_text(re.compile(r"[\d.]+\sms"))
    expect(page.locator("[data-live=download]")).to_have_text(re.compile(r"[\d.]+\s[GM]bit/s"), timeout=TEST_MS)
    expect(page.locator(".test-head .state")).to_have_text("Done", timeout=TEST_MS)
    # The result.
    for card in ("rtt", "jitter", "loss", "mos", "download", "upload"):
        expect(page.locator(f".card-figure.is-{card} .figure")).to_have_text(re.compile(r"\d"))
    expect(page.locator(".is-loss .figure")).to_have_text("0\u00a0%")
    expect(page.locator("#chart canvas")).to_be_visible()
    page.click("summary:has-text('View as table')")
    assert page.locator("#samples tbody tr").count() == 60
    page.click("summary:has-text('Download, JSON')")
    expect(page.locator("#raw-download")).to_contain_text("sum_received")
    expect(page.locator("[data-copy=raw-download]")).to_be_visible()
    page.click("[data-copy=raw-download]")
    expect(page.locator("[data-copy=raw-download]")).to_have_text(re.compile("Copied|Selected"))
    expect(page.locator("#test time").first).to_have_attribute("title", re.compile(r"UTC .*Europe/Paris"))
    # Its comment.
    expect(page.locator("#comment")).to_have_value("from the browser <b>&</b>")
    page.fill("#comment", "edited in place")
    page.click("#save-comment")
    expect(page.locator("[data-note]")).to_contain_text("Test updated.")
    page.click("[data-close]")
    expect(page.locator("[data-note]")).to_have_count(0)
    # The archive that was open all along heard of it.
    expect(elsewhere.locator("#archive-news")).to_be_visible()
    elsewhere.click("#archive-news a")
    number = page.url.rpartition("/")[2]
    expect(elsewhere.locator(f"#row-{number}")).to_contain_text("edited in place")
    assert elsewhere.locator("tbody tr:has-text('edited in place')").count() == 1, "a double click is one test"
    # Deleted, after a second thought.
    page.click("#delete")
    expect(page.locator("#delete-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#delete-dialog")).to_be_hidden()
    page.click("#delete")
    page.click("#delete-really")
    page.wait_for_url("**/archive")
    expect(page.locator("[data-note]")).to_contain_text("Test deleted.")
    expect(page.locator(f"#row-{number}")).to_have_count(0)
    watched.quiet()


def test_a_running_test_is_cancelled(house: House, watched: Watched) -> None:
    page = watched.open(f"{house.url}/?probe=paris")
    page.uncheck("#standard_test")
    page.fill("#speedtest_host", "127.0.0.1")
    page.fill("#speedtest_port", str(house.iperf_port))
    page.fill("#ping_host", "")
    page.click("#start-button")
    page.wait_for_url("**/t/*")
    expect(page.locator("[data-live=download]")).to_have_text(re.compile(r"bit/s"), timeout=TEST_MS)
    page.click("#cancel")
    expect(page.locator(".test-head .state")).to_have_text("Cancelled", timeout=TEST_MS)
    watched.quiet()


def test_errors_stand_at_their_fields_and_the_first_has_the_focus(house: House, watched: Watched) -> None:
    page = watched.open(house.url)
    page.fill("#ping_host", "127.1")
    page.fill("#packet_number", "5")
    page.uncheck("#speedtest")
    page.fill("#comment", "kept")
    page.click("#start-button")
    expect(page.locator("#ping_host")).to_be_focused()
    expect(page.locator("#ping_host-fault")).to_contain_text("write four numbers")
    expect(page.locator("#packet_number-fault")).to_have_text("A whole number from 10 to 300.")
    expect(page.locator("#comment")).to_have_value("kept")
    expect(page.locator("#speedtest")).not_to_be_checked()
    assert watched.complaints == [
        "Failed to load resource: the server responded with a status of 422 (UNPROCESSABLE ENTITY)"
    ]


def test_live_news_disturb_nobody_who_types(house: House, watched: Watched) -> None:
    page = watched.open(house.url)
    live(page)
    with scripted_probe(house.broker.url, "berlin") as probe:
        expect(page.locator("#probe-berlin")).to_contain_text("Free")
        names = page.locator("[data-probe]").evaluate_all("all => all.map(one => one.dataset.probe)")
        assert names == sorted(names), "a new probe takes its place by name"
        expect(page.locator("#probe option[value=berlin]")).to_have_count(1)
        page.select_option("#probe", "paris")
        page.fill("#comment", "half a wo")
        page.focus("#last-paris") if page.locator("#last-paris").count() else page.focus("#use-berlin")
        focused = page.evaluate("document.activeElement.id")
        for part, percent in (("ping", 10), ("ping", 60), ("download", 90)):
            running = [{"id": "test-0001", "number": 5, "part": part, "percent": percent}]
            probe.say_online(running=running, version=f"1.{percent}")
            expect(page.locator("#probe-berlin")).to_contain_text(f"v1.{percent}")
            assert page.evaluate("document.activeElement.id") == focused
        probe.progress("test-0001", "running", part="ping", done=7, total=10, percent=70)
        expect(page.locator("#probe-berlin .step")).to_have_text("Ping 7 of 10")
        assert page.locator("#probe-berlin progress").evaluate("bar => bar.value") == 70
        expect(page.locator("#probe option[value=berlin]")).to_have_text("berlin (busy: Test 5)")
        page.focus("#use-berlin")
        probe.say_online(version="2.0")
        expect(page.locator("#probe-berlin")).to_contain_text("v2.0")
        assert page.evaluate("document.activeElement.id") == "use-berlin", "the focus outlives a redrawing"
        expect(page.locator("#comment")).to_have_value("half a wo")
        expect(page.locator("#probe")).to_have_value("paris")
        probe.bus.publish("probe/berlin/result", make_result(probe_name="berlin", version=3))
        expect(page.locator("#probe-berlin .last")).to_contain_text("23.7\u00a0ms")
    watched.quiet()


def test_everything_works_without_javascript(house: House, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(8_000)
    page = context.new_page()
    page.goto(f"{house.url}/?probe=paris")
    assert page.locator("#link-state").is_hidden()
    page.fill("#ping_host", "127.0.0.1")
    page.fill("#packet_number", "10")
    page.fill("#packet_timeout", "1")
    page.uncheck("#speedtest")
    page.click("#start-button")
    number = page.url.rpartition("/")[2]

    def final() -> bool:
        page.goto(f"{house.url}/t/{number}")
        return page.locator(".test-head .state").inner_text() == "Done"

    until(final, 15, "the test is done")
    page.click("summary:has-text('View as table')")
    assert page.locator("#samples tbody tr").count() == 10
    page.fill("#comment", "no script")
    page.click("#save-comment")
    assert "Test updated." in page.locator("[data-note]").inner_text()
    page.click("[data-close]")
    assert page.locator("[data-note]").count() == 0
    page.click("#again")
    assert page.input_value("#packet_number") == "10"
    page.goto(f"{house.url}/archive?text=no+script")
    assert page.locator("tbody tr").count() == 1
    page.click(f"#delete-{number}")
    page.click("button:has-text('Delete')")
    assert "Test deleted." in page.locator("[data-note]").inner_text()
    page.click("button[aria-label='Colours: dark']")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.goto(f"{house.url}/targets")
    page.fill("#name", "no script")
    page.fill("#host", "192.0.2.1")
    page.click("button:has-text('Add target')")
    page.click("a[aria-label='Delete no script']")
    page.click("button:has-text('Delete')")
    assert "Target deleted." in page.locator("[data-note]").inner_text()
    context.close()


def test_no_page_is_wider_than_its_screen(house: House, browser: Browser) -> None:
    number = house.done(comment="w" * 300)
    for width, scheme in ((390, "light"), (320, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
        page = context.new_page()
        for path in (*PAGES, f"/t/{number}", f"/t/{number}/delete"):
            page.goto(f"{house.url}{path}")
            assert overflow(page) == 0, (path, width)
        context.close()


def test_ten_pages_are_open_at_once(house: House, watched: Watched) -> None:
    pages = []
    for _ in range(10):
        page = watched.open(house.url)
        # Headless tabs are all "visible"; a person's are not, and only what is seen keeps its stream.
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        pages.append(page)
    first = pages[0]
    first.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    live(first)
    with scripted_probe(house.broker.url, "tokyo"):
        expect(first.locator("#probe-tokyo")).to_be_visible()
    watched.quiet()


def test_without_a_stream_the_page_looks_by_itself(house: House, watched: Watched) -> None:
    watched.context.route("**/events*", lambda route: route.fulfill(status=503, headers={"Retry-After": "5"}))
    page = watched.open(house.url)
    expect(page.locator("#link-state")).to_have_text("Reconnecting")
    with scripted_probe(house.broker.url, "lagos"):
        expect(page.locator("#probe-lagos")).to_be_visible(timeout=9_000)
    watched.context.unroute("**/events*")
    page.evaluate(
        "document.dispatchEvent(new Event('visibilitychange'))"
    )  # looking at it again is a reason to try at once
    live(page)
    assert watched.foreign == []


def test_hostile_text_runs_nothing(house: House, watched: Watched) -> None:
    payload = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    number = house.done(comment=payload)
    with scripted_probe(house.broker.url, "mallory") as probe:
        fault = {"code": "x", "message": payload, "hint": f"`{payload}`"}
        page = watched.open(house.url)
        live(page)
        probe.say_online(version=payload, problem=fault)
        expect(page.locator("#probe-mallory")).to_contain_text(payload)
        probe.progress("test-0001", "running", part="ping", figures={"samples": [1.0]})
        for path in ("/", "/archive", f"/t/{number}"):
            page.goto(f"{house.url}{path}")
            assert page.locator("img").count() == 0
    watched.quiet()


def test_an_outage_is_shown_in_the_open_page_and_ends_by_itself(browser: Browser, tmp_path: Path) -> None:
    with (
        start_mosquitto(tmp_path) as broker,
        start_controller(broker.url, tmp_path / "controller", offline_after_s=60),
        serve(broker.url, tmp_path / "web") as running,
    ):
        context = browser.new_context()
        page = context.new_page()
        page.goto(running.url)
        live(page)
        broker.kill()
        expect(page.locator("#banner")).to_contain_text("Broker unreachable since", timeout=3_000)
        broker.start()
        expect(page.locator("#banner")).to_be_empty(timeout=20_000)
        context.close()
