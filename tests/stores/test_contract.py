"""What the three stores have in common, against a real Redis, real files, and memory."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from proxy.core.grant import TokenResponse
from proxy.core.secret import Secret
from proxy.core.stored import Shared, StoredToken
from proxy.errors import ConfigError
from proxy.stores import Lock, TokenStore, open_store
from proxy.stores.contract import attempts
from tests.stores.conftest import ROOT, Open, Process
from tests.stores.samples import Lines, run, shared, token_of


async def held(store: TokenStore) -> Lock:
    """The lock of a store that nobody holds."""
    lock = await store.lock(0)
    assert lock is not None
    return lock


async def put(store: TokenStore, known: Shared) -> None:
    lock = await held(store)
    assert await lock.write(known)
    await lock.release()


def test_empty(opened: Open, lines: Lines) -> None:
    """Where nobody has written there is nothing, which is not worth a line in the log."""
    assert run(opened().read()) == Shared()
    assert lines.text == ""


@pytest.mark.parametrize(
    "known",
    [
        Shared(asked_at=1.5e9),
        Shared(StoredToken(TokenResponse(Secret("a" * 16384), 86399.0, 2e9, "a b", -3.5), 1.5e9, "b.c-d_e"), 1.6e9),
        Shared(StoredToken(TokenResponse(Secret("a.b-c_d~+/=="), None, None, None, 0.0), 0.25, "primary")),
        Shared(),
    ],
    ids=["asked", "full", "sparse", "nothing"],
)
def test_read_what_was_written(opened: Open, known: Shared) -> None:
    """Everybody reads exactly what was written last."""

    async def main() -> None:
        await put(opened(), shared("earlier"))
        await put(opened(), known)
        assert await opened().read() == known

    run(main())


def test_one_holder(opened: Open) -> None:
    """While one holds the lock, another one gets None, and gets the lock when it is released (R85)."""

    async def main() -> None:
        lock = await held(opened())
        assert await opened().lock(0) is None
        assert await opened().lock(0.2) is None
        await lock.release()
        await (await held(opened())).release()

    run(main())


def test_wait_for_the_lock(opened: Open) -> None:
    """Who waits for the lock gets it as soon as its holder is done, and finds what that one wrote (R85)."""

    async def main() -> None:
        store, lock = opened(), await held(opened())
        waiting = asyncio.get_running_loop().create_task(store.lock(60))
        assert await opened().lock(0.2) is None
        await lock.write(shared("first"))
        await lock.release()
        second = await waiting
        assert second is not None
        assert token_of(await store.read()) == "first"
        await second.release()

    run(main())


def test_a_wait_that_is_cancelled(opened: Open) -> None:
    """Whoever is cancelled while it waits for the lock, or just gets it, leaves it to the others."""

    async def main() -> None:
        for steps in range(40):
            waiting = asyncio.get_running_loop().create_task(opened().lock(60))
            for _ in range(steps):
                await asyncio.sleep(0)
            if waiting.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            elif (lock := waiting.result()) is not None:
                await lock.release()
            await (await held(opened())).release()

    run(main())


def test_release_twice(opened: Open) -> None:
    """A second release takes the lock from nobody."""

    async def main() -> None:
        first = await held(opened())
        await first.release()
        second = await held(opened())
        await first.release()
        assert await opened().lock(0) is None
        await second.release()

    run(main())


def test_late_write(opened: Open) -> None:
    """Who lost the lock does not overwrite what its successor wrote."""

    async def main() -> None:
        late = await held(opened())
        await late.release()
        await put(opened(), shared("newer"))
        assert not await late.write(shared("older"))
        assert token_of(await opened().read()) == "newer"

    run(main())


def test_one_mint_for_many(opened: Open) -> None:
    """Many that need a token at once: one gets it from the provider, the others from the store (R85)."""
    minted = 0

    async def token() -> str:
        nonlocal minted
        store = opened()
        lock = await store.lock(60)
        assert lock is not None
        if not (known := await store.read()).token:
            minted += 1
            known = shared(f"token-{minted}")
            assert await lock.write(known)
        await lock.release()
        return token_of(known)

    async def main() -> None:
        assert set(await asyncio.gather(*(token() for _ in range(8)))) == {"token-1"}

    run(main())
    assert minted == 1


def test_silence(opened: Open, lines: Lines) -> None:
    """A store that works says nothing."""

    async def main() -> None:
        store = opened()
        await put(store, shared())
        await store.read()
        await store.close()

    run(main())
    assert lines.text == ""


def test_one_mint_for_two_processes(shared_url: str, process: Callable[[str], Process]) -> None:
    """The process that waits for the lock finds the token of the one that held it, and asks for none (R85)."""
    first, second = process(shared_url), process(shared_url)
    assert first.ask("lock 0") == "True"
    second.tell("mint second")
    first.ask("write first")
    first.ask("release")
    assert second.answer() == "first"
    assert first.ask("mint first-again") == "first"


def test_two_processes_at_once(shared_url: str, process: Callable[[str], Process]) -> None:
    """Of two that begin together one obtains the token, and both have it; the next start finds it, too (R85, F52)."""
    both = process(shared_url), process(shared_url)
    for name, one in zip(("left", "right"), both, strict=True):
        one.tell(f"mint {name}")
    left, right = (one.answer() for one in both)
    assert left == right
    for one in both:
        one.kill()
    assert process(shared_url).ask("mint third") == left


def test_a_holder_that_hangs(shared_url: str, process: Callable[[str], Process]) -> None:
    """Others wait for a holder that stands still no longer than they want to."""
    holder, other = process(shared_url), process(shared_url)
    holder.ask("lock 0")
    holder.signal(signal.SIGSTOP)
    assert other.ask("lock 0.3") == "False"
    holder.signal(signal.SIGCONT)
    assert holder.ask("write token") == "True"


@pytest.mark.parametrize("wait, tries", [(0, 1), (60, 3)])
def test_attempts(wait: float, tries: int) -> None:
    """An attempt is made at least once, and again until it gives something or the time is over."""
    made = 0

    async def attempt() -> str | None:
        nonlocal made
        made += 1
        return "it" if made == 3 else None

    assert run(attempts(attempt, wait)) == ("it" if tries == 3 else None)
    assert made == tries


@pytest.mark.parametrize(
    "url, needs, fix",
    [
        ("file:/var/lib/thg-proxy/token", "fcntl", "file: needs the file locks of a POSIX system; use memory or redis"),
        ("redis://cache", "redis.asyncio", "redis needs the package redis: pip install 'thg-proxy[redis]'"),
    ],
)
def test_what_a_store_needs(monkeypatch: pytest.MonkeyPatch, lines: Lines, url: str, needs: str, fix: str) -> None:
    """A store that this system can't have is a fault of the configuration, with its fix (R165)."""
    monkeypatch.setitem(sys.modules, needs, None)
    for name in ("file", "redis"):
        monkeypatch.delitem(sys.modules, f"proxy.stores.{name}", raising=False)
    with pytest.raises(ConfigError) as caught:
        open_store(url, key="", secret=lambda: None, log=lines.log)
    assert caught.value.problems == (f"oauth.store: {fix}",)


def test_memory_needs_nothing() -> None:
    """Who does not use Redis pays for none of its libraries."""
    code = "import sys, proxy.stores; sys.exit(bool({'redis', 'cryptography'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
