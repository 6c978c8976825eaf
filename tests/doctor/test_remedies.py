"""What the token endpoint may answer, and what the doctor makes of it."""

import json

import pytest

from proxy.demo import faults
from proxy.demo.idp import DemoProvider
from proxy.demo.server import Handler
from tests.doctor.reports import Doctor

HTML = b"<!doctype html><title>Not here</title>"


def refusing(error: str, status: int = 400, description: str = "no") -> Handler:
    return faults.answer(status, json.dumps({"error": error, "error_description": description}).encode())


# What the provider does, and parts of the cause and of the remedy.
ANSWERS: dict[str, tuple[Handler, str, str]] = {
    "404": (faults.answer(404, HTML), "invalid_response: status 404; the body is not JSON", "is the token endpoint"),
    "html": (faults.answer(200, HTML), "invalid_response: status 200; the body is not JSON", "is the token endpoint"),
    "redirect": (
        faults.answer(307, headers={"Location": "/login"}),
        "invalid_response: status 307, a redirect, which is not followed",
        "is the token endpoint",
    ),
    "no http": (faults.raw([b"SSH-2.0\r\n"]), "invalid_response: the answer is not complete", "is the token endpoint"),
    "no token": (faults.answer(200, b'{"access_token": 1}'), "invalid_response: access_token", "is the token endpoint"),
    "invalid_scope": (refusing("invalid_scope"), "invalid_scope: status 400; 'invalid_scope', 'no'", "oauth.scope"),
    "unauthorized": (refusing("unauthorized_client"), "unauthorized_client: ", "may not use the client credentials"),
    "denied": (refusing("access_denied", 403), "access_denied: status 403", "Customer Portal"),
    "target": (refusing("invalid_target"), "invalid_target: ", "oauth.resource"),
    "request": (refusing("invalid_request"), "invalid_request: ", "oauth.params"),
    "grant": (refusing("unsupported_grant_type"), "unsupported_grant_type: ", "oauth.token_url"),
    "500": (faults.answer(500, HTML), "http_5xx: status 500", "Try again later"),
    "busy": (refusing("temporarily_unavailable", 503), "temporarily_unavailable: ", "Try again later"),
    "too often": (faults.answer(429, headers={"Retry-After": "9"}), "rate_limited: status 429", "Try again later"),
    "silence": (faults.hang, "timeout: no complete answer within 500ms", "oauth.timeout"),
    "closed": (faults.raw([]), "network: the connection was closed without an answer", "Check the URL"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer(doctor: Doctor, provider: DemoProvider, answer: str) -> None:
    """Each answer that is no token has its cause and the next thing to do (F5, F7, F8, F9, F13, F15)."""
    provider.faults.token, cause, remedy = ANSWERS[answer]
    said = doctor("oauth.timeout=500ms").failure("token of primary")
    assert said[0].startswith(cause)
    assert remedy in said[1]


def test_scope_that_is_not_given(doctor: Doctor) -> None:
    """The scope that was asked for is the operator's to change (F8)."""
    cause, remedy = doctor("oauth.scope=fleet.read fleet.own").failure("token of primary")
    assert cause.startswith("invalid_scope: ")
    assert "oauth.scope" in remedy


def test_words_of_the_provider(doctor: Doctor, provider: DemoProvider) -> None:
    """What the provider says is shown on one line, escaped and cut (R151)."""
    provider.faults.token = refusing("invalid_scope", description="\x1b[2J\r\n\u202e" + "b" * 1000)
    cause, _ = doctor().failure("token of primary")
    assert "\\x1b[2J\\r\\n\\u202ebbb" in cause
    assert cause.isprintable()
    assert len(cause) <= 256


def test_secret_in_the_answer(doctor: Doctor, provider: DemoProvider) -> None:
    """A provider that repeats the secret is not repeated (R145)."""
    secret = next(iter(provider.clients.values())).client_secret
    provider.faults.token = refusing("invalid_request", description=f"{secret} is wrong")
    assert "are left out" in doctor().failure("token of primary")[0]
