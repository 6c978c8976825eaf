"""A process that uses a store as it is told, line by line: `python -m tests.stores.player URL`."""

import asyncio
import sys

from proxy.core.secret import Secret
from proxy.log import Log
from proxy.stores import Lock, open_store
from tests.stores.samples import KEY, SECRET, shared, token_of


class Player:
    def __init__(self, url: str) -> None:
        self._store = open_store(url, key=KEY, secret=lambda: Secret(SECRET), log=Log(sys.stderr))
        self._lock: Lock | None = None

    async def lock(self, wait: str) -> bool:
        self._lock = await self._store.lock(float(wait))
        return self._lock is not None

    async def read(self) -> str:
        return token_of(await self._store.read())

    async def write(self, token: str) -> bool:
        assert self._lock is not None
        return await self._lock.write(shared(token))

    async def release(self) -> None:
        assert self._lock is not None
        await self._lock.release()

    async def mint(self, token: str) -> str:
        """As the proxy: the token that there is, else a new one, for which nobody else asks meanwhile."""
        assert await self.lock("60")
        if not (found := await self.read()):
            await self.write(token)
        await self.release()
        return found or token


async def main(url: str) -> None:
    player = Player(url)
    print("ready", flush=True)
    # The loop stands still between two commands, as in a process that hangs.
    for line in sys.stdin:
        command, *arguments = line.split()
        print(await getattr(player, command)(*arguments), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
