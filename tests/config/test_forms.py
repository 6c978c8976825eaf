from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

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
        ("https://[::::]", None),
        ("https://[192.0.2.1]", None),
        ("a", None),
    ],
)
def test_server(url: str, server: tuple[str, int] | None) -> None:
    """The host is in lower case and without brackets; the port is that of the scheme where none is given."""
    assert forms.server(url) == server


STORE_PARTS = st.sampled_from(
    [
        *(
            "redis://",
            "rediss://",
            "a",
            "a.example",
            "[::1]",
            "[",
            "]",
            ":",
            "6379",
            "65536",
            "@",
            "%40",
            "%",
            "/",
            "0",
        ),
        *("?", "ssl_ca_certs=", "ssl_cert_reqs=none", "&", "#", "\\", " ", "\n", "\0", "file:", "memory", ";", "+"),
    ]
)


@given(st.lists(STORE_PARTS, max_size=9).map("".join))
@example("redis://a:b@c@evil.example/")
@example("redis://[::::]/")
@example("redis://a:65536/")
@example("rediss://a?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none")
def test_store_is_what_the_client_of_redis_takes(url: str) -> None:
    """Whatever is accepted as a URL of Redis, redis-py reads it, and finds no option in it but the CA file."""
    if not forms.is_store(url) or not url.startswith("redis"):
        return
    options = parse_url(url)
    assert options.keys() <= {"host", "port", "db", "username", "password", "connection_class", "ssl_ca_certs"}
    assert ("connection_class" in options) == url.startswith("rediss:")
    assert options["host"]


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "file:/run/token",
        "file:///run/a token",
        "redis://cache",
        "redis://cache/",
        "redis://cache:6379/15",
        "redis://[::1]:6379",
        "redis://:p%40ss@10.0.0.1",
        "redis://user:pass@cache.example:6379/0",
        "rediss://user@cache",
        "rediss://cache?ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_store(url: str) -> None:
    """Memory, an absolute path, or a Redis by name or address, with database, user and password where they matter."""
    assert forms.is_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "Memory",
        "file:token",
        "file:/",
        "file:/a\0b",
        "redis:cache",
        "redis://",
        "redis://cache:0",
        "redis://cache:65536",
        "redis://cache/zero",
        "redis://a:b:c@d@cache",
        "redis://cache?db=1",
        "redis://cache?ssl_ca_certs=/ca.pem",
        "rediss://cache?ssl_cert_reqs=none",
        "rediss://cache?ssl_ca_certs=/ca.pem&ssl_check_hostname=false",
        "rediss://cache?ssl_ca_certs=ca.pem",
        "unix:///run/redis.sock",
        "redis://cache\n",
    ],
)
def test_no_store(url: str) -> None:
    """Nothing that would be read in two ways, and no option that takes the verification away."""
    assert not forms.is_store(url)


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
