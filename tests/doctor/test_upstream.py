import socket

import pytest

from proxy.core.claims import unverified
from proxy.demo.api import DemoApi
from proxy.demo.idp import DemoProvider
from tests.doctor.reports import Doctor
from tests.peers import Received, Upstream, http_answer, mute, reset

STEP = "upstream request"


@pytest.fixture
def recorded(doctor: Doctor, upstream: Upstream) -> Upstream:
    """What the API receives."""
    doctor.upstream_url = f"http://127.0.0.1:{upstream.port}"
    return upstream


def test_what_is_sent(doctor: Doctor, recorded: Upstream, provider: DemoProvider) -> None:
    """One GET with the token, as the proxy would send it: with its fields, below the base path."""
    report = doctor(
        "--get=/v1/vehicles?key=canary-query",
        f"upstream.url={doctor.upstream_url}/base/",
        "upstream.headers.set={X-Tenant: '7'}",
    )
    (received,) = recorded.requests
    assert received.request_line == b"GET /base/v1/vehicles?key=canary-query HTTP/1.1"
    assert received.values(b"Authorization") == [b"Bearer " + provider.tokens[-1].encode()]
    assert received.values(b"X-Tenant") == [b"7"]
    assert received.values(b"Via") == [b"1.1 thg-proxy"]
    assert report.found(STEP) == ["GET /base/v1/vehicles: 200"]


def test_nothing_but_the_base_path_is_asked_for(doctor: Doctor, recorded: Upstream) -> None:
    """Without --get, no path is guessed."""
    for url, target in ((doctor.upstream_url, b"/"), (f"{doctor.upstream_url}/v1", b"/v1/")):
        assert doctor(f"upstream.url={url}").exit_code == 0
        assert recorded.requests[-1].target == target


@pytest.mark.parametrize(
    "status, cause, remedy",
    [
        (401, "the API does not accept the token", "one environment"),
        (403, "the API does not allow this to the client", "oauth.scope"),
        (404, "the API has nothing at this path", "base path in upstream.url"),
        (405, "the API refuses the request", "--get"),
        (422, "the API refuses the request", "--get"),
        (429, "the API wants fewer requests", "later"),
        (500, "the API fails, or what stands in front of it", "runs the API"),
        (503, "the API fails, or what stands in front of it", "runs the API"),
    ],
)
def test_status(doctor: Doctor, recorded: Upstream, status: int, cause: str, remedy: str) -> None:
    """What the API answers is explained by its status (F35)."""
    recorded.answer = http_answer(status, b"<html>")
    said = doctor("--get=/v1/vehicles").failure(STEP)
    assert said[0] == f"{cause}: status {status}"
    assert remedy in said[1]


@pytest.mark.parametrize("status", [200, 204, 302, 304])
def test_good_status(doctor: Doctor, recorded: Upstream, status: int) -> None:
    """Whatever is no refusal proves that the token is accepted; a redirect is not followed."""
    recorded.answer = http_answer(status, b"", b"Location: http://127.0.0.1:1/")
    assert doctor("--get=/v1/vehicles").found(STEP) == [f"GET /v1/vehicles: {status}"]
    assert len(recorded.requests) == 1


@pytest.mark.parametrize("status", [404, 405])
def test_an_api_without_a_root(doctor: Doctor, recorded: Upstream, status: int) -> None:
    """Nothing has to be at the base path; what would tell more is said."""
    recorded.answer = http_answer(status, b"")
    report = doctor()
    assert report.exit_code == 0
    assert "--get" in report.found(STEP)[1]


def test_token_that_the_api_does_not_know(doctor: Doctor, api: DemoApi, provider: DemoProvider) -> None:
    """A token that is good by all that the provider says can still be refused."""
    provider.faults.claims = {"iss": "https://staging.example"}
    assert doctor("--get=/v1/vehicles").failure(STEP)[0].startswith("the API does not accept the token")
    assert api.requests == 1


@pytest.mark.parametrize(
    "answer, cause",
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "upstream_protocol: "),
        (reset, "upstream_incomplete: "),
        (mute, "upstream_timeout: "),
    ],
)
def test_no_answer(doctor: Doctor, recorded: Upstream, answer: bytes, cause: str) -> None:
    """What is no response is told in the words of the data port (F28, F29, F38)."""
    recorded.answer = answer
    assert doctor("upstream.response_timeout=300ms").failure(STEP)[0].startswith(cause)


def test_path_that_leaves_the_base(doctor: Doctor, recorded: Upstream) -> None:
    """The rules of the data port hold (R35)."""
    report = doctor("--get=/a/%2e%2e/%2e%2e/admin", f"upstream.url={doctor.upstream_url}/v1")
    assert "base path" in report.failure(STEP)[0]
    assert not recorded.requests


def test_token_that_is_bound_to_a_key(doctor: Doctor, recorded: Upstream, provider: DemoProvider) -> None:
    """A token of oauth.dpop goes with a proof, and with the nonce that the API asks for (RFC 9449 §9)."""
    provider.faults.response = {"token_type": "DPoP"}
    challenge = b'WWW-Authenticate: DPoP error="use_dpop_nonce"', b"DPoP-Nonce: first"
    answers = [http_answer(401, b"", *challenge), http_answer(200, b"")]

    def answer(_received: Received, sock: socket.socket) -> bool:
        sock.sendall(answers.pop(0))
        return True

    recorded.answer = answer
    assert doctor("--get=/v1/vehicles", "oauth.dpop=true").found(STEP) == ["GET /v1/vehicles: 200"]
    without, with_nonce = (unverified(received.values(b"DPoP")[0].decode()) for received in recorded.requests)
    assert without is not None
    assert with_nonce is not None
    assert without.claims["htu"] == f"{doctor.upstream_url}/v1/vehicles"
    assert (without.claims.get("nonce"), with_nonce.claims["nonce"]) == (None, "first")
    assert recorded.requests[0].values(b"Authorization") == [b"DPoP " + provider.tokens[-1].encode()]
