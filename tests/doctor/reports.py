"""`thg-proxy doctor --json`, and its document."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from click.testing import CliRunner

from proxy.cli import main
from proxy.demo.idp import DemoProvider


@dataclass(frozen=True)
class Report:
    exit_code: int
    steps: Mapping[str, Any]

    @property
    def failed(self) -> list[str]:
        return [name for name, step in self.steps.items() if not step["ok"]]

    def failure(self, step: str) -> tuple[str, str]:
        """Cause and next step of the only step that failed."""
        assert self.failed == [step]
        assert self.exit_code == 3
        return self.steps[step]["cause"], self.steps[step]["next"]

    def found(self, step: str) -> list[str]:
        """What a step found that succeeded."""
        assert self.steps[step]["ok"], self.steps[step]
        found: list[str] = self.steps[step]["found"]
        return found


@dataclass
class Doctor:
    """Examines the way to `provider` and to `upstream_url`, with more `settings`; no secret is in what it prints."""

    provider: DemoProvider
    upstream_url: str
    settings: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def __call__(self, *arguments: str, environ: Mapping[str, str | None] | None = None) -> Report:
        """`arguments`: KEY=VALUE of the configuration, and options with their values joined by `=`."""
        peers = [f"oauth.token_url={self.provider.token_url}", f"upstream.url={self.upstream_url}"]
        options = [item if item.startswith("--") else f"--set={item}" for item in (*peers, *self.settings, *arguments)]
        inherited = {name: None for name in os.environ if name.startswith("THG_")}
        client = next(iter(self.provider.clients.values()))
        own = {"THG_CLIENT_ID": client.client_id, "THG_CLIENT_SECRET": client.client_secret}
        environment = {**inherited, **own, **(environ or {})}
        result = CliRunner().invoke(main, ["doctor", "--json", *options], env=environment)
        assert result.exit_code in (0, 3), result.output
        self._check_nothing_is_secret(result.output)
        document = json.loads(result.stdout)
        assert document["ok"] == (result.exit_code == 0)
        return Report(result.exit_code, {step["step"]: step for step in document["steps"]})

    def _check_nothing_is_secret(self, output: str) -> None:
        signatures = [token.rpartition(".")[2] for token in self.provider.tokens]
        secrets = [client.client_secret for client in self.provider.clients.values()]
        for secret in (*signatures, *secrets, *self.secrets):
            assert secret not in output
