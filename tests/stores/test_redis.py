import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from proxy.core.secret import Secret
from proxy.core.stored import Shared, encode
from proxy.demo.certificates import CertificateAuthority
from proxy.errors import ConfigError, StoreUnavailable
from proxy.stores import redis as redis_module
from proxy.stores.degrading import REST, DegradingStore
from proxy.stores.redis import LOCK_TTL, RedisStore
from tests.behaviour.running import until
from tests.stores.conftest import Process
from tests.stores.redis_server import RedisServer
from tests.stores.samples import KEY, OTHER_KEY, PASSWORD, SECRET, Lines, run, shared, token_of

CANARY = "canary-t0ken"
TOKEN_KEY, LOCK_KEY, FENCE_KEY = (f"thg-proxy:{{{KEY}}}:{part}" for part in ("token", "lock", "fence"))


def store_at(url: str, *, key: str = KEY, secret: str | None = SECRET) -> RedisStore:
    return RedisStore(url, key=key, secret=lambda: None if secret is None else Secret(secret))


async def put(store: RedisStore, known: Shared) -> bool:
    lock = await store.lock(0)
    assert lock is not None
    try:
        return await lock.write(known)
    finally:
        await lock.release()


def write(store: RedisStore, known: Shared | None = None) -> bool:
    return run(put(store, known or shared(CANARY)))


def unavailable(store: RedisStore) -> str:
    """Why a store can't be used: the same for each operation."""
    reasons = set()
    for work in (store.read, lambda: store.lock(0)):
        with pytest.raises(StoreUnavailable) as caught:
            run(work())
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        reasons.add(caught.value.detail)
    (reason,) = reasons
    return reason


@pytest.fixture
def store(redis_url: str) -> RedisStore:
    return store_at(redis_url)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may kill."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def test_nothing_to_read_in_redis(store: RedisStore, redis_server: RedisServer) -> None:
    """Who reads all of Redis learns neither the token nor the client (R145, R154)."""
    write(store)
    keys = redis_server.command("KEYS", "*")
    assert sorted(keys) == sorted(key.encode() for key in (TOKEN_KEY, FENCE_KEY))
    everything = b"".join(keys) + b"".join(redis_server.command("GET", key) for key in keys)
    assert b"can" not in everything
    assert b"primary" not in everything


def test_no_two_values_are_alike(store: RedisStore, redis_server: RedisServer) -> None:
    """The same token is encrypted anew each time, so that nobody sees that it stayed the same."""
    values = set()
    for _ in range(3):
        write(store, Shared(asked_at=1.0))
        values.add(redis_server.command("GET", TOKEN_KEY))
    assert len({value[:12] for value in values}) == len(values) == 3


@pytest.mark.parametrize("lifetime, expected", [(3600, 3600), (86399, 86399), (10, 60)])
def test_expires_with_the_token(store: RedisStore, redis_server: RedisServer, lifetime: float, expected: float) -> None:
    """Redis forgets the token when it is over, and the time of the last request a minute later at most."""
    write(store, shared(CANARY, lifetime))
    assert expected - 30 < redis_server.command("PTTL", TOKEN_KEY) / 1000 <= expected


def test_nothing_stays_for_ever(store: RedisStore, redis_server: RedisServer) -> None:
    """Every key has an end."""
    run(store.lock(0))
    assert 0 < redis_server.command("PTTL", LOCK_KEY) <= LOCK_TTL * 1000
    assert redis_server.command("PTTL", FENCE_KEY) > 0


NOT_TO_BE_USED: dict[str, bytes] = {
    "plain": encode(shared(CANARY)),
    "empty-ish": b"\0",
    "shorter than a nonce": b"\0" * 11,
    "nonce only": b"\0" * 12,
    "random": os.urandom(100),
    "large": b"\0" * 2**20,
}


@pytest.mark.parametrize("value", NOT_TO_BE_USED.values(), ids=NOT_TO_BE_USED)
def test_a_value_that_is_not_to_be_used(store: RedisStore, redis_server: RedisServer, value: bytes) -> None:
    """A value that this proxy has not written is not used but replaced."""
    redis_server.command("SET", TOKEN_KEY, value)
    with pytest.raises(ValueError, match=r"in Redis at 127.0.0.1:[0-9]+ was not encrypted with this client secret"):
        run(store.read())
    write(store)
    assert token_of(run(store.read())) == CANARY


