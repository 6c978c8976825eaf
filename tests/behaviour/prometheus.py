"""Prometheus itself, and its tool: they judge what the proxy publishes, and what is made of that."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.behaviour.running import until
from tests.peers import TIMEOUT
from tests.real_parts import real_part


def promtool(*arguments: str | Path, read: str = "") -> subprocess.CompletedProcess[str]:
    """Runs it to its end; `read` is its standard input."""
    return subprocess.run(
        [real_part("promtool", "prometheus"), *arguments],
        input=read,
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT,
        check=False,
    )


@dataclass
class Prometheus:
    """A running server."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of its HTTP API's answer; nothing while it starts."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
            response = connection.getresponse()
            body = response.read()
            return json.loads(body)["data"] if response.status == 200 else None
        finally:
            connection.close()

    @property
    def is_up(self) -> bool:
        try:
            return self.ask("status/buildinfo") is not None
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Once there is something: each series with its `metric` and its `value`."""
        found = until(lambda: (self.ask("query", query=expression) or {}).get("result"), expression)
        assert isinstance(found, list)
        return found


@contextmanager
def prometheus(directory: Path, config: Mapping[str, object]) -> Iterator[Prometheus]:
    """A server of its own, on a port that the kernel chooses."""
    file, log_file = directory / "prometheus.yml", directory / "prometheus.log"
    # JSON is YAML.
    file.write_text(json.dumps(config))
    command = [
        real_part("prometheus", "prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'series'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    with log_file.open("wb") as log, subprocess.Popen(command, cwd=directory, stdout=log, stderr=log) as process:
        try:
            (port,) = until(lambda: re.findall(r'"Listening on".* address=\S+:(\d+)', log_file.read_text()))
            yield Prometheus(int(port))
        finally:
            process.terminate()


@contextmanager
def scraping(directory: Path, target: int) -> Iterator[Prometheus]:
    """A server that scrapes the proxy with the admin port `target` each second."""
    scraped = {"job_name": "thg-proxy", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    with prometheus(directory, {"global": {"scrape_interval": "1s"}, "scrape_configs": [scraped]}) as server:
        yield server
