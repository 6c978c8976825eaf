"""What becomes of a request in the log and in the metrics."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.text import one_line
from proxy.metrics import METHODS, Traffic
from proxy.record import RequestRecord


def record(target: str = "/a", *, method: str = "GET", **known: object) -> RequestRecord:
    made = RequestRecord(method, target, 0.0)
    for name, value in known.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "status, outcome",
    [
        (200, "ok"),
        (204, "ok"),
        (304, "ok"),
        (399, "ok"),
        (400, "client_error"),
        (401, "client_error"),
        (499, "client_error"),
        (500, "upstream_error"),
        (503, "upstream_error"),
        (599, "upstream_error"),
    ],
)
def test_a_relayed_answer_is_judged_by_its_status(status: int, outcome: str) -> None:
    """Whose fault an upstream's answer shows decides the label `outcome`."""
    relayed = record(status=status)
    relayed.relayed()
    assert relayed.outcome == outcome


@pytest.mark.parametrize(
    "outcome, replayed, notable",
    [
        ("ok", False, False),
        ("ok", True, True),
        ("client_error", False, True),
        ("proxy_error", False, True),
        ("upstream_error", False, True),
        ("client_gone", False, True),
        ("aborted", False, True),
    ],
)
def test_what_the_access_log_keeps(outcome: str, replayed: bool, notable: bool) -> None:
    """`log.access: errors` writes 4xx, 5xx, aborted and replayed requests."""
    assert record(outcome=outcome, replayed=replayed).is_notable is notable


def test_the_log_line() -> None:
    """The canonical fields in their order, times in milliseconds."""
    whole = record(
        "/a/b?token=1",
        method="POST",
        request_id="id",
        status=502,
        code="upstream_tls",
        outcome="upstream_error",
        duration=1.23456789,
        token_wait=0.5,
        connect=0.25,
        ttfb=0.0,
        bytes_in=10,
        bytes_out=20,
        replayed=True,
    )
    assert list(whole.fields().items()) == [
        ("request_id", "id"),
        ("method", "POST"),
        ("path", "/a/b"),
        ("status", 502),
        ("code", "upstream_tls"),
        ("outcome", "upstream_error"),
        ("duration_ms", 1234.568),
        ("token_wait_ms", 500.0),
        ("connect_ms", 250.0),
        ("ttfb_ms", 0.0),
        ("bytes_in", 10),
        ("bytes_out", 20),
        ("replayed", True),
    ]


@given(st.text() | st.text(alphabet='/"\\\\\x00\x1b\u202e\ud800a?#', max_size=300), st.floats(0, 1e6), st.booleans())
def test_the_log_line_as_json(target: str, seconds: float, replayed: bool) -> None:
    """What is made by hand is what is made of the fields, whatever somebody asks for (R151)."""
    whole = record("/" + target, request_id="id-1", status=200, outcome="ok", code="", replayed=replayed)
    whole.duration = whole.ttfb = seconds
    whole.bytes_in = 1 << 40
    by_hand = json.loads(b"{" + whole.json() + b"}")
    fields = whole.fields()
    assert list(by_hand) == list(fields)
    assert by_hand.pop("path") == one_line(str(fields.pop("path")))
    assert by_hand == pytest.approx(fields, abs=0.001)


@pytest.mark.parametrize(
    "target, path",
    [
        ("/a", "/a"),
        ("/a?access_token=SECRET", "/a"),
        ("/a?b?SECRET", "/a"),
        ("*", "*"),
        ("", ""),
        ("/a#access_token=SECRET", "/a"),
        ("http://user:SECRET@localhost/a", "/a"),
        ("http://user:SECRET@localhost", "/"),
    ],
)
def test_the_logged_path_is_a_path(target: str, path: str) -> None:
    """No query, no fragment and no userinfo is logged, of a refused request neither (R145, RFC 9110 §17.9)."""
    assert record(target).fields()["path"] == path


def test_it_is_counted() -> None:
    """One request adds to every metric that it concerns."""
    traffic = Traffic()
    record(status=200, outcome="ok", duration=0.3, ttfb=0.2, bytes_in=5, bytes_out=7).count(traffic)
    record(status=502, outcome="upstream_error", code="upstream_tls", duration=0.1, bytes_in=1).count(traffic)

    assert dict(traffic.requests) == {("GET", 200, "ok"): 1, ("GET", 502, "upstream_error"): 1}
    assert dict(traffic.errors) == {"upstream_tls": 1}
    assert (traffic.request_bytes, traffic.response_bytes) == (6, 7)
    assert [sum(traffic.duration.counts), traffic.duration.total] == pytest.approx([2, 0.4])
    assert (sum(traffic.ttfb.counts), traffic.ttfb.total) == (1, 0.2)


@pytest.mark.parametrize(
    "known, result",
    [
        ({"status": 200, "outcome": "ok"}, "ok"),
        ({"status": 404, "outcome": "client_error"}, "ok"),
        ({"status": 503, "outcome": "upstream_error"}, "ok"),
        ({"status": 401, "outcome": "client_error"}, "rejected"),
        ({"status": 502, "outcome": "upstream_error", "code": "upstream_incomplete"}, "failed"),
        ({"status": 200, "outcome": "aborted", "code": "upstream_incomplete"}, "failed"),
        ({"status": 0, "outcome": "client_gone"}, "failed"),
        ({"status": 200, "outcome": "client_gone"}, "failed"),
    ],
)
def test_a_replay_is_judged_by_its_answer(known: dict[str, Any], result: str) -> None:
    """A request that was sent again is counted by whether the other token was taken, if anybody said (R93, R95)."""
    traffic = Traffic()
    record(replayed=True, **known).count(traffic)
    record(status=401, outcome="client_error").count(traffic)
    assert dict(traffic.replays) == {result: 1}


@pytest.mark.parametrize("method", ["", "PROPFIND", "get", "M-SEARCH"])
def test_other_methods_share_a_label(method: str) -> None:
    """A client can't make up labels."""
    traffic = Traffic()
    record(method=method, status=200, outcome="ok").count(traffic)
    assert list(traffic.requests) == [("other", 200, "ok")]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_registered_methods_are_labels(method: str) -> None:
    """The methods of RFC 9110 §9 and RFC 5789 are told apart."""
    traffic = Traffic()
    record(method=method, status=200, outcome="ok").count(traffic)
    assert list(traffic.requests) == [(method, 200, "ok")]
