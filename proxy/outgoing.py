"""How the proxy itself is a client of HTTP, beside the requests that it forwards."""

from collections.abc import Mapping

import aiohttp

from proxy import __version__


def open_session(timeout: float, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """For a peer that is asked seldom. `timeout`: seconds for a whole answer."""
    return aiohttp.ClientSession(
        # Requests are a second to hours apart: a kept connection would only be a stale one.
        connector=aiohttp.TCPConnector(force_close=True),
        timeout=aiohttp.ClientTimeout(total=timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        # The environment must not decide what is sent where (R40).
        trust_env=False,
        # Nothing is inflated, so that 1 MiB on the wire is 1 MiB in memory.
        auto_decompress=False,
        headers={"User-Agent": f"thg-proxy/{__version__}", **headers},
    )


def abort(response: aiohttp.ClientResponse) -> None:
    """A TLS connection that is closed in order reads on until the peer has closed, too, for up to half a minute."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
