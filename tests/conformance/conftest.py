"""One provider, one upstream and one trap for the cases of a module, and a proxy for each set of settings in it."""

from collections.abc import Callable, Iterator

import pytest

from proxy.demo.authorization import Client as RegisteredClient
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Backstage, Launcher, Proxy
from tests.conformance.cases import Case
from tests.conformance.stage import Stage
from tests.peers import trap

Play = Callable[[Case], None]


@pytest.fixture(scope="module")
def play(backstage: Backstage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Plays one case, with a proxy that has the settings it is for."""
    provider = DemoProvider(RegisteredClient(client_secret="canary-6f1d9c0b"))
    backstage.run(provider.start())
    with trap() as listener:
        stage = Stage(listener)
        backstage.run(stage.open())
        launcher = Launcher(tmp_path_factory.mktemp("proxies"), provider)
        # Nothing in the environment tells the proxy where to connect (R40).
        ambient = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://127.0.0.1:{listener.port}")
        proxies: dict[tuple[tuple[str, str], ...], Proxy] = {}

        def play_case(case: Case) -> None:
            if case.known:
                pytest.skip(case.known)
            settings = tuple(case.settings.items())
            if settings not in proxies:
                overrides = [f"{key}={value.replace('{upstream}', str(stage.port))}" for key, value in settings]
                proxies[settings] = launcher(f"http://localhost:{stage.port}", *overrides, environment=ambient)
            backstage.run(stage.play(case, proxies[settings].port))

        yield play_case
        launcher.close()
        backstage.run(stage.close())
    backstage.run(provider.stop())
