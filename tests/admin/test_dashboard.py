"""The dashboard as files over HTTP; tests/behaviour/test_dashboard.py looks at it with a browser."""

import re

import pytest

from proxy.admin.dashboard import dashboard
from proxy.settings import Admin, Settings
from tests.admin.port import Proxy, ask, is_problem, served

FILES = ("/", "/dashboard.css", "/dashboard.js")


@pytest.mark.parametrize(
    "path, content_type",
    [("/", "text/html"), ("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")],
)
def test_the_files_are_served(path: str, content_type: str) -> None:
    """The page and what it loads come from the admin port, with their types."""
    answer = ask(Proxy(), path, Sec_Fetch_Site="same-origin")
    assert answer.status == 200
    assert answer.headers["content-type"] == f"{content_type}; charset=utf-8"
    assert answer.body


@pytest.mark.parametrize("path", FILES)
def test_it_can_be_turned_off(path: str) -> None:
    """Without `admin.dashboard` there is nothing of it; `/status` stays."""
    proxy = Proxy(settings=Settings(admin=Admin(dashboard=False)))
    assert is_problem(ask(proxy, path), 404, "not_found")
    assert ask(proxy, "/status").status == 200


@pytest.mark.parametrize("path", [*FILES, "/status", "/nowhere"])
def test_nothing_but_its_own_files_runs(path: str) -> None:
    """Whatever gets into the page: no script, no style, no request but to this port, and no frame around it (R144)."""
    headers = ask(Proxy(), path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", FILES)
def test_it_asks_nobody_else(path: str) -> None:
    """No file names another host: the page works on a machine that reaches nothing but the proxy."""
    text = dashboard()[path].body.decode()
    urls = re.findall(r"(?:https?:)?//[^\s\"'`/]+[^\s\"'`]*", re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    # The name of the SVG namespace is nothing that is fetched.
    assert set(urls) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text


def test_the_script_makes_no_markup_of_data() -> None:
    """What strangers wrote, request paths above all, is shown as text: nothing in the script parses markup (R144)."""
    script = dashboard()["/dashboard.js"].body.decode()
    for danger in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
        "Fragment",
        "setHTML",
    ):
        assert danger not in script


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    """The policy forbids them, so there are none: neither elements nor attributes."""
    page = dashboard()["/"].body.decode()
    assert re.findall(r"<script[^>]*>(?!</script>)", page) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) == []


def test_the_page_names_the_other_paths() -> None:
    """Who opens the admin port finds what else it has."""
    page = dashboard()["/"].body.decode()
    assert {"status", "metrics", "readyz", "startupz", "livez"} <= set(re.findall(r'href="(\w+)"', page))


def test_a_query_is_nowhere() -> None:
    """No query string and no fragment reaches the page, whichever form the request target had (R152)."""
    targets = ("/a?token=CANARY", "http://user:CANARY@localhost/b?CANARY", "/c#CANARY", "?CANARY")
    answer = ask(Proxy(recent=[served(target) for target in targets]), "/status")
    assert b"CANARY" not in answer.body
    assert [request["path"] for request in answer.document["recent"]] == ["/a", "/b", "/c", ""]


def test_a_path_is_inert() -> None:
    """A path that is markup stays a JSON string, in a document that no browser takes for a page (R144)."""
    path = "/<script>alert(1)</script>"
    answer = ask(Proxy(recent=[served(path)]), "/status")
    assert answer.headers["content-type"] == "application/json"
    assert answer.document["recent"][0]["path"] == path