@pytest.mark.parametrize("flipped", [0, 12, 40, -1])
def test_a_value_that_was_changed(store: RedisStore, redis_server: RedisServer, flipped: int) -> None:
    """A value of which a bit was changed is not used."""
    write(store)
    value = bytearray(redis_server.command("GET", TOKEN_KEY))
    value[flipped] ^= 1
    redis_server.command("SET", TOKEN_KEY, bytes(value))
    with pytest.raises(ValueError, match="was not encrypted"):
        run(store.read())


def test_a_value_of_another_kind_of_token(store: RedisStore, redis_server: RedisServer, redis_url: str) -> None:
    """A value that was moved from the key of another kind of token is not used, though the secret is the same."""
    other = store_at(redis_url, key=OTHER_KEY)
    write(other)
    redis_server.command("COPY", other.token_key, TOKEN_KEY)
    with pytest.raises(ValueError, match="was not encrypted"):
        run(store.read())


def test_another_client_secret(store: RedisStore, redis_url: str) -> None:
    """A token of another client secret is not used: after a rotation the fleet obtains a new one (R100)."""
    write(store_at(redis_url, secret="the secret before"))
    with pytest.raises(ValueError, match="was not encrypted with this client secret"):
        run(store.read())
    write(store)
    assert token_of(run(store.read())) == CANARY


def test_the_secret_is_asked_for_each_time(redis_url: str) -> None:
    """A rotated secret is used from the next operation on (R100)."""
    secrets = [Secret("one")]
    store = RedisStore(redis_url, key=KEY, secret=lambda: secrets[-1])
    write(store)
    secrets.append(Secret("two"))
    with pytest.raises(ValueError, match="was not encrypted"):
        run(store.read())


def test_no_client_secret(store: RedisStore, redis_url: str) -> None:
    """Without a client secret nothing is written, rather than in the clear."""
    write(store)
    locked = store_at(redis_url, secret=None)
    for work in (locked.read, lambda: put(locked, shared())):
        with pytest.raises(StoreUnavailable, match=r"^the client secret, .* can't be read$"):
            run(work())


def test_a_holder_that_is_killed(redis_url: str, redis_server: RedisServer, process: Callable[[str], Process]) -> None:
    """The lock of a process that is killed ends by itself, and whoever waits gets it then."""
    holder, other = process(redis_url), process(redis_url)
    assert holder.ask("lock 0") == "True"
    other.tell("mint token")
    holder.kill()
    assert 0 < redis_server.command("PTTL", LOCK_KEY) <= LOCK_TTL * 1000
    redis_server.command("PEXPIRE", LOCK_KEY, 1)
    assert other.answer() == "token"


def test_a_paused_holder_writes_late(
    redis_url: str, redis_server: RedisServer, process: Callable[[str], Process]
) -> None:
    """A holder that stood still until its lock was over writes nothing over what its successor wrote."""
    holder, other = process(redis_url), process(redis_url)
    assert holder.ask("lock 0") == "True"
    holder.signal(signal.SIGSTOP)
    redis_server.command("PEXPIRE", LOCK_KEY, 1)
    assert other.ask("mint newer") == "newer"
    holder.signal(signal.SIGCONT)
    assert holder.ask("write older") == "False"
    assert holder.ask("read") == "newer"


def test_late_but_nobody_came(redis_url: str, redis_server: RedisServer, process: Callable[[str], Process]) -> None:
    """A holder whose lock is over may still write where nobody has taken it since."""
    holder = process(redis_url)
    assert holder.ask("lock 0") == "True"
    redis_server.command("DEL", LOCK_KEY)
    assert holder.ask("write token") == "True"
    assert holder.ask("read") == "token"


def test_a_late_release(store: RedisStore, redis_server: RedisServer) -> None:
    """A holder whose lock is over does not release that of its successor."""

    async def main() -> None:
        late = await store.lock(0)
        redis_server.command("DEL", LOCK_KEY)
        successor = await store.lock(0)
        assert late is not None
        assert successor is not None
        await late.release()
        assert await store.lock(0) is None

    run(main())


def test_redis_lost_its_data(own_server: RedisServer) -> None:
    """A Redis that is empty after a restart still tells a late holder from its successor."""

    async def main() -> None:
        store = store_at(own_server.url)
        late = await store.lock(0)
        own_server.kill()
        own_server.start()
        assert late is not None
        assert await put(store, shared("newer"))
        assert not await late.write(shared("older"))
        assert token_of(await store.read()) == "newer"

    run(main())


