"""The demo: a provider, an API and the real proxy between them, in one process and on loopback."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy import run, settings
from proxy.config import Loaded
from proxy.demo.api import DemoApi
from proxy.demo.authorization import Client
from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from proxy.errors import StartError
from proxy.secret import SecretRef

_HOST = "127.0.0.1"

# Called with the name of a thing and what there is to say of it.
Say = Callable[[str, str], None]


async def serve(port: int, admin_port: int, lifetime: settings.Duration, say: Say) -> int:
    """Runs until the process is told to stop, tells `say` how to try it, and returns the exit code.

    Port 0: a free one. `lifetime`: of each access token. Raises what `run.serve` raises.
    """
    client = Client()
    provider = DemoProvider(client, lifetime=lifetime)
    api = DemoApi(provider)
    with _temporary_directory() as directory:
        authority = CertificateAuthority(directory)
        tls = authority.server_context(_HOST)
        async with provider.running(tls), api.running(tls):
            say("CA", f"{authority.ca_file} (made for this run)")
            say("provider", f"{provider.url} (client {client.client_id}, secret {client.client_secret})")
            say("API", f"{api.url} (wants a token of the provider; each lives {lifetime})")
            config = _settings(_chosen(port, admin_port), provider, api, authority)
            return await run.serve(_loaded(config), ready=lambda: _invite(config, say))


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    try:
        directory = tempfile.TemporaryDirectory(prefix="thg-proxy-demo-")
    except OSError as exc:
        raise StartError("the demo needs a directory for temporary files; set TMPDIR to one it can write to") from exc
    with directory as path:
        yield Path(path)


def _chosen(*ports: int) -> list[int]:
    """The ports, with a free one in place of each 0."""
    with contextlib.ExitStack() as held:
        free = [held.enter_context(socket.create_server((_HOST, 0))).getsockname()[1] for _ in ports]
    return [port or spare for port, spare in zip(ports, free, strict=True)]


def _loaded(config: settings.Settings) -> Loaded:
    return Loaded(config, file=None, origin="thg-proxy demo", origins={}, notes=(), again=lambda: _loaded(config))


def _settings(
    ports: list[int], provider: DemoProvider, api: DemoApi, authority: CertificateAuthority
) -> settings.Settings:
    port, admin_port = ports
    ca_file = str(authority.ca_file)
    (client,) = provider.clients.values()
    return settings.Settings(
        listen=settings.Listen(address=settings.Address(_HOST, port)),
        admin=settings.Admin(address=settings.Address(_HOST, admin_port)),
        upstream=settings.Upstream(url=api.url, tls=settings.UpstreamTls(ca_file=ca_file)),
        oauth=settings.OAuth(
            issuer=provider.issuer,
            clients=(
                settings.Client(
                    name="demo",
                    client_id=SecretRef.parse(client.client_id),
                    client_secret=SecretRef.parse(client.client_secret),
                ),
            ),
            scope=" ".join(sorted(client.scopes)),
            tls=settings.ClientTls(ca_file=ca_file),
        ),
        log=settings.Log(access="all"),
    )


def _invite(config: settings.Settings, say: Say) -> None:
    proxy, admin = f"http://{config.listen.address}", f"http://{config.admin.address}"
    say("proxy", f"{proxy} (in front of the API: it adds the token)")
    say("admin", admin)
    say("", "")
    say("try it", f"curl {proxy}/v1/vehicles")
    say("what arrived", f"curl {proxy}/echo")
    say("without it: 401", f"curl -i --cacert {config.upstream.tls.ca_file} {config.upstream.url}/v1/vehicles")
    say("watch it", f"{admin}/ (in a browser)")
    say("state", f"curl {admin}/status")
    say("readiness", f"curl {admin}/readyz")
    say("metrics", f"curl {admin}/metrics")
    say("stop it", "Ctrl-C")
