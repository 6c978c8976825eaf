"""The pods of the overlays without Kubernetes: the real proxy with a pod's files, environment and arguments.

Only addresses are others, as `--set` has it: those of the test's provider and API, and free ports on loopback.
"""

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.demo.certificates import CertificateAuthority
from proxy.demo.idp import DemoProvider
from tests.behaviour.running import Launcher, Proxy, until
from tests.bench.measure import usage
from tests.deploy.manifests import Pod, Resources, containers, one, proxy_of
from tests.peers import TIMEOUT, BodyCut, Client, Upstream, http_answer, request
from tests.real_parts import real_part
from tests.stores.redis_server import RedisServer

Start = Callable[..., Proxy]

MIB = 1 << 20
PASSWORD = "s3cret-of-redis"
SIDECARS = ("native-sidecar", "classic-sidecar", "job", "classic-job")


@pytest.fixture
def pods(
    rendered: dict[str, Resources], mounts: Path, provider: DemoProvider, secrets: dict[str, str]
) -> Callable[[str], Pod]:
    """The pod of an overlay, with the credentials of the provider's client in its secret."""
    (client,) = provider.clients.values()
    known = {
        "thg-proxy/client-id": client.client_id,
        "thg-proxy/client-secret": client.client_secret,
        "thg-proxy-redis/password": PASSWORD,
    }
    return lambda overlay: Pod(mounts, rendered[overlay], secrets | known)


@pytest.fixture
def start(launch: Launcher, upstream: Upstream) -> Start:
    def start(pod: Pod, **environment: str) -> Proxy:
        return launch(upstream, "shutdown.delay=0s", environment=pod.environment | environment)

    return start


@pytest.fixture
def redis(tmp_path: Path, rendered: dict[str, Resources]) -> Iterator[RedisServer]:
    """Redis with the arguments that its pod has."""
    (container,) = containers(one(rendered["shared-gateway"], "Deployment", "thg-proxy-redis"))
    program, *options = [word.replace("$(REDIS_PASSWORD)", PASSWORD) for word in container["args"]]
    assert program == "redis-server"
    server = RedisServer(tmp_path, *options)
    yield server
    server.kill()


def script(pod: Pod, proxy: Proxy) -> list[str]:
    """What the pod's own container runs, with the ports of `proxy`."""
    workload, _ = proxy_of(pod.resources)
    (container,) = (container for container in containers(workload) if container["name"] != "thg-proxy")
    real_part("curl", "curl")
    words = [*container["command"], *container.get("args", [])]
    return [word.replace(":8080", f":{proxy.port}").replace(":9090", f":{proxy.admin_port}") for word in words]


@pytest.mark.parametrize("overlay", SIDECARS)
def test_sidecar(pods: Callable[[str], Pod], start: Start, upstream: Upstream, overlay: str) -> None:
    """It starts with the pod's files, passes its probes, and puts the token on what the app asks."""
    pod = pods(overlay)
    proxy = start(pod)

    probes = [probe["httpGet"]["path"] for name, probe in pod.container.items() if name.endswith("Probe")]
    assert {path: proxy.admin(path)[0] for path in probes} == {"/startupz": 200, "/readyz": 200, "/livez": 200}
    with proxy.connect() as app:
        assert app.get(b"/v1/vehicles").status == 200
    assert upstream.requests[0].values(b"authorization")[0].startswith(b"Bearer ")
    assert proxy.status()["config"] == pod.environment["THG_PROXY_CONFIG"]


def test_changed_config_map(pods: Callable[[str], Pod], start: Start) -> None:
    """A new content, which the kubelet brings in by turning a link, is read without a restart."""
    pod = pods("native-sidecar")
    proxy = start(pod)

    pod.write("/etc/thg-proxy", {"config.yaml": pod.config_text + "\npolicy: {allow: [{path: /v1/**}]}\n"})

    until(lambda: proxy.log_lines("reloaded"), "reloaded")
    with proxy.connect() as app:
        assert (app.get(b"/v1/vehicles").status, app.get(b"/v2").status) == (200, 403)