def test_killed_and_restarted(own_server: RedisServer, lines: Lines) -> None:
    """While Redis is down the proxy goes on with a token of its own, and when it is up again it shares (R89)."""
    now = 0.0
    store = DegradingStore(store_at(own_server.url), lines.log, lambda: now)

    async def mint(token: str) -> None:
        lock = await store.lock(0)
        assert lock is not None
        assert await lock.write((await store.read())._replace(token=shared(token).token))
        await lock.release()

    async def main() -> None:
        nonlocal now
        await mint("first")
        lock = await store.lock(0)
        own_server.kill()
        assert lock is not None
        assert await lock.write(shared("in between"))
        await lock.release()
        assert token_of(await store.read()) == "in between"
        own_server.start()
        now += REST
        assert token_of(await store.read()) == "in between"
        await mint("third")
        assert token_of(await store_at(own_server.url).read()) == "third"

    run(main())
    assert lines.events == ["store_unavailable", "store_recovered"]
    assert lines.reasons == [f"Redis at 127.0.0.1:{own_server.port} can't be used: ConnectionRefusedError"]


def test_a_connection_is_not_kept(store: RedisStore, redis_server: RedisServer) -> None:
    """Between two operations nothing is connected: no firewall can forget the connection, no failover break it."""

    async def main() -> None:
        await put(store, shared())
        await store.read()

    run(main())
    # The one that asks.
    until(lambda: redis_server.command("CLIENT", "LIST").count(b"id=") == 1)


@contextmanager
def impostor(answer: bytes | None) -> Iterator[str]:
    """The URL of something that is not Redis: to all that it is sent it answers this; None: it never answers."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                while self.request.recv(65536):
                    self.request.sendall(answer or b"")
            except OSError:
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()
        thread.join()


def with_password(url: str, user: str = "") -> str:
    return url.replace("://", f"://{user}:{quote(PASSWORD, safe='')}@")


def assert_discreet(*texts: str) -> None:
    for text in texts:
        assert "canary" not in text


IMPOSTORS = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"-ERR unknown command `AUTH`, with args beginning with: `" + PASSWORD.encode() + b"`\r\n",
    # Enough for the commands that open a connection and the one that matters.
    *(9 * answer for answer in (b"+OK\r\n", b":1\r\n", b":0\r\n", b"*-1\r\n", b"*0\r\n", b"$2\r\nOK\r\n")),
    b"+OK\r\n",
    b"+\xff\xfe\r\n",
    b":1\r\n",
    b":one\r\n",
    b"$many\r\n",
    b"$-7\r\n",
    b"$3\r\nabcde\r\n",
    b"*2\r\n$1\r\na\r\n",
    b"*-5\r\n",
    b"*1\r\n" * 5000,
    b"\r\n",
    b"?\r\n",
    b"",
    b"\0" * 1000,
]


@pytest.mark.parametrize("answer", IMPOSTORS, ids=[str(answer[:20]) for answer in IMPOSTORS])
def test_something_else_answers(answer: bytes, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """Whatever answers in the place of Redis, the proxy goes on, and repeats nothing of what it was told (R145)."""
    monkeypatch.setattr(redis_module, "TIMEOUT", 0.3)
    with impostor(answer) as url:
        for place in (url, with_password(url)):
            store = DegradingStore(store_at(place), lines.log)
            run(store.read())
            run(store.lock(0))
    assert lines.events
    assert_discreet(lines.text)


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that accepts connections and says nothing costs a limited time."""
    monkeypatch.setattr(redis_module, "TIMEOUT", 0.2)
    with impostor(None) as url:
        reason = unavailable(store_at(with_password(url)))
    assert reason.endswith("can't be used: it does not answer within 0.2 s")
    assert_discreet(reason)


