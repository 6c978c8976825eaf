"""Where the processes that use one client keep the token: in this process, in a file, in Redis."""

from collections.abc import Callable
from pathlib import Path

from proxy.core.secret import Secret
from proxy.errors import ConfigError
from proxy.log import Log
from proxy.stores.contract import Lock, TokenStore
from proxy.stores.degrading import DegradingStore
from proxy.stores.memory import MemoryStore

__all__ = ["Lock", "TokenStore", "open_store"]

_NEEDS = {
    "file": "file: needs the file locks of a POSIX system; use memory or redis",
    "redis": "redis needs the package redis: pip install 'thg-proxy[redis]'",
}


def open_store(url: str, *, key: str, secret: Callable[[], Secret | None], log: Log) -> TokenStore:
    """The store that `oauth.store` names; neither it nor its locks raise, whatever happens to a file or to Redis.

    `key`: of `store_key`. `secret`: gives the client secret, which what is in Redis is encrypted with; None where it
    can't be read. Raises ConfigError where this machine lacks what the store needs.
    """
    if url == "memory":
        return MemoryStore()
    return DegradingStore(_shared_store(url, key, secret), log)


def _shared_store(url: str, key: str, secret: Callable[[], Secret | None]) -> TokenStore:
    kind = "file" if url.startswith("file:") else "redis"
    # What one of them needs is not on every system.
    try:
        if kind == "file":
            from proxy.stores.file import FileStore  # noqa: PLC0415 - as said

            return FileStore(Path(url.removeprefix("file:")), key)
        from proxy.stores.redis import RedisStore  # noqa: PLC0415 - as said

        return RedisStore(url, key=key, secret=secret)
    except ModuleNotFoundError as exc:
        raise ConfigError([f"oauth.store: {_NEEDS[kind]}"]) from exc
