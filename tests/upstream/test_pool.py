"""The pool against real servers on loopback: what is reused, and what waits."""

import asyncio
import gc
import socket
import ssl
from pathlib import Path

import pytest

from proxy.demo.certificates import CertificateAuthority
from proxy.errors import Overloaded, Stopping, UpstreamError, UpstreamIncomplete, UpstreamTimeout
from proxy.settings import Duration
from proxy.settings import UpstreamTls as TlsSettings
from proxy.upstream.pool import UpstreamPool
from tests.outbound import outbound
from tests.peers import Received, Upstream, trap
from tests.upstream.stage import cancel, exchange, play, pool_to, response_of, until


def waiting(pool: UpstreamPool) -> int:
    return len(pool._waiters)


# Reuse.


def test_the_newest_idle_connection_is_used_first() -> None:
    """The connection that was used last is the least likely to be closing (R126)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url) as pool:
                first, second = await pool.acquire(), await pool.acquire()
                assert pool.counts() == {"idle": 0, "active": 2}
                for connection in (first, second):
                    assert await exchange(connection) == b"ok"
                    pool.release(connection)
                assert pool.counts() == {"idle": 2, "active": 0}
                assert await pool.acquire() is second
                assert pool.take_idle() is first
                assert pool.take_idle() is None
                assert pool._traffic.connects == {"ok": 2}
            assert upstream.connections == 2

    play(scene)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ],
)
def test_what_cannot_be_reused_is_closed(answer: bytes) -> None:
    """A connection whose upstream says so, or says too much, serves no second exchange (R118)."""

    async def scene() -> None:
        with Upstream(answer) as upstream:
            async with pool_to(upstream.url) as pool:
                for _ in range(2):
                    connection = await pool.acquire()
                    assert await exchange(connection) == b"ok"
                    pool.release(connection)
                    await until(lambda: pool.counts() == {"idle": 0, "active": 0})
            assert upstream.connections == 2

    play(scene)


def test_an_unsolicited_response_reaches_nobody() -> None:
    """Bytes on an idle connection end it; the next exchange gets its own answer from another one (R118)."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    sockets: list[socket.socket] = []

    def answer(_received: Received, sock: socket.socket) -> bool:
        sockets.append(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    async def scene() -> None:
        with Upstream(answer) as upstream:
            async with pool_to(upstream.url) as pool:
                poisoned = await pool.acquire()
                await exchange(poisoned)
                pool.release(poisoned)
                sockets[0].sendall(evil)
                await until(lambda: poisoned.closed)
                connection = await pool.acquire()
                assert connection is not poisoned
                assert await exchange(connection) == b"ok"
            assert len(upstream.requests) == 2

    play(scene)


def test_a_server_that_speaks_first() -> None:
    """A connection that brings bytes before any request is given to nobody (R118)."""

    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ESMTP\r\n")
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, pool_to(f"http://127.0.0.1:{port}") as pool:
            with pytest.raises(UpstreamError):
                assert not (await pool.acquire()).closed

    play(scene)


def test_a_connection_that_the_upstream_closed_is_not_handed_out() -> None:
    """An idle connection that ends is forgotten (R126)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                pool.release(connection)
            upstream.connections = 0
            async with pool_to(upstream.url) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                pool.release(connection)
                for sock in list(upstream._sockets):
                    sock.shutdown(socket.SHUT_RDWR)
                await until(lambda: pool.counts() == {"idle": 0, "active": 0})
                assert await exchange(await pool.acquire()) == b"ok"
            assert upstream.connections == 2

    play(scene)


def test_a_connection_that_we_closed_is_not_handed_out() -> None:
    """Between our closing an idle connection and the loop's telling of it, it is passed over."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                pool.release(connection)
                connection.abort()
                assert pool.take_idle() is None

    play(scene)


def test_an_idle_connection_is_closed_in_time() -> None:
    """After `keepalive_timeout` an idle connection is closed, and no longer counted (R126)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, keepalive_timeout=Duration(0.02)) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                pool.release(connection)
                assert pool.counts() == {"idle": 1, "active": 0}
                await until(lambda: pool.counts() == {"idle": 0, "active": 0})
                assert connection.closed

    play(scene)


def test_a_response_cut_by_tls_is_not_complete(tmp_path: Path) -> None:
    """A body without a length ends with TLS's close_notify; else somebody may have cut it (R122, RFC 9112 §9.8)."""
    authority = CertificateAuthority(tmp_path)

    def answer(received: Received, sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nok")
        if received.target == b"/whole":
            assert isinstance(sock, ssl.SSLSocket)
            sock.unwrap().close()
        return False

    async def scene() -> None:
        with Upstream(answer, authority.server_context("localhost")) as upstream:
            async with pool_to(upstream.url, tls=TlsSettings(ca_file=str(authority.ca_file))) as pool:
                connection = await pool.acquire()
                connection.start(outbound(b"GET /whole HTTP/1.1\r\n\r\n"), b"", finished=True)
                while not response_of(connection).complete:
                    await connection.wait()
                assert connection.take() == b"ok"
                with pytest.raises(UpstreamIncomplete):
                    await exchange(await pool.acquire())

    play(scene)


# Limits.


def test_who_waits_gets_what_is_released() -> None:
    """At the limit a request waits for a connection instead of making one (F43)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                waiter = asyncio.ensure_future(pool.acquire())
                await until(lambda: waiting(pool) == 1)
                pool.release(connection)
                assert await waiter is connection
            assert upstream.connections == 1

    play(scene)


@pytest.mark.parametrize("how", ["abort", "release"])
def test_who_waits_gets_the_place_of_one_that_ends(how: str) -> None:
    """A connection that ends, or that can't be reused, leaves its place to who waits."""

    async def scene() -> None:
        with Upstream(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok") as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                waiter = asyncio.ensure_future(pool.acquire())
                await until(lambda: waiting(pool) == 1)
                if how == "abort":
                    connection.abort()
                else:
                    pool.release(connection)
                assert await exchange(await waiter) == b"ok"
            assert upstream.connections == 2

    play(scene)


def test_nobody_waits_for_ever() -> None:
    """Where no connection becomes free in `connect_timeout`, it is the proxy that is overloaded (R129, F43)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1, connect_timeout=Duration(0.05)) as pool:
                connection = await pool.acquire()
                with pytest.raises(Overloaded):
                    await pool.acquire()
                assert (waiting(pool), pool.counts()) == (0, {"idle": 0, "active": 1})
                assert pool._traffic.connects == {"ok": 1}
                assert await exchange(connection) == b"ok"

    play(scene)


def test_no_place_while_others_connect() -> None:
    """Who waits behind connects that hang has met the same timeout, and connected to nothing itself (R129)."""

    async def scene() -> None:
        with trap() as silent:
            url = f"https://localhost:{silent.port}"
            async with pool_to(url, max_connections=1, connect_timeout=Duration(0.1)) as pool:
                both = await asyncio.gather(pool.acquire(), pool.acquire(), return_exceptions=True)
                assert {type(error) for error in both} <= {UpstreamTimeout, Overloaded}
                assert UpstreamTimeout in {type(error) for error in both}
                assert waiting(pool) == pool._connecting == 0

    play(scene)


def test_waiters_are_served_in_their_order() -> None:
    """Who waits longest is served first."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                served: list[int] = []

                async def use(number: int) -> None:
                    connection = await pool.acquire()
                    await exchange(connection)
                    served.append(number)
                    pool.release(connection)

                connection = await pool.acquire()
                await exchange(connection)
                async with asyncio.TaskGroup() as group:
                    for number in range(5):
                        group.create_task(use(number))
                        await until(lambda number=number: waiting(pool) == number + 1)  # type: ignore[misc]
                    pool.release(connection)
                assert served == [0, 1, 2, 3, 4]

    play(scene)


def test_waiters_behind_a_connect_keep_their_order() -> None:
    """The connects of others do not send who waits longest to the end of the queue."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                connecting = asyncio.ensure_future(pool.acquire())
                await until(lambda: pool._connecting == 1)
                waiters = [asyncio.ensure_future(pool.acquire()) for _ in range(3)]
                await until(lambda: waiting(pool) == 3)
                connection = await connecting
                await exchange(connection)
                for waiter in waiters:
                    pool.release(connection)
                    done, _ = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                    assert waiter in done
                    await exchange(connection)
                    waiters = [other for other in waiters if other is not waiter]

    play(scene)


@pytest.mark.parametrize("woken", [False, True])
def test_who_stops_waiting_loses_nobodys_place(woken: bool) -> None:
    """A cancelled request passes on the connection that it was about to get (R125)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                connection = await pool.acquire()
                await exchange(connection)
                first = asyncio.ensure_future(pool.acquire())
                await until(lambda: waiting(pool) == 1)
                second = asyncio.ensure_future(pool.acquire())
                await until(lambda: waiting(pool) == 2)
                if woken:
                    pool.release(connection)
                    first.cancel()
                else:
                    first.cancel()
                    await until(lambda: waiting(pool) == 1)
                    pool.release(connection)
                assert await second is connection
                assert first.cancelled()
                assert waiting(pool) == 0

    play(scene)


def test_who_stops_connecting_leaves_the_connection() -> None:
    """A request that is cancelled while it connects leaves what becomes of it to the next (R125)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                connecting = asyncio.ensure_future(pool.acquire())
                await until(lambda: pool._connecting == 1)
                waiter = asyncio.ensure_future(pool.acquire())
                await until(lambda: waiting(pool) == 1)
                connecting.cancel()
                assert await exchange(await waiter) == b"ok"
                assert connecting.cancelled()
            assert upstream.connections == 1

    play(scene)


@pytest.mark.parametrize("secure", [False, True])
def test_no_moment_to_cancel_loses_a_socket(tmp_path: Path, *, secure: bool) -> None:
    """Whenever a request is cancelled, the connection that was made for it is kept, and serves another (R125)."""
    authority = CertificateAuthority(tmp_path)

    async def scene() -> None:
        with Upstream(tls=authority.server_context("localhost") if secure else None) as upstream:
            for turns in range(60):
                async with pool_to(upstream.url, tls=TlsSettings(ca_file=str(authority.ca_file))) as pool:
                    await cancel(pool, turns)
        # A socket that was lost is a ResourceWarning, which is an error.
        gc.collect()

    play(scene)


def test_a_dial_that_nobody_waits_for_ends_in_time() -> None:
    """A handshake that nobody waits for any more takes no place after `connect_timeout` (R125, F26)."""

    async def scene() -> None:
        with trap() as silent:  # the kernel accepts, nobody answers
            url = f"https://localhost:{silent.port}"
            async with pool_to(url, max_connections=1, connect_timeout=Duration(0.05)) as pool:
                connecting = asyncio.ensure_future(pool.acquire())
                await until(lambda: pool._connecting == 1)
                connecting.cancel()
                await until(lambda: pool._connecting == 0)
                assert pool.counts() == {"idle": 0, "active": 0}
                assert pool._traffic.connects == {"timeout": 1}

    play(scene)


def test_a_retired_pool_keeps_no_dial() -> None:
    """What nobody waits for any more is closed where no request can come for it."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url) as pool:
                connecting = asyncio.ensure_future(pool.acquire())
                await until(lambda: pool._connecting == 1)
                connecting.cancel()
                pool.retire()
                await until(lambda: pool._traffic.connects["ok"] == 1)
                await until(lambda: pool.counts() == {"idle": 0, "active": 0})

    play(scene)


def test_closing_the_pool_during_a_dial() -> None:
    """A closed pool makes no more connections, and who waits for one learns that the proxy stops."""

    async def scene() -> None:
        with trap() as silent:
            async with pool_to(f"https://localhost:{silent.port}") as pool:
                connecting = asyncio.ensure_future(pool.acquire())
                await until(lambda: pool._connecting == 1)
                pool.close()
                with pytest.raises(Stopping):
                    await connecting

    play(scene)


def test_the_limit_holds_under_load() -> None:
    """Many requests at once share the connections there may be, and all are served (F43)."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=3) as pool:

                async def use() -> bytes:
                    connection = await pool.acquire()
                    assert sum(pool.counts().values()) <= 3
                    body = await exchange(connection)
                    pool.release(connection)
                    return body

                assert await asyncio.gather(*(use() for _ in range(100))) == [b"ok"] * 100
                assert pool.counts()["active"] == 0
            assert upstream.connections <= 3

    play(scene)


def test_closing_the_pool() -> None:
    """A closed pool ends every connection, and whoever waits for one learns that the proxy stops."""

    async def scene() -> None:
        with Upstream() as upstream:
            async with pool_to(upstream.url, max_connections=1) as pool:
                connection = await pool.acquire()
                connection.start(outbound(b"GET /a HTTP/1.1\r\n"), b"", finished=True)
                waiters = [asyncio.ensure_future(pool.acquire()) for _ in range(3)]
                await until(lambda: waiting(pool) == 3)
                pool.close()
                for waiter in waiters:
                    with pytest.raises(Stopping):
                        await waiter
                with pytest.raises(UpstreamIncomplete):
                    await connection.wait()
                with pytest.raises(Stopping):
                    await pool.acquire()

    play(scene)
