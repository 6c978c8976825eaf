"""The promises, with the demo's own provider and API behind the proxy, over TLS."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.demo.api import DemoApi
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, Launcher, Proxy, until
from tests.peers import TIMEOUT, Reader, Response, request


@pytest.fixture
def api(backstage: Backstage, provider: DemoProvider, authority: CertificateAuthority) -> Iterator[DemoApi]:
    api = DemoApi(provider)
    backstage.run(api.start(ssl_context=authority.server_context("127.0.0.1")))
    yield api
    backstage.run(api.stop())


@pytest.fixture
def verified(launch: Launcher, api: DemoApi, authority: CertificateAuthority, provider: DemoProvider) -> Proxy:
    """A proxy that verifies tokens, in front of the API over TLS."""
    return launch(
        api.url,
        f"upstream.tls.ca_file={authority.ca_file}",
        f"oauth.jwks_url={provider.jwks_url}",
        "oauth.scope=fleet.read fleet.write",
    )


def direct(api: DemoApi, authority: CertificateAuthority, sent: bytes) -> Response:
    """The API's own answer to a request that has a token."""
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    plain = socket.create_connection(("127.0.0.1", api.port), timeout=TIMEOUT)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        tls.sendall(sent)
        reader = Reader(tls)
        head = reader.head()
        return Response(head, reader.body(head))


@pytest.mark.parametrize(
    "method, target, body",
    [
        (b"GET", b"/v1/vehicles", b""),
        (b"GET", b"/v1/vehicles?limit=%2F+&x=%zz", b""),
        (b"GET", b"/v1/charging-points", b""),
        (b"GET", b"/v1/nothing", b""),
        (b"POST", b"/v1/charging-points", b"{}"),
    ],
)
def test_as_if_direct(
    verified: Proxy,
    api: DemoApi,
    provider: DemoProvider,
    authority: CertificateAuthority,
    method: bytes,
    target: bytes,
    body: bytes,
) -> None:
    """What comes through the proxy is what a direct request with a token gets, byte for byte (P5)."""
    fields = [b"Content-Type: application/json"] if body else []
    bearer = b"Authorization: Bearer " + provider.tokens[-1].encode()
    expected = direct(api, authority, request(method, target, *fields, bearer, body=body))
    with verified.connect() as client:
        client.send(request(method, target, *fields, body=body))
        response = client.response()

    def without_date(head: bytes) -> list[bytes]:
        return sorted(line for line in head.split(b"\r\n") if not line.startswith(b"Date:"))

    assert without_date(response.head) == without_date(expected.head)
    assert response.body == expected.body
    assert expected.status in (200, 404, 405)


@pytest.mark.timeout(180)
def test_twenty_thousand(verified: Proxy, provider: DemoProvider) -> None:
    """Twenty thousand requests while tokens of five seconds come and go: none fails (R88, R92)."""
    provider.lifetime = 5
    until(lambda: verified.admin("/refresh", "POST")[0] == 200)

    def work(_number: int) -> set[int]:
        connection = http.client.HTTPConnection("127.0.0.1", verified.port, timeout=TIMEOUT)
        statuses = set()
        for _ in range(1000):
            connection.request("GET", "/v1/vehicles")
            response = connection.getresponse()
            response.read()
            statuses.add(response.status)
        connection.close()
        return statuses

    with ThreadPoolExecutor(20) as workers:
        assert set().union(*workers.map(work, range(20))) == {200}
    assert verified.metric("thg_proxy_requests_total", method="GET", status="200", outcome="ok") == 20_000
    assert provider.minted > 2
