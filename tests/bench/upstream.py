"""The API that all peers forward to: nginx with TLS, a token endpoint, and a sink in which uploads end."""

import http.server
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from proxy.demo.certificates import CertificateAuthority

from .processes import free_port, running

_CONF = Path(__file__).with_name("conf")
_ANSWER = json.dumps({"status": "ok", "vehicles": [{"id": number, "state": "parked"} for number in range(100, 105)]})
_PIECE = 1 << 20


@dataclass(frozen=True)
class Upstream:
    """What the peers and the load need to know of the API.

    `folder` holds logs and configurations and is removed in the end; `sparse` is the file that the bulk case moves;
    `token` is opaque.
    """

    folder: Path
    port: int
    token_port: int
    ca: Path
    sparse: Path
    token: str

    def render(self, template: str, **values: object) -> Path:
        """Fills in the `${names}` of `conf/<template>`; `$$` stands for a dollar sign."""
        known = {"folder": self.folder, "upstream_port": self.port, "token_port": self.token_port}
        known |= {"ca": self.ca, "sparse": self.sparse, "token": self.token}
        file = self.folder / template
        file.write_text(Template((_CONF / template).read_text()).substitute(known | values))
        return file


@contextmanager
def serving(nginx: str, core: int, bulk_size: int) -> Iterator[tuple[Upstream, int]]:
    """The upstream and the id of its process, which serves on that core until the end of the block."""
    with TemporaryDirectory(prefix="thg-proxy-bench-") as name, _sink() as sink_port:
        folder = Path(name)
        authority = CertificateAuthority(folder)
        certificate = authority.issue("localhost", "127.0.0.1")
        upstream = Upstream(
            folder=folder,
            port=free_port(),
            token_port=free_port(),
            ca=authority.ca_file,
            sparse=_sparse(folder / "sparse", bulk_size),
            token=secrets.token_urlsafe(450),  # 600 characters, about as long as a JWT
        )
        config = upstream.render(
            "upstream.conf",
            certificate=certificate.cert_file,
            key=certificate.key_file,
            answer=_ANSWER,
            sink_port=sink_port,
        )
        ready = f"http://127.0.0.1:{upstream.token_port}/"
        command = [nginx, "-e", "stderr", "-c", str(config)]
        with running(command, ready, folder / "upstream.log", os.environ, core) as pid:
            yield upstream, pid


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
