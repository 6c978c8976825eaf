"""What the admin port tells of the proxy's state, as documents. No token is in what they are made from."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from time import perf_counter, time
from typing import Literal, NamedTuple

from proxy.admin.advice import Advice
from proxy.core.text import one_line
from proxy.credential import ClientStatus, JwksStatus, TokenStatus
from proxy.errors import ProxyError
from proxy.metrics import Traffic, WorkerStatus
from proxy.record import RequestRecord


class Readiness(NamedTuple):
    status: Literal["ok", "degraded", "starting", "expired", "stopping"]
    reason: str

    @property
    def ready(self) -> bool:
        return self.status in ("ok", "degraded")


def readiness(token: TokenStatus, *, is_served: bool, stopping: bool) -> Readiness:
    """Can requests be served? A usable token decides, and somebody to send it, but not how the upstream is (R163)."""
    if stopping:
        return Readiness("stopping", "The proxy is stopping.")
    if not is_served:
        return Readiness("starting", "No worker process serves at the moment.")
    failed = f" The last token request failed: {token.last_error}." if token.last_error else ""
    if token.usable:
        return Readiness("degraded" if failed else "ok", "There is a usable token." + failed)
    if token.ever_obtained:
        return Readiness("expired", "The token has expired." + failed)
    return Readiness("starting", "No token has been obtained yet." + failed)


def health(state: Readiness, advice: Iterable[Advice]) -> Literal["ok", "degraded", "down"]:
    """For a person: is it well? Unlike readiness, it counts what asks for somebody without stopping the traffic."""
    if not state.ready:
        return "down"
    return "degraded" if state.status == "degraded" or any(one.level == "warning" for one in advice) else "ok"


def moment(unix: float | None) -> str | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")


def token_view(token: TokenStatus) -> dict[str, object]:
    return {
        "state": token.state,
        "usable": token.usable,
        "client": token.client,
        "generation": token.generation,
        "scope": token.scope,
        "verification": token.verification,
        "issued_at": moment(token.issued_at),
        "expires_at": moment(token.expires_at),
        "refresh_at": moment(token.refresh_at),
        "last_error": token.last_error,
        "last_error_at": moment(token.last_error_at),
        "retry_after_seconds": token.retry_after and round(token.retry_after, 1),
    }


def clients_view(clients: Iterable[ClientStatus]) -> list[dict[str, object]]:
    return [
        {
            "name": client.name,
            "state": client.state,
            "last_used": moment(client.last_used),
            "last_error": client.last_error,
        }
        for client in clients
    ]


def jwks_view(jwks: JwksStatus | None) -> dict[str, object] | None:
    if jwks is None:
        return None
    return {"keys": jwks.keys, "fetched_at": moment(jwks.fetched_at), "last_error": jwks.last_error}


def recent_view(records: Iterable[RequestRecord]) -> list[dict[str, object]]:
    """The fields of the log line, and when each request came, by the wall clock as it goes now."""
    offset = time() - perf_counter()
    return [{"at": moment(record.started + offset), **_one_lines(record.fields())} for record in records]


def _one_lines(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: one_line(value) if isinstance(value, str) else value for name, value in fields.items()}


def errors_view(total: Mapping[str, int], lately: Mapping[str, int]) -> list[dict[str, object]]:
    """What this proxy answered in place of the API, the most frequent first. `lately`: as far as the history goes."""
    explained = dict(_kinds(ProxyError))
    return [
        {
            "code": code,
            "title": explained[code].title,
            "hint": explained[code].hint,
            "lately": lately.get(code, 0),
            "total": count,
        }
        for code, count in sorted(total.items(), key=lambda item: (-lately.get(item[0], 0), -item[1]))
    ]


def _kinds(kind: type[ProxyError]) -> Iterator[tuple[str, type[ProxyError]]]:
    for child in kind.__subclasses__():
        yield from _kinds(child)
    # Last, because a child without a code of its own has its parent's.
    yield kind.code, kind


def workers_view(workers: Iterable[WorkerStatus]) -> list[dict[str, object]]:
    return [worker._asdict() | {"started": moment(worker.started)} for worker in workers]


def counters(traffic: Traffic) -> dict[str, object]:
    outcomes = traffic.outcomes()
    return {
        "requests": outcomes.total(),
        "outcomes": outcomes,
        "errors": traffic.errors,
        "in_flight": traffic.in_flight,
        "request_bytes": traffic.request_bytes,
        "response_bytes": traffic.response_bytes,
        "upstream_connects": traffic.connects,
    }
