"""A token in Redis: one for all replicas.

Redis, and who can read it, is trusted with the order of things, not with the token: that is encrypted under a key which
is derived from the client secret, and which Redis never sees.
"""

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.connection import parse_url
from redis.exceptions import TimeoutError as RedisTimeoutError

from proxy.background import in_background
from proxy.core.grant import MAX_LIFETIME
from proxy.core.secret import Secret
from proxy.core.stored import MAX_DOCUMENT, Shared, decode, encode
from proxy.errors import StoreUnavailable
from proxy.settings import ClientTls
from proxy.stores.contract import TIMEOUT, attempts
from proxy.tls import client_context

# The others wait no longer than this for a holder that died. One that is alive asks for a token meanwhile, which takes
# at most `oauth.timeout`, 10 s by default, for each client that it tries; should it take longer, the fence keeps order.
LOCK_TTL = 30.0
# Who took the lock last is remembered for as long as a token lives: whoever comes later has none to write.
_FENCE_TTL = MAX_LIFETIME
# `asked_at` is of use after the token is over.
_MIN_TTL = 60.0
_NONCE = 12
_MAX_VALUE = _NONCE + MAX_DOCUMENT + 16

# KEYS: lock, fence. ARGV: owner, TTL of the lock, TTL of the fence.
_TAKE = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return 1
"""
# KEYS: token, fence. ARGV: owner, value, TTL of the value.
_WRITE = """
local latest = redis.call('GET', KEYS[2])
if latest and latest ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
# KEYS: lock. ARGV: owner.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class RedisStore:
    """`key`: the kind of token. `secret`: gives the client secret as it is at the moment, None where there is none."""

    def __init__(
        self, url: str, *, key: str, secret: Callable[[], Secret | None], clock: Callable[[], float] = time.time
    ) -> None:
        self._place = urlsplit(url).netloc.rpartition("@")[2]
        self._connection = _connections(url)
        self._key = key.encode()
        self._secret = secret
        self._clock = clock
        # The braces put the three into one slot of a cluster.
        self.token_key, self.lock_key, self.fence_key = (
            f"thg-proxy:{{{key}}}:{part}" for part in ("token", "lock", "fence")
        )

    async def read(self) -> Shared:
        value = await self.ask("GETRANGE", self.token_key, 0, _MAX_VALUE)
        try:
            # To read the secret that a token is encrypted with may take its time.
            return decode(await in_background(partial(self._decrypted, value))) if value else Shared()
        except ValueError as exc:
            raise ValueError(f"the value {self.token_key} in Redis at {self._place} {exc}") from None

    async def lock(self, wait: float) -> "_RedisLock | None":
        return await attempts(self._try_lock, wait)

    async def close(self) -> None:
        pass

    async def ask(self, *command: str | bytes | int) -> Any:
        """The answer to a command, within TIMEOUT. Raises StoreUnavailable.

        On a connection of its own: one that is kept would be idle for hours, and what lies between forgets it silently.
        Not by redis-py's client, which leaves connections open when it is cancelled at the wrong moment.
        """
        connection: Any = self._connection()
        try:
            async with asyncio.timeout(TIMEOUT):
                await connection.connect()
                await connection.send_command(*command)
                answer = await connection.read_response()
                await connection.disconnect()
                return answer
        except Exception as exc:  # noqa: BLE001 - redis-py raises all kinds of errors for answers that are not of Redis
            # `from None`: a server that does not know a command repeats its arguments, of AUTH as well.
            raise StoreUnavailable(f"Redis at {self._place} can't be used: {_reason(exc)}") from None
        finally:
            await connection.disconnect(nowait=True)

    def encrypted(self, document: bytes) -> bytes:
        """Raises StoreUnavailable where there is no client secret."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher().encrypt(nonce, document, self._key)

    def milliseconds(self, shared: Shared) -> int:
        """How long it is of use."""
        token = shared.token
        ends = token.sent_at + token.response.lifetime(token.sent_at) if token else 0
        return int(max(ends - self._clock(), _MIN_TTL) * 1000)

    async def _try_lock(self) -> "_RedisLock | None":
        lock = _RedisLock(self)
        try:
            return lock if await lock.take() else None
        except asyncio.CancelledError:
            await lock.release()
            raise

    def _decrypted(self, value: bytes) -> bytes:
        cipher = self._cipher()
        try:
            return cipher.decrypt(value[:_NONCE], value[_NONCE:], self._key)
        except (InvalidTag, ValueError, TypeError):
            raise ValueError("was not encrypted with this client secret") from None

    def _cipher(self) -> AESGCM:
        secret = self._secret()
        if secret is None:
            raise StoreUnavailable("the client secret, which the token in Redis is encrypted with, can't be read")
        kdf = HKDF(SHA256(), length=32, salt=b"thg-proxy token store", info=self._key)
        return AESGCM(kdf.derive(secret.reveal().encode(errors="surrogateescape")))


class _RedisLock:
    """Redis ends it after LOCK_TTL. Each holder has a name of its own.

    The fence is the name of the latest holder, not a count, which would start again in a Redis that lost its data.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._owner = secrets.token_hex(16)

    async def take(self) -> bool:
        lock, fence = self._store.lock_key, self._store.fence_key
        ttls = int(LOCK_TTL * 1000), int(_FENCE_TTL * 1000)
        return bool(await self._store.ask("EVAL", _TAKE, 2, lock, fence, self._owner, *ttls))

    async def write(self, shared: Shared) -> bool:
        keys = self._store.token_key, self._store.fence_key
        value = await in_background(partial(self._store.encrypted, encode(shared)))
        ttl = self._store.milliseconds(shared)
        return bool(await self._store.ask("EVAL", _WRITE, 2, *keys, self._owner, value, ttl))

    async def release(self) -> None:
        with suppress(StoreUnavailable):
            await self._store.ask("EVAL", _RELEASE, 1, self._store.lock_key, self._owner)


class _VerifiedConnection(SSLConnection):
    """TLS as everywhere in this proxy: redis-py's own context writes session keys to $SSLKEYLOGFILE (R150)."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context


def _connections(url: str) -> Callable[[], Connection]:
    """Makes connections to what the URL names. Raises ConfigError where its `ssl_ca_certs` can't be loaded."""
    options: dict[str, Any] = {
        **parse_url(url),
        # RESP2: nothing is asked for that an old server, or a proxy for Redis, does not know.
        "protocol": 2,
        # `ask` limits the whole. With a limit for each step redis-py sends by asyncio.wait_for, which before
        # Python 3.12 loses cancellations (python/cpython#86296).
        "socket_timeout": None,
        "socket_connect_timeout": TIMEOUT,
    }
    if options.pop("connection_class", None) is None:
        return partial(Connection, **options)
    context = client_context(ClientTls(ca_file=options.pop("ssl_ca_certs", None)), "oauth.store")
    context.set_alpn_protocols([])
    return partial(_VerifiedConnection, context=context, **options)


def _reason(exc: Exception) -> str:
    """For an operator: the kind of error, never a server's words."""
    if isinstance(exc, (TimeoutError, RedisTimeoutError)):
        return f"it does not answer within {TIMEOUT:g} s"
    return type(exc.__context__ or exc).__name__
