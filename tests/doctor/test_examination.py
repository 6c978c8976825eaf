from proxy.demo import faults
from proxy.demo.authorization import Client
from proxy.demo.idp import DemoProvider
from tests.doctor.reports import Doctor

SECOND = "{name: second, client_id: {env: SECOND_ID}, client_secret: {env: SECOND_SECRET}}"
BOTH = f"oauth.clients=[{{name: first}}, {SECOND}]"


def test_all_is_well(doctor: Doctor) -> None:
    """Every part of the way is tried, in the order in which it is gone, and the exit code is 0."""
    report = doctor("--get=/v1/vehicles")
    assert report.exit_code == 0
    assert list(report.steps) == [
        "configuration",
        "secret of primary",
        "token endpoint DNS",
        "token endpoint TCP",
        "token of primary",
        "claims",
        "signature",
        "clock",
        "upstream DNS",
        "upstream TCP",
        "upstream request",
    ]
    assert all(step["seconds"] >= 0 and step["cause"] is step["next"] is None for step in report.steps.values())


def test_issuer(doctor: Doctor, provider: DemoProvider) -> None:
    """With an issuer, the way to its metadata comes first; an endpoint at the same place is not reached twice."""
    report = doctor("oauth.token_url=null", f"oauth.issuer={provider.issuer}")
    assert report.exit_code == 0
    assert list(report.steps)[2:6] == ["issuer DNS", "issuer TCP", "discovery", "token of primary"]
    assert report.found("discovery") == [f"token endpoint {provider.token_url}", f"keys {provider.jwks_url}"]


def test_endpoint_elsewhere(doctor: Doctor, provider: DemoProvider) -> None:
    """A token endpoint at another place than the issuer is reached by its own steps."""
    elsewhere = provider.token_url.replace("127.0.0.1", "localhost")
    report = doctor(f"oauth.token_url={elsewhere}", f"oauth.issuer={provider.issuer}")
    assert report.exit_code == 0
    assert list(report.steps)[2:7] == [
        "issuer DNS",
        "issuer TCP",
        "discovery",
        "token endpoint DNS",
        "token endpoint TCP",
    ]


def test_the_upstream_is_tried_without_a_token(doctor: Doctor, provider: DemoProvider) -> None:
    """What fails ends the steps that need it, and no others."""
    provider.faults.token = faults.answer(500)
    report = doctor()
    assert report.failed == ["token of primary"]
    assert list(report.steps)[-3:] == ["token of primary", "upstream DNS", "upstream TCP"]


def test_the_token_is_tried_without_the_upstream(doctor: Doctor) -> None:
    """An API that is down hides nothing of the provider."""
    report = doctor("upstream.url=http://127.0.0.1:1")
    assert report.failed == ["upstream TCP"]
    assert {"claims", "signature", "clock"} < set(report.steps)


def test_every_client_is_tried(doctor: Doctor, provider: DemoProvider) -> None:
    """A standby client that would not help is noticed before it is needed; the API is asked with the other's token."""
    provider.clients["second"] = Client("second", "canary-second")
    report = doctor(BOTH, environ=credentials(doctor, "canary-second"))
    assert report.exit_code == 0
    assert {"secret of second", "token of second"} < set(report.steps)

    report = doctor(BOTH, environ=credentials(doctor, "canary-wrong"))
    assert report.failure("token of second")[0].startswith("invalid_client: status 401")
    assert report.steps["upstream request"]["ok"]


def test_the_first_client_fails(doctor: Doctor, provider: DemoProvider) -> None:
    """The token of the first client that works is the one that is looked at."""
    provider.clients["second"] = Client("second", "canary-second")
    environ = credentials(doctor, "canary-second") | {"THG_CLIENT_SECRET": None}
    report = doctor(BOTH, environ=environ)
    assert report.failed == ["secret of first"]
    assert "token of first" not in report.steps
    assert report.steps["signature"]["ok"]


def credentials(doctor: Doctor, secret: str) -> dict[str, str | None]:
    """Of the client `second`."""
    doctor.secrets.append(secret)
    return {"SECOND_ID": "second", "SECOND_SECRET": secret}
