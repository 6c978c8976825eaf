"""A scripted token endpoint over TLS, for what the demo's well-behaved provider would not do; clients for Node.js."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.demo.certificates import CertificateAuthority
from tests.behaviour.running import Launch, Launcher, Proxy
from tests.peers import Upstream, token_answer
from tests.real_parts import npm_ci, real_part

Node = Callable[[str], tuple[str | Path, ...]]
"""Gives the command of a client in `clients/`."""


@pytest.fixture
def issuer(authority: CertificateAuthority) -> Iterator[Upstream]:
    """Answers whatever a test tells it to; the token `first` until then."""
    with Upstream(answer=token_answer("first"), tls=authority.server_context("localhost")) as issuer:
        yield issuer


@pytest.fixture
def launch_with(launch: Launcher, upstream: Upstream, issuer: Upstream, authority: CertificateAuthority) -> Launch:
    """As `launch`, with `issuer` as the provider.

    Requests wait for a token for ever; after a failure the provider is asked again in an hour, or when it is demanded.
    """

    def start(*overrides: str, ready: bool = True, environment: dict[str, str] | None = None) -> Proxy:
        return launch(
            upstream,
            f"oauth.token_url={issuer.url}/token",
            f"oauth.tls.ca_file={authority.ca_file}",
            "oauth.refresh.wait=1h",
            "oauth.refresh.backoff={initial: 1h, max: 1h}",
            *overrides,
            ready=ready,
            environment=environment,
        )

    return start


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    directory = npm_ci(Path(__file__).parent / "clients", tmp_path_factory.mktemp("node"))
    return lambda name: (real_part("node", "nodejs"), directory / f"{name}.mjs")
