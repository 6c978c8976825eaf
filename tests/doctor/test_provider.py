import json
from base64 import b64decode
from pathlib import Path

import pytest
from aiohttp import web

from proxy.demo import faults
from proxy.demo.authorization import Client
from proxy.demo.idp import DemoProvider
from proxy.demo.server import Handler
from tests.doctor.reports import Doctor


@pytest.mark.parametrize(
    "source, said",
    [
        ("{env: NOT_SET}", "the environment variable NOT_SET is not set (nor NOT_SET_FILE)"),
        ("{file: nowhere}", "the file nowhere can't be read: No such file or directory"),
        ("{file: .}", "the file . can't be read: Is a directory"),
        ("{file: empty}", "the file empty is empty"),
        ("{file: binary}", "the file binary is not UTF-8 text"),
    ],
)
def test_unreadable_secret(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    """A secret that can't be read is named with its source; the way to the provider and to the API is still tried."""
    monkeypatch.chdir(tmp_path)
    Path("empty").write_bytes(b"\n")
    Path("binary").write_bytes(b"\xff\xfe\x00")
    report = doctor(f"oauth.clients=[{{client_secret: {source}}}]")
    assert report.failure("secret of primary")[0] == said
    assert {"token endpoint TCP", "upstream TCP"} < set(report.steps)


def test_source_of_a_secret(doctor: Doctor, tmp_path: Path) -> None:
    """Where a secret comes from is shown, and what it is is not."""
    file = tmp_path / "secret"
    file.write_text(next(iter(doctor.provider.clients.values())).client_secret)
    file.chmod(0o600)
    report = doctor(f"oauth.clients=[{{client_id: demo, client_secret: {{file: {file}}}}}]")
    assert report.found("secret of primary") == [f"client_id ***, client_secret {{file: {file}}}"]


def register(provider: DemoProvider, client: Client) -> Client:
    provider.clients.clear()
    provider.clients[client.client_id] = client
    return client


@pytest.mark.parametrize("registered", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("configured", ["client_secret_basic", "client_secret_basic_raw", "client_secret_post"])
def test_another_form_of_the_secret(doctor: Doctor, provider: DemoProvider, registered: str, configured: str) -> None:
    """After an invalid_client the other forms are tried, and the one that works is named (R73)."""
    register(provider, Client("app", "canary p+ /=:é&~", auth_method=registered))
    report = doctor(f"oauth.auth_method={configured}")
    if registered == configured:
        assert report.exit_code == 0
    else:
        cause, remedy = report.failure("token of primary")
        assert cause.startswith(f"the provider accepts this client by {registered}, not by {configured} (")
        assert remedy == f"Set oauth.auth_method: {registered}."


def test_raw_credentials(doctor: Doctor, provider: DemoProvider) -> None:
    """A provider that does not decode the credentials is told from one that does not know the client (R73)."""
    client = register(provider, Client("app", "canary p%Q+ /="))

    async def undecoded(request: web.BaseRequest) -> web.StreamResponse:
        credentials = b64decode(request.headers.get("Authorization", "").removeprefix("Basic "))
        if credentials != f"app:{client.client_secret}".encode():
            return await faults.answer(401, b'{"error": "invalid_client"}')(request)
        return await faults.answer(200, b'{"access_token": "canary-opaque", "token_type": "bearer"}')(request)

    provider.faults.token = undecoded
    doctor.secrets.append("canary-opaque")
    remedy = doctor().failure("token of primary")[1]
    assert remedy == "Set oauth.auth_method: client_secret_basic_raw."
    assert doctor("oauth.auth_method=client_secret_basic_raw", "oauth.verify.mode=off").steps["token of primary"]["ok"]


def test_wrong_secret(doctor: Doctor, provider: DemoProvider) -> None:
    """Where no form works, the rules by which clients are deactivated are said (F7)."""
    doctor.secrets.append("canary-wrong")
    cause, remedy = doctor(environ={"THG_CLIENT_SECRET": "canary-wrong"}).failure("token of primary")
    assert cause.startswith("invalid_client: status 401")
    assert "4 weeks" in remedy
    assert "Customer Portal" in remedy
    assert provider.requests == 3


def test_no_other_form(doctor: Doctor, provider: DemoProvider) -> None:
    """What a client signs has no other form that could be tried in its place."""
    register(provider, Client("app", "canary-" + "0" * 32, auth_method="client_secret_post"))
    cause, _ = doctor("oauth.auth_method=client_secret_jwt").failure("token of primary")
    assert cause.startswith("invalid_client: status 401")
    assert provider.requests == 1


def describing(**changes: object) -> Handler:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        url = f"http://{request.host}"
        metadata = {"issuer": url, "token_endpoint": f"{url}/t", "jwks_uri": f"{url}/k"} | changes
        return await faults.answer(200, json.dumps(metadata).encode())(request)

    return handle


@pytest.mark.parametrize(
    "fault, said",
    [
        (faults.answer(404, b"<html>"), "status 404"),
        (faults.answer(200, b"<html>"), "the metadata of oauth.issuer is not JSON"),
        (faults.answer(302, headers={"Location": "/"}), "a redirect, which is not followed"),
        (describing(issuer="https://another.example"), "is that of another issuer"),
        (describing(token_endpoint=None), "names no token_endpoint"),
        (describing(jwks_uri="http://api.example/keys"), "has a jwks_uri that is not an https URL"),
    ],
)
def test_discovery(doctor: Doctor, provider: DemoProvider, fault: Handler, said: str) -> None:
    """Metadata that can't be used is said to be so, and where it is looked for (R106)."""
    provider.faults.discovery = fault
    report = doctor("oauth.token_url=null", f"oauth.issuer={provider.issuer}")
    cause, remedy = report.failure("discovery")
    assert said in cause
    assert "oauth.issuer" in remedy
    assert "token of primary" not in report.steps
