from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.config import forms

URL_PARTS = st.sampled_from(
    [
        "http://",
        "https://",
        "a.example",
        "127.0.0.1",
        "[::1]",
        ":",
        "80",
        "@",
        "/",
        "//",
        "\\",
        "?",
        "#",
        "%2f",
        " ",
        "\t",
    ]
)


@given(st.lists(URL_PARTS, max_size=8).map("".join) | st.text(max_size=30))
@example("https://api.example\\@evil.example/")
@example("https://api.example\n.evil.example/")
@example("https://api。example/")
def test_no_two_readings(url: str) -> None:
    """Whoever parses an accepted URL finds the same server in it, and no user name (R32, R43)."""
    if list(forms.url_faults(url, plain=True)):
        return
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}[parts.scheme]
    assert forms.server(url) == (parts.hostname, parts.port or default)
    assert (parts.username, parts.password, parts.query, parts.fragment) == (None, None, "", "")
    assert parts.geturl() == url


@pytest.mark.parametrize(
    "url, server",
    [
        ("https://API.example", ("api.example", 443)),
        ("http://localhost/x", ("localhost", 80)),
        ("https://[::1]:8443/", ("::1", 8443)),
        ("https://a:99999", None),
        ("a", None),
    ],
)
def test_server(url: str, server: tuple[str, int] | None) -> None:
    """The host is in lower case and without brackets; the port is that of the scheme where none is given."""
    assert forms.server(url) == server


@pytest.mark.parametrize("pattern", ["/", "/v1", "/v1/", "/*", "/**", "/v1/*/x", "/v1/*/**", "/a%20b"])
def test_path_rule(pattern: str) -> None:
    """`*` is one whole segment, `**` is the rest."""
    assert forms.is_path_rule(pattern)


@pytest.mark.parametrize(
    "pattern", ["", "v1", "*", "**", "/v*", "/*x", "/***", "/**/x", "/v1**", "/v1?a", "/v1#a", "//", "/a/../b", "/ä"]
)
def test_no_path_rule(pattern: str) -> None:
    """A star inside a segment, and a path that no request can have, would not do what they seem to."""
    assert not forms.is_path_rule(pattern)
