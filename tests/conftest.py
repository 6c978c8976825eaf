"""What several test modules stand on: real servers, and the command in its own process, over real sockets."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, Launcher, Proxy
from tests.peers import Upstream


@pytest.fixture(scope="session", autouse=True)
def nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever runs the tests has no configuration of their own."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("nobody"))


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a script starts in the background ignores SIGINT, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def backstage() -> Iterator[Backstage]:
    stage = Backstage()
    yield stage
    stage.close()


@pytest.fixture
def provider(backstage: Backstage) -> Iterator[DemoProvider]:
    provider = DemoProvider(RegisteredClient(client_secret="canary-6f1d9c0b"))
    backstage.run(provider.start())
    yield provider
    backstage.run(provider.stop())


@pytest.fixture
def secure_provider(backstage: Backstage, provider: DemoProvider, authority: CertificateAuthority) -> DemoProvider:
    """The provider behind TLS, under its name; aiohttp asks an egress proxy for a tunnel to https only."""
    backstage.run(provider.stop())
    backstage.run(provider.start(ssl_context=authority.server_context("localhost")))
    provider.url = provider.url.replace("127.0.0.1", "localhost")
    return provider


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def launch(tmp_path: Path, provider: DemoProvider) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path, provider)
    yield launcher
    launcher.close()


@pytest.fixture
def proxy(launch: Launcher, upstream: Upstream) -> Proxy:
    """A proxy with the defaults, in front of `upstream`."""
    return launch(upstream)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was tried where one test, or one file of them, stands for many."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call" and report.outcome != "skipped"
    ]
    files = [report.nodeid.partition("::")[0] for report in reports]
    clients, upstreams = (files.count(f"tests/conformance/test_{side}.py") for side in ("client", "upstream"))
    properties = (pair for report in reports for pair in report.user_properties)
    examples = sum(value for name, value in properties if name == "fuzz_examples" and isinstance(value, int))
    if clients or upstreams:
        terminalreporter.write_line(f"conformance: {clients} cases of clients, {upstreams} of upstreams")
    if examples:
        terminalreporter.write_line(f"fuzzing: {examples} examples")
