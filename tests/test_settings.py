import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import Address, Client, Duration, OAuth, Settings, Size, Upstream, UpstreamHeaders, leaves


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("5", 5),
        (5, 5),
        (0.5, 0.5),
        ("1.5s", 1.5),
        ("10m", 600),
        ("24h", 86400),
        ("7d", 604800),
        ("0", 0),
    ],
)
def test_duration(text: object, seconds: float) -> None:
    """A duration is a number with a unit; a bare number is seconds."""
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "+1s", "5 s", "1e3", "1.s", ".5s", "5S", "5sec", "\u0665s", "inf", "9" * 400, True, None, ["5s"]],
)
def test_no_duration(text: object) -> None:
    """What could be read in two ways, or is no finite time, is refused (R165)."""
    with pytest.raises(ValueError, match="must be a duration such as 250ms, 5s, 10m or 24h"):
        Duration.parse(text)


@given(st.integers(0, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_duration_is_shown_as_it_is_written(number: int, unit: str) -> None:
    """What is printed can be read again, and is the same time."""
    duration = Duration.parse(f"{number}{unit}")
    assert math.isclose(Duration.parse(str(duration)), duration)


@pytest.mark.parametrize("text", ["250ms", "5s", "1.5s", "10m", "24h", "7d", "0s", "61s", "25h"])
def test_duration_text(text: str) -> None:
    """A duration is printed in the largest unit that fits."""
    assert str(Duration.parse(text)) == {"24h": "1d"}.get(text, text)


@pytest.mark.parametrize(
    "text, size", [("512", 512), (512, 512), ("512B", 512), ("64KiB", 65536), ("10 MiB", 10485760), ("1GiB", 1 << 30)]
)
def test_size(text: object, size: int) -> None:
    """A size is a number with a binary unit; a bare number is bytes."""
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "64KB", "64k", "-1", "1.5MiB", "\u0665", "9" * 5000, True, None])
def test_no_size(text: object) -> None:
    """Decimal units, of which nobody knows whether they are, are refused (R165)."""
    with pytest.raises(ValueError, match="must be a size such as 512, 64KiB or 10MiB"):
        Size.parse(text)


@given(st.integers(0, 1 << 40))
def test_size_is_shown_as_it_is_written(size: int) -> None:
    """What is printed can be read again, and is the same size."""
    assert Size.parse(str(Size(size))) == size


@pytest.mark.parametrize(
    "text, address, loopback",
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), True),
        ("127.8.9.1:0", Address("127.8.9.1", 0), True),
        ("localhost:65535", Address("localhost", 65535), True),
        ("LOCALHOST:1", Address("LOCALHOST", 1), True),
        ("[::1]:8080", Address("::1", 8080), True),
        ("unix:/run/p.sock", Address(path="/run/p.sock"), True),
        ("0.0.0.0:8080", Address("0.0.0.0", 8080), False),
        ("[::]:8080", Address("::", 8080), False),
        ("[fe80::1%eth0]:8080", Address("fe80::1%eth0", 8080), False),
        ("localhost.evil.example:80", Address("localhost.evil.example", 80), False),
        ("127.1:80", Address("127.1", 80), False),
    ],
)
def test_address(text: str, address: Address, loopback: bool) -> None:
    """An address is read and printed in one form; only a literal loopback, or a socket, is of this machine (R133)."""
    assert Address.parse(text) == address
    assert str(address) == text
    assert address.is_loopback is loopback


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "localhost",
        "localhost:",
        "localhost:65536",
        "localhost:\u0668",
        "localhost:" + "9" * 5000,
        "::1:8080",
        "[::1]",
        "[]:80",
        "[localhost]:80",
        "[127.0.0.1]:80",
        "http://a:80",
        "a b:80",
        "a/b:80",
        "unix:",
        "unix:run/p.sock",
        8080,
        None,
    ],
)
def test_no_address(text: object) -> None:
    """An address that nothing can be bound to is refused (R165)."""
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        Address.parse(text)


def test_settings_are_frozen() -> None:
    """A configuration does not change under those who use it."""
    with pytest.raises(AttributeError):
        Settings().workers = 2  # type: ignore[misc]


def test_leaves() -> None:
    """Every single value has its dotted key; lists of texts and empty mappings are single values."""
    settings = Settings(
        upstream=Upstream(headers=UpstreamHeaders(set={"X-A": "b"})),
        oauth=OAuth(clients=(Client(), Client(name="other"))),
    )
    found = dict(leaves(settings))
    assert found["upstream.headers.set.X-A"] == "b"
    assert found["oauth.clients[1].name"] == "other"
    assert found["oauth.params"] == {}
    assert found["policy.allowed_hosts"] == ("localhost", "127.0.0.1", "[::1]")
    assert not any(isinstance(value, msgspec.Struct) for value in found.values())