def test_nobody_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that swallows connection requests costs a limited time, too."""
    monkeypatch.setattr(redis_module, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        # Linux queues one more than the backlog.
        with socket.create_connection(address):
            reason = unavailable(store_at(f"redis://127.0.0.1:{address[1]}"))
    assert "it does not answer within 0.2 s" in reason


@pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:1"])
def test_nobody_listens(host: str) -> None:
    """The reason names the server and the kind of error, and neither the user nor the password (R145)."""
    assert unavailable(store_at(with_password(f"redis://{host}/0", "canary"))) == (
        f"Redis at {host} can't be used: ConnectionRefusedError"
    )


@pytest.mark.parametrize("suffix", ["", "/", "/3"])
def test_database(redis_server: RedisServer, redis_url: str, suffix: str) -> None:
    """The URL names the database; without one it is the first."""
    store = store_at(redis_url.removesuffix("/0") + suffix)
    write(store)
    assert token_of(run(store.read())) == CANARY
    assert (run(store_at(redis_url).read()) == Shared()) == (suffix == "/3")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with a password, and with a user who may do what the store needs, and nothing else."""
    commands = [f"+{name}" for name in ("getrange", "eval", "get", "set", "del")]
    user = ["--user", "app", "on", f">{PASSWORD}", "~thg-proxy:*", *commands]
    server = RedisServer(tmp_path, "--requirepass", PASSWORD, *user)
    yield server
    server.kill()


@pytest.mark.parametrize("user", ["", "app"])
def test_password(guarded: RedisServer, user: str) -> None:
    """The user and the password of the URL are used; the few commands that config/TOKENS.md names are enough."""
    store = store_at(with_password(guarded.url, user))
    assert write(store)
    assert token_of(run(store.read())) == CANARY
    assert_discreet(repr(store), repr(vars(store)["_place"]))


def test_wrong_password(guarded: RedisServer) -> None:
    """A Redis that refuses the password is one that can't be used."""
    place = f"Redis at 127.0.0.1:{guarded.port} can't be used:"
    assert unavailable(store_at(guarded.url)) == f"{place} AuthenticationError"
    assert unavailable(store_at(guarded.url.replace("://", "://:canary-wrong@"))) == f"{place} AuthenticationError"


def test_not_allowed(own_server: RedisServer) -> None:
    """A user who lacks a right is named as the reason."""
    own_server.command("ACL", "SETUSER", "poor", "on", ">p", "~*", "+auth")
    reason = unavailable(store_at(own_server.url.replace("://", "://poor:p@")))
    assert reason.endswith("NoPermissionError")


@pytest.fixture
def tls_server(tmp_path: Path, authority: CertificateAuthority) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, tls=authority.issue("127.0.0.1"))
    yield server
    server.kill()


def tls_url(server: RedisServer, authority: CertificateAuthority) -> str:
    return f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={authority.ca_file}"


def test_tls(tls_server: RedisServer, authority: CertificateAuthority) -> None:
    """rediss:// is TLS, verified against the CA that the URL names."""
    store = store_at(tls_url(tls_server, authority))
    assert write(store)
    assert token_of(run(store.read())) == CANARY


def test_the_cas_of_the_system(
    tls_server: RedisServer, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a CA in the URL, those of the system are trusted, and nobody else."""
    url = f"rediss://127.0.0.1:{tls_server.port}"
    assert unavailable(store_at(url)).endswith("SSLCertVerificationError")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    assert run(store_at(url).read()) == Shared()


@pytest.mark.parametrize("host, expired", [("other.example", False), ("127.0.0.1", True)])
def test_bad_certificate(tmp_path: Path, authority: CertificateAuthority, host: str, *, expired: bool) -> None:
    """A certificate of another host, or one that is expired, is not accepted."""
    server = RedisServer(tmp_path, tls=authority.issue(host, expired=expired))
    try:
        assert unavailable(store_at(tls_url(server, authority))).endswith("SSLCertVerificationError")
    finally:
        server.kill()


def test_one_side_speaks_tls(
    tls_server: RedisServer, redis_server: RedisServer, authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only one side speaks TLS, Redis can't be used: nobody falls back."""
    monkeypatch.setattr(redis_module, "TIMEOUT", 0.5)
    assert unavailable(store_at(tls_server.url))
    assert unavailable(store_at(tls_url(redis_server, authority)))


def test_session_keys_are_not_written(
    tls_server: RedisServer, authority: CertificateAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSLKEYLOGFILE is ignored: whoever has the keys of a session reads the password of Redis (R150)."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert run(store_at(tls_url(tls_server, authority)).read()) == Shared()
    assert not (tmp_path / "keys").exists()


def test_no_such_ca() -> None:
    """A CA file that can't be loaded is a fault of the configuration, found at the start (R165)."""
    with pytest.raises(ConfigError, match=r"oauth.store: a file can't be loaded: No such file"):
        store_at("rediss://127.0.0.1?ssl_ca_certs=/nowhere.pem")
