"""Makes deploy/REFERENCE.md from the code: `python -m tests.deploy.reference` writes it, test_reference.py compares it.

What the code does not say, such as what to do about an error, is said in the tables here, for each name once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from proxy import errors
from proxy.admin import app
from proxy.admin.dashboard import dashboard
from proxy.core.grant import _PERMANENT, _TRANSIENT, refused_status
from proxy.errors import ProxyError, RequestError, SecretUnreadable, Unavailable, UpstreamError
from proxy.metrics import METHODS, Metrics, Traffic
from proxy.record import RequestRecord
from proxy.settings import Upstream
from proxy.upstream.dial import _FAILURES, RESULTS
from proxy.upstream.pool import UpstreamPool
from tests.deploy import source

PAGE = Path(__file__).parents[2] / "deploy" / "REFERENCE.md"
COMMAND = "make reference"

# What can be done about an answer of the proxy's own.
ACTIONS = {
    "internal": "report it, with the log line `unexpected_error`",
    "bad_request": "correct the client",
    "bad_target": "correct the client; with `policy.allow` or a base path, write the path plainly",
    "request_timeout": "find out why the client stops sending; `listen.header_timeout`, `upstream.idle_timeout`",
    "not_found": "see [the admin port](#admin-port); the API's paths are on the data port",
    "host_not_allowed": "add the name that the app calls the proxy by to `policy.allowed_hosts`",
    "browser_refused": "for a page of your own: `policy.browsers: {allow_origins: [...]}`",
    "not_allowed": "add a rule to `policy.allow`; for `POST /stop`, `admin.allow_stop: true`",
    "caller_refused": "add the user to `listen.allowed_uids`; ask the admin port from the proxy's own machine or pod",
    "method_not_supported": "use another method",
    "header_required": "have the app send the field of `policy.require_header`, once",
    "body_too_large": "raise `limits.max_body`",
    "expectation_failed": "correct the client",
    "header_too_large": "raise `listen.max_header_size`, or send less",
    "token_unavailable": "`/readyz` has the reason, the log has more; `thg-proxy doctor`",
    "client_rejected": "look in the Customer Portal, API Settings; then `POST /refresh`",
    "overloaded": "find out why the API is slow, or raise `limits.max_in_flight` or `upstream.max_connections`",
    "stopping": "ask another instance, or this one when it has started again",
    "upstream_unreachable": "check name, port and network of `upstream.url`, or of `upstream.egress_proxy`",
    "upstream_tls": "set `upstream.tls.ca_file`, or renew the API's certificate",
    "upstream_protocol": "ask whoever runs the API, or what stands in front of it",
    "upstream_incomplete": "ask whoever runs the API, or what stands in front of it; the request may have been obeyed",
    "upstream_timeout": "find out why the API is slow; `upstream.connect_timeout`, `upstream.response_timeout`",
    "loop_detected": "correct `upstream.url`",
}
# What the admin port answers.
PATHS = {
    "/livez": "200 while the process works",
    "/startupz": "200 once there has been a token, else 503",
    "/readyz": "200 while requests can be sent with a token, else 503; the body says why not",
    "/metrics": "Prometheus or OpenMetrics",
    "/status": "JSON: what the dashboard shows",
    "/refresh": "200 with a new token, 503 without; to callers on this machine",
    "/stop": "202; drains and exits; to callers on this machine, with `admin.allow_stop`",
    "/": "the dashboard, unless `admin.dashboard` is false",
    "/dashboard.css": "a part of the dashboard",
    "/dashboard.js": "a part of the dashboard",
}
# Of labels whose values are not a short list.
OPEN_LABELS = {
    "client": "a name of `oauth.clients`",
    "code": "[a code](#errors)",
    "python": "the version of the interpreter",
    "status": "the HTTP status; 0: none was sent",
    "version": "that of thg-proxy",
}
# What `**` stands for in the call that writes an event.
SPREAD = {
    "**record.fields()": list(RequestRecord("", "", 0).fields()),
    "**fields": ["logger", "message", "exception", "at"],
}

Table = list[tuple[str, ...]]


_PAGE = f"""\
<!-- Made from the code by `{COMMAND}`. -->
# Reference

Metrics, errors, log events and the paths of the admin port. Scripts may rely on the names of metrics and their labels,
on codes and on paths.

## Metrics

{{metrics}}

`process_*` and `python_*` are those of the Prometheus client for Python. A counter with labels has no series before the
first event, but for `thg_proxy_config_reloads_total`.

## Errors

{{errors}}

An answer that the proxy made itself is `application/problem+json` (RFC 9457) with one of these as its `code`. On the
data port it has a field `Proxy-Status` (RFC 9209), too. `outcome` is the label of `thg_proxy_requests_total`. Where the
head of the API's response has been sent already, the connection is aborted in place of an answer, and the outcome is
`aborted`.

## Log events

{{events}}

Each line has `time` (in JSON: UTC), `level` and `event`, too. What ends in `_ms` is milliseconds.

