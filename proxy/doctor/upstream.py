"""One request to the API, as the proxy would send it."""

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from proxy import __version__
from proxy.admission import OutboundRequest, Section
from proxy.core.headers import RequestRules, ResponseRules, request_head, request_section
from proxy.core.replay import asks_for_nonce
from proxy.core.target import join_base
from proxy.credential import Credential
from proxy.doctor.record import Failed, Finding
from proxy.errors import BadTarget, ProxyError
from proxy.metrics import Traffic
from proxy.settings import Upstream
from proxy.upstream.pool import UpstreamPool
from proxy.upstream.response import Response

_OWN_FIELDS = [f"User-Agent: thg-proxy/{__version__}\r\n".encode(), b"Accept: */*\r\n"]

# Cause and remedy.
_REFUSALS: Mapping[int, tuple[str, str]] = {
    HTTPStatus.UNAUTHORIZED: (
        "the API does not accept the token",
        "Check that oauth.token_url and upstream.url are of one environment, and that the API wants this iss and aud.",
    ),
    HTTPStatus.FORBIDDEN: (
        "the API does not allow this to the client",
        "Compare the scope that was granted with what the API wants: some providers grant only what oauth.scope names.",
    ),
    HTTPStatus.NOT_FOUND: (
        "the API has nothing at this path",
        "Check the path of --get, and the base path in upstream.url.",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: ("the API wants fewer requests", "Try again later."),
}
_REFUSED = ("the API refuses the request", "Check whether the path of --get is one for a GET without parameters.")
_BROKEN = ("the API fails, or what stands in front of it", "Ask whoever runs the API.")
# At a path that nobody has asked for, these are what a healthy API may say.
_NO_RESOURCE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


async def ask_upstream(upstream: Upstream, credential: Credential, path: bytes | None) -> Finding[bool]:
    """GET of `path` (with a query, if any), or of the base path, where nothing has to be."""
    try:
        target = join_base(urlsplit(upstream.url).path.rstrip("/").encode(), path or b"/")
    except BadTarget as exc:
        raise Failed(exc.detail, "Check the path of --get.") from exc
    status = await _status(upstream, credential, target)
    answer = f"GET {target.partition(b'?')[0].decode()}: {status}"
    if path is None and status in _NO_RESOURCE:
        return Finding(
            value=True, found=(answer, "nothing has to be at this path; `thg-proxy doctor --get PATH` asks for another")
        )
    if status < HTTPStatus.BAD_REQUEST:
        return Finding(value=True, found=(answer,))
    otherwise = _REFUSED if status < HTTPStatus.INTERNAL_SERVER_ERROR else _BROKEN
    cause, remedy = _REFUSALS.get(status, otherwise)
    raise Failed(f"{cause}: status {status}", remedy, (answer,))


async def _status(upstream: Upstream, credential: Credential, target: bytes) -> int:
    """Of the final response, whose body is not waited for."""
    pool = UpstreamPool(upstream, Traffic())
    try:
        response = await _exchange(pool, _request(upstream, credential, target))
        noted = response.fields.noted
        if asks_for_nonce(noted.get(b"www-authenticate", b"")):
            credential.remember(noted.get(b"dpop-nonce", b""))
            response = await _exchange(pool, _request(upstream, credential, target))
    except ProxyError as exc:
        raise Failed(f"{exc.code}: {exc.detail}", "Check upstream.url, upstream.tls and the timeouts.") from exc
    finally:
        pool.close()
    return response.status


async def _exchange(pool: UpstreamPool, request: OutboundRequest) -> Response:
    """Raises ProxyError."""
    connection = await pool.acquire(fresh=True)
    response = connection.start(request, b"", finished=True)
    while not response.head_done:
        await connection.wait()
    return response


def _request(upstream: Upstream, credential: Credential, target: bytes) -> OutboundRequest:
    url, headers = urlsplit(upstream.url), upstream.headers
    rules = RequestRules(url.netloc.encode(), via=upstream.via, added=headers.set, removed=headers.remove)
    lines = request_section(rules, _OWN_FIELDS, version_minor=1, framing=b"")
    authorization = credential.fields("GET", f"{url.scheme}://{url.netloc}".encode(), target)
    section = Section(lines, response_rules=ResponseRules(withheld=(b"dpop-nonce",)))
    return OutboundRequest("GET", request_head("GET", target, lines, authorization), credential.token, section)