def test_app(pods: Callable[[str], Pod], start: Start, upstream: Upstream) -> None:
    """The example's loop gets answers, and SIGTERM ends it."""
    pod = pods("native-sidecar")
    app = subprocess.Popen(script(pod, start(pod)), stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert upstream.wait_for(1)[0].target == b"/v1/vehicles"
        app.send_signal(signal.SIGTERM)
        assert app.wait(TIMEOUT) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(app.pid, signal.SIGKILL)  # with its `sleep`, which would end with a container
        app.communicate()


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (500, 22)])
def test_job(pods: Callable[[str], Pod], start: Start, upstream: Upstream, status: int, exit_code: int) -> None:
    """The Job's command succeeds and fails with the API; nothing else is needed, as the kubelet ends the proxy."""
    upstream.answer = http_answer(status, b"text")
    pod = pods("job")
    done = subprocess.run(script(pod, start(pod)), capture_output=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (exit_code, b"text")


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (500, 22)])
def test_classic_job(pods: Callable[[str], Pod], start: Start, upstream: Upstream, status: int, exit_code: int) -> None:
    """The container's last act ends the proxy, whether its work has succeeded or failed: the pod is finished."""
    upstream.answer = http_answer(status, b"text")
    pod = pods("classic-job")
    proxy = start(pod)

    done = subprocess.run(script(pod, proxy), capture_output=True, timeout=TIMEOUT, check=False)

    assert (done.returncode, done.stdout) == (exit_code, b"text"), done.stderr
    assert proxy.process.wait(TIMEOUT) == 0


def test_native_job_can_not_stop_the_proxy(pods: Callable[[str], Pod], start: Start) -> None:
    """`POST /stop` is only for the kind of Job that needs it."""
    assert start(pods("job")).admin("/stop", "POST")[0] == 403


def test_replicas_share_a_token(
    pods: Callable[[str], Pod], start: Start, provider: DemoProvider, redis: RedisServer
) -> None:
    """With the Redis of the overlay, and its password, one token serves all replicas."""
    pod = pods("shared-gateway")
    store = pod.environment["THG_PROXY__OAUTH__STORE"]
    assert store == f"redis://:{PASSWORD}@thg-proxy-redis:6379/0"
    here = store.replace("thg-proxy-redis:6379", f"127.0.0.1:{redis.port}")

    replicas = [start(pod, THG_PROXY__OAUTH__STORE=here) for _ in range(2)]

    assert provider.minted == 1
    for replica in replicas:
        assert not replica.log_lines("store_unavailable")
        with replica.connect() as app:
            app.send(request(b"GET", b"/a", host=b"thg-proxy:8080"))
            assert app.response().status == 200


def test_redis_wants_the_password(redis: RedisServer) -> None:
    """A pod that gets past the network policy finds a closed door."""
    with Client(redis.port) as stranger:
        stranger.send(b"PING\r\n")
        assert stranger.receive(7) == b"-NOAUTH"


@pytest.mark.parametrize("host", [b"thg-proxy.elsewhere", b"10.0.0.7", b"evil.example"])
def test_a_gateway_knows_its_names(pods: Callable[[str], Pod], start: Start, upstream: Upstream, host: bytes) -> None:
    """It is called by the name of its service (R134)."""
    proxy = start(pods("shared-gateway"), THG_PROXY__OAUTH__STORE="memory")
    with proxy.connect() as app:
        app.send(request(b"GET", b"/a", host=host))
        assert app.response().status == 421
    assert not upstream.requests


def test_mutual_tls(
    pods: Callable[[str], Pod], start: Start, upstream: Upstream, authority: CertificateAuthority
) -> None:
    """A caller with a certificate of the CA is served, by the service's name; one without gets no connection."""
    proxy = start(pods("shared-gateway-mtls"), THG_PROXY__OAUTH__STORE="memory")
    context = ssl.create_default_context(cafile=authority.ca_file)

    def connected() -> Client:
        sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT)
        return Client(context.wrap_socket(sock, server_hostname="thg-proxy"))

    # In TLS 1.3 the refusal comes after the client's handshake.
    with connected() as stranger, pytest.raises((ssl.SSLError, ConnectionError, BodyCut)):
        stranger.receive(1)
    assert not upstream.requests
    certificate = authority.issue("app")
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    with connected() as app:
        app.send(request(b"GET", b"/a", host=b"thg-proxy"))
        assert app.response().status == 200


def test_memory(pods: Callable[[str], Pod], start: Start) -> None:
    """The request is enough for ordinary traffic, and the limit is far from it."""
    pod = pods("native-sidecar")
    proxy = start(pod)
    with proxy.under_load() as load:
        until(lambda: load.count >= 100, "a hundred answers")
        used = usage(proxy.process.pid).rss
    resources = pod.container["resources"]
    assert used < int(resources["requests"]["memory"].removesuffix("Mi")) * MIB
    assert used * 4 < int(resources["limits"]["memory"].removesuffix("Mi")) * MIB
