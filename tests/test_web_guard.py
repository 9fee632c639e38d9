"""What every request passes and every answer carries: names, origins, sizes, headers, static files. No broker is needed."""

import base64
import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from netloom.url import BrokerUrl
from tests.kit.pages import PAGE, Site, text_of
from web.app import WebConfig, create_app
from web.fabric import Fabric
from web.guard import HEADERS, Hosts, same_origin

WEB = Path(__file__).resolve().parents[1] / "web"
VENDOR = WEB / "static" / "vendor"


@pytest.fixture
def alone() -> Iterator[Site]:
    """A page that reaches nothing."""
    fabric = Fabric(BrokerUrl.parse("mqtt://127.0.0.1:9"), "web:alone")
    hosts = Hosts.of("127.0.0.1", ("netloom.lan", "proxy.lan:8443"))
    yield Site(fabric, create_app(WebConfig(hosts), fabric).test_client())
    fabric.stop()


# --- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:9000", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST", "netloom.lan", "netloom.lan:1", "proxy.lan:8443"],
)  # fmt: skip
def test_the_page_answers_to_its_names(alone: Site, host: str) -> None:
    assert alone.get("/healthz", Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "proxy.lan", "proxy.lan:80", "localhost:x", "", "a\tb"],
)  # fmt: skip
def test_the_page_answers_to_no_other_name(alone: Site, host: str) -> None:
    response = alone.get("/", Host=host)
    assert response.status_code == 400
    assert "bad_host" in text_of(response)
    assert response.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


def test_its_own_address_counts_as_a_name() -> None:
    assert Hosts.of("::1", ()).allow("[::1]:8080")
    assert Hosts.of("127.0.0.5", ()).allow("127.0.0.5:1")
    assert not Hosts.of("127.0.0.5", ()).allow("127.0.0.6:1")


def test_forwarded_names_are_ignored(alone: Site) -> None:
    response = alone.get("/nope", **{"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"})
    assert "evil.example" not in response.text


# --- origins ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fetch_site", "origin", "referer", "expected"),
    [
        ("same-origin", "http://page:1", None, True),
        ("same-origin", None, None, True),
        (None, "http://page:1", None, True),
        (None, None, "http://page:1/archive", True),
        (None, None, None, False),
        ("cross-site", "http://page:1", None, False),
        ("same-site", None, "http://page:1/", False),
        ("none", None, None, False),
        (None, "null", None, False),
        (None, "http://page:2", None, False),
        (None, "http://evil.example", "http://page:1/", False),
        (None, None, "http://evil.example/?http://page:1", False),
        (None, "http://page:1.evil.example", None, False),
        (None, "", "http://page:1/", False),
    ],
)
def test_only_our_own_page_may_change_something(
    fetch_site: str | None, origin: str | None, referer: str | None, *, expected: bool
) -> None:
    assert same_origin("page:1", fetch_site, origin, referer) is expected


def test_every_form_checks_its_origin(alone: Site) -> None:
    rules = [r for r in alone.client.application.url_map.iter_rules() if "POST" in (r.methods or set())]
    assert len(rules) >= 8
    for rule in rules:
        path = re.sub(r"<[^>]*number>", "1", rule.rule).replace("<name>", "paris")
        for headers in ({}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            response = alone.client.post(path, headers=PAGE | headers)
            assert response.status_code == 403, path
            assert "bad_origin" in text_of(response)


# --- sizes and headers ------------------------------------------------------------------------------------------------
def test_a_large_body_is_refused(alone: Site) -> None:
    response = alone.post("/theme", {"theme": "x" * 70_000})
    assert response.status_code == 413
    assert "body_too_large" in text_of(response)


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/healthz", "/autotest_json", "/archive", "/static/app.css", "/events?x", "/t/1"]
)
def test_every_answer_carries_the_headers(alone: Site, path: str) -> None:
    with alone.client.get(path, headers=PAGE) as response:
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_the_templates_keep_to_the_policy() -> None:
    for path in sorted((WEB / "templates").glob("*.html")):
        text = path.read_text()
        assert "|safe" not in text.replace(" ", ""), path
        assert "autoescape" not in text, path
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text), path
        assert not re.search(r"(?:src|href|action)=[\"']?(?:https?:)?//", text), path
    for path in [*(WEB / "static").glob("*.js"), *(WEB / "static").glob("*.css")]:
        text = path.read_text()
        assert not re.search(r"https?://|innerHTML|\beval\(|new Function|@import|url\(", text), path
    assert sum(len(path.read_text().splitlines()) for path in (WEB / "static").glob("*.js")) <= 300


# --- static files -----------------------------------------------------------------------------------------------------
def test_the_vendored_files_are_what_their_list_says() -> None:
    table = (VENDOR / "VENDORED.md").read_text()
    listed = dict(re.findall(r"^\| `([^`]+)` \|.*\| `([A-Za-z0-9+/=]+)` \|$", table, re.MULTILINE))
    present = {path.name for path in VENDOR.iterdir() if path.suffix in (".js", ".css")}
    assert set(listed) == present
    for name, digest in listed.items():
        body = (VENDOR / name).read_bytes()
        assert base64.b64encode(hashlib.sha384(body).digest()).decode() == digest, name
        assert gzip.decompress((VENDOR / f"{name}.gz").read_bytes()) == body, name
    assert {path.name for path in VENDOR.glob("LICENSE.*")} == {
        "LICENSE.bulma.txt", "LICENSE.htmx.txt", "LICENSE.uplot.txt",
    }  # fmt: skip


def test_every_file_a_page_names_is_there_and_cached_for_ever(alone: Site) -> None:
    names = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', alone.get("/").text))
    assert len(names) >= 6
    total = 0
    for name in names:
        with alone.client.get(name, headers={"Accept-Encoding": "gzip, br"}) as response:
            assert response.status_code == 200
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert response.headers["Content-Encoding"] == "gzip"
            assert response.headers["Vary"] == "Accept-Encoding"
            gzip.decompress(response.data)
            total += len(response.data)
    assert total < 115 * 1024, "the first load stays light"


def test_a_file_is_served_plain_where_gzip_is_not_wanted(alone: Site) -> None:
    with alone.client.get("/static/vendor/htmx-2.0.11.min.js") as response:
        assert "Content-Encoding" not in response.headers
        assert response.data == (VENDOR / "htmx-2.0.11.min.js").read_bytes()
        assert response.headers["Cache-Control"] == "no-cache", "without its version it may change"
        assert response.content_type == "text/javascript; charset=utf-8"
        tag = response.headers["ETag"]
    assert alone.client.get("/static/vendor/htmx-2.0.11.min.js", headers={"If-None-Match": tag}).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "../app.py",
        "%2e%2e/app.py",
        "..%2fapp.py",
        "/etc/passwd",
        "vendor",
        "",
        "vendor/",
        "app.css%00.js",
        "vendor/bulma-1.0.4.min.css.gz",
    ],
)
def test_nothing_else_is_served(alone: Site, path: str) -> None:
    assert alone.client.get(f"/static/{path}", headers=PAGE).status_code in (404, 308)
