import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from proxy.demo.api import DemoApi
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage
from tests.doctor.reports import Doctor
from tests.peers import TIMEOUT


@pytest.fixture
def api(backstage: Backstage, provider: DemoProvider) -> Iterator[DemoApi]:
    api = DemoApi(provider)
    backstage.run(api.start())
    yield api
    backstage.run(api.stop())


@pytest.fixture
def doctor(provider: DemoProvider, api: DemoApi) -> Iterator[Doctor]:
    """For the demo's provider and API, both of which are well."""
    yield Doctor(provider, api.url)
    for server in (provider, api):
        settle(server.port)


def settle(port: int) -> None:
    """Returns once the server has taken the connections that are made: asyncio loses one that comes as it closes."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while sock.recv(65536):
            pass
