import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.policy import host_allowed, host_names
from proxy.settings import Policy

ALLOWED = host_names(Policy().allowed_hosts)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost",
        b"localhost:8080",
        b"localhost:1",
        b"127.0.0.1",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[::1]:65535",
    ],
)
def test_host_on_the_list_passes(host: bytes) -> None:
    """A listed host passes in any case, with any port or none (R134)."""
    assert host_allowed(host, ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":8080",
        b"evil.com",
        b"evil.com:8080",
        b"localhost.evil.com",
        b"evil-localhost",
        b"evil.localhost",
        b"127.0.0.1.nip.io",
        b"localhost.",
        b"localhost.:8080",
        b"0.0.0.0:8080",
        b"127.1",
        b"127.0.0.2",
        b"2130706433",
        b"0x7f000001",
        b"[::ffff:127.0.0.1]",
        b"[0:0:0:0:0:0:0:1]",
        b"::1",
        b"[::1",
        b"[::1]8080",
        b"[::1%25lo]",
        b"localhost:",
        b"localhost:http",
        b"localhost:-1",
        b"localhost:123456",
        b"localhost:80:80",
        b"localhost,evil.com",
        b"localhost evil.com",
        b" localhost",
        b"localhost\t",
        b"localhost/",
        b"user@localhost",
        b"localhost\x00",
        b"localhost:\xb2",
        b"l\xc3\xb6calhost",
    ],
)
def test_any_other_host_is_refused(host: bytes) -> None:
    """The list is anchored: what only resembles a listed host, or is another spelling of its address, fails (R134)."""
    assert not host_allowed(host, ALLOWED)


def test_listed_name_is_compared_without_case() -> None:
    """A name may be written in any case in the configuration (R134)."""
    assert host_allowed(b"proxy.internal:80", host_names(["Proxy.Internal"]))


@given(st.binary(max_size=40))
@example(b"localhost:99999")
def test_nothing_but_a_listed_name_and_a_port_passes(host: bytes) -> None:
    """Whatever passes is a listed name, followed at most by a colon and digits (R134)."""
    if host_allowed(host, ALLOWED):
        rest = min((host.lower().removeprefix(name) for name in ALLOWED), key=len)
        assert rest == b"" or rest[1:].isdigit()
