"""A real Redis, of the Debian package `redis-server`, on a port of 127.0.0.1 that the system picked."""

import subprocess
from pathlib import Path
from typing import Any

from redis import Redis

from proxy.demo.certificates import Certificate
from tests.peers import free_port
from tests.real_parts import real_part

_READY = b"Ready to accept connections"


class RedisServer:
    """`options`: of redis.conf, as on the command line of redis-server."""

    def __init__(self, directory: Path, *options: str, tls: Certificate | None = None) -> None:
        self.port = free_port()
        listen = ["--port", str(self.port)]
        if tls is not None:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            listen += ["--tls-cert-file", str(tls.cert_file), "--tls-key-file", str(tls.key_file)]
            listen += ["--tls-ca-cert-file", str(tls.cert_file)]
        where = ["--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        self._command = [real_part("redis-server", "redis-server"), *where, *listen, *options]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert any(_READY in line for line in self._process.stdout), "redis-server ended before it was ready"

    def kill(self) -> None:
        """At once; nothing is saved."""
        self._process.kill()
        self._process.communicate()

    def command(self, *words: str | bytes | int) -> Any:
        """The answer to one command, bytes as they are."""
        with Redis(port=self.port, protocol=2) as client:
            return client.execute_command(*words)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"