## Admin port

{{paths}}

Where there is no tick, the Host must be one of `policy.allowed_hosts`, and a web page of another origin is refused.
"""


def page() -> str:
    return _PAGE.format(
        metrics=_table(("metric", "type", "labels", ""), metrics()),
        errors=_table(("code", "status", "error in `Proxy-Status`", "outcome", "", "what to do"), problems()),
        events=_table(("event", "level", "fields"), events()),
        paths=_table(("path", "methods", "any Host", ""), paths()),
    )


def _table(heads: tuple[str, ...], rows: Table) -> str:
    return "\n".join(map(_row, (heads, ("---",) * len(heads), *rows)))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# Metrics.


def metrics() -> Table:
    families = {f"{each.name}_total" if each.type == "counter" else each.name: each for each in _families()}
    return [
        (f"`{name}`", each.type, _labels(name, each), each.documentation)
        for name, each in sorted(families.items())
        if name.startswith("thg_proxy_")
    ]


def _families() -> Iterator[Metric]:
    """With the names of their labels, also of those that have no sample yet."""
    for collector in Metrics().registry._collector_to_names:
        for family in collector.collect():
            if isinstance(collector, MetricWrapperBase):
                vars(family)["_labelnames"] = collector._labelnames
            yield family


def _labels(name: str, family: Metric) -> str:
    labels = vars(family).get("_labelnames", ())
    return "<br>".join(
        f"`{label}`: {OPEN_LABELS.get(label) or _code(sorted(_known_values()[name, label]))}" for label in labels
    )


@cache
def _known_values() -> Mapping[tuple[str, str], set[str]]:
    """Of the labels whose values are a short list."""
    of_jwks = source.refusals("idp.py") | {refused_status(status, {}, 0).result for status in range(201, 600)}
    of_tokens = source.refusals() | _PERMANENT | _TRANSIENT | {SecretUnreadable.code}
    reloads = {sample.labels["result"] for family in Metrics().config_reloads.collect() for sample in family.samples}
    return {
        ("thg_proxy_requests_total", "method"): {*METHODS, "other"},
        ("thg_proxy_requests_total", "outcome"): source.assigned("outcome") | {kind.outcome for kind in published()},
        ("thg_proxy_replays_total", "result"): source.returned("_replay_result"),
        ("thg_proxy_upstream_connections", "state"): set(UpstreamPool(Upstream(), Traffic()).counts()),
        ("thg_proxy_upstream_connects_total", "result"): {"ok", *RESULTS.values()},
        ("thg_proxy_token_requests_total", "result"): {"ok", *of_tokens},
        ("thg_proxy_token_waits_total", "result"): source.subscripts("_waits"),
        ("thg_proxy_jwks_fetches_total", "result"): {"ok", *of_jwks},
        ("thg_proxy_config_reloads_total", "result"): reloads,
    }


# Errors.


def published() -> list[type[ProxyError]]:
    """Those that answer a request."""
    groups = (RequestError, Unavailable, UpstreamError)
    kinds = (kind for group in groups for kind in group.__subclasses__() if kind.__module__ == errors.__name__)
    return [ProxyError, *kinds]


def problems() -> Table:
    details, types = source.raised([kind.__name__ for kind in published()])
    of_connects = [(kind.__name__, proxy_status) for _, kind, proxy_status in _FAILURES]
    rows: Table = []
    for kind in published():
        name = kind.__name__
        others = types[name] | {proxy_status for each, proxy_status in of_connects if each == name}
        rows.append(
            (
                f"`{kind.code}`",
                str(kind.status),
                _code([kind.proxy_status, *sorted(others - {kind.proxy_status})]),
                f"`{kind.outcome}`",
                f"**{kind.title}**: " + " / ".join([kind.hint, *sorted(details[name])]),
                ACTIONS[kind.code],
            )
        )
    return rows


# Log events.


def events() -> Table:
    levels: defaultdict[str, set[str]] = defaultdict(set)
    fields: defaultdict[str, dict[str, None]] = defaultdict(dict)
    # The log itself makes the first, and a record the fields of the second.
    own = [("log_lines_dropped", "warning", ["count"]), ("request", "info", ["**record.fields()"])]
    for event, level, names in (*own, *source.events()):
        levels[event].add(level)
        fields[event].update(dict.fromkeys(one for name in names for one in SPREAD.get(name, [name])))
    return [(f"`{event}`", ", ".join(sorted(levels[event])), _code(fields[event])) for event in sorted(levels)]


# The admin port.


def paths() -> Table:
    routes = [(path, vars(app)[methods]) for path, methods in source.routes()]
    return [
        (f"`{path}`", ", ".join(methods), "✓" if path in app._OPEN_PATHS else "", PATHS[path])
        for path, methods in (*routes, *((path, app._READ) for path in dashboard()))
    ]


if __name__ == "__main__":
    PAGE.write_text(page())
