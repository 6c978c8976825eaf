"""The API that all peers forward to: nginx with TLS, a token endpoint, and a sink in which uploads end."""

import http.server
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Self

from proxy.demo.certificates import Certificate, CertificateAuthority

from .processes import Cores, free_port, running

_CONF = Path(__file__).with_name("conf")
_ANSWER = json.dumps({"status": "ok", "vehicles": [{"id": number, "state": "parked"} for number in range(100, 105)]})
_PIECE = 1 << 20
_CONNECTIONS = 1024


@dataclass(frozen=True)
class Upstream:
    """What the peers and the load need to know: where the API is, and what a case wants of a peer beside forwarding.

    `folder` holds logs and configurations and is removed in the end; `sparse` is the file that the bulk case moves;
    `token` is opaque; `clients` is the number of connections that a peer must hold beside those of the load.
    """

    folder: Path
    port: int
    plain_port: int
    token_port: int
    certificate: Certificate
    ca: Path
    sparse: Path
    token: str
    scheme: str = "https"
    access_log: bool = False
    websocket: bool = False
    clients: int = 0

    def render(self, template: str, **values: object) -> Path:
        """Fills in the `${names}` of `conf/<template>`; `$$` stands for a dollar sign.

        `${if_log}` and its like make a comment of the line where they are not true.
        """
        known = {"folder": self.folder, "scheme": self.scheme, "upstream_port": self.port}
        known |= {"plain_port": self.plain_port, "token_port": self.token_port, "ca": self.ca}
        known |= {"sparse": self.sparse, "token": self.token, "connections": _CONNECTIONS + self.clients}
        for name, wanted in (("log", self.access_log), ("websocket", self.websocket)):
            known |= {f"if_{name}": "" if wanted else "#", f"unless_{name}": "#" if wanted else ""}
        file = self.folder / template
        file.write_text(Template((_CONF / template).read_text()).substitute(known | values))
        return file

    def plain(self) -> Self:
        """The same API without TLS."""
        return replace(self, scheme="http", port=self.plain_port)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"


@contextmanager
def serving(nginx: str, cores: Cores, bulk_size: int) -> Iterator[tuple[Upstream, int]]:
    """The upstream and the id of its process, which serves on these cores until the end of the block."""
    with TemporaryDirectory(prefix="thg-proxy-bench-") as name, _sink() as sink_port:
        folder = Path(name)
        authority = CertificateAuthority(folder)
        upstream = Upstream(
            folder=folder,
            port=free_port(),
            plain_port=free_port(),
            token_port=free_port(),
            certificate=authority.issue("localhost", "127.0.0.1"),
            ca=authority.ca_file,
            sparse=_sparse(folder / "sparse", bulk_size),
            token=secrets.token_urlsafe(450),  # 600 characters, about as long as a JWT
        )
        config = upstream.render(
            "upstream.conf",
            certificate=upstream.certificate.cert_file,
            key=upstream.certificate.key_file,
            answer=_ANSWER,
            sink_port=sink_port,
            processes=_processes(len(cores)),
        )
        ready = f"http://127.0.0.1:{upstream.token_port}/"
        command = [nginx, "-e", "stderr", "-c", str(config)]
        with running(command, ready, folder / "upstream.log", os.environ, cores) as pid:
            yield upstream, pid


def _processes(count: int) -> str:
    if count == 1:
        return "master_process off;"
    # Else root's would become those of a user who can't read what is here.
    return f"worker_processes {count};" + (" user root;" if os.geteuid() == 0 else "")


def _sparse(file: Path, size: int) -> Path:
    file.touch()
    os.truncate(file, size)
    return file


class _Sink(http.server.BaseHTTPRequestHandler):
    """Reads an upload to its end and answers with its size; nginx by itself answers before the body has come."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        size = 0
        expected = int(self.headers["Content-Length"])
        while piece := self.rfile.read(min(_PIECE, expected - size)):
            size += len(piece)
        answer = str(size).encode()
        self.send_response(http.HTTPStatus.OK)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _sink() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
