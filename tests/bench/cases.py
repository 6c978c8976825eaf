"""What can be measured: each case drives all peers in turn and returns a row for each."""

from functools import partial

from .connections import clients, websocket
from .loads import UNDISTURBED, growth, logged, plain, tail, under_load
from .peers import ENVOY, NGINX
from .report import Column, spread
from .stage import Case
from .starts import idle, start
from .transfers import bulk
from .workers import ONE, workers

_LOAD = (
    Column("cpu", "CPU us/request", "{:.1f}", ratio=ENVOY),
    Column("cpu", "spread", "{:.0%}", reduce=spread),
    Column("rate", "requests/s", "{:.0f}", ratio=ENVOY),
    Column("core", "core", "{:.0%}"),
    Column("p50", "p50 ms", "{:.2f}"),
    Column("p99", "p99 ms", "{:.2f}", ratio=ENVOY),
    Column("p999", "p99.9 ms", "{:.2f}"),
    Column("rss_idle", "RSS idle MB", "{:.0f}"),
    Column("rss", "after MB", "{:.0f}", reduce=max),
)
_LATENCY = (
    Column("p50", "p50 ms", "{:.3f}"),
    Column("p50", "added p50", "{:.3f}", ratio=ENVOY, over="direct"),
    Column("p99", "p99 ms", "{:.3f}"),
    Column("p99", "added p99", "{:.3f}", ratio=ENVOY, over="direct"),
    Column("p99", "spread", "{:.0%}", reduce=spread),
    Column("cpu", "CPU us/request", "{:.1f}", ratio=ENVOY),
)
_BULK = tuple(
    column
    for way in ("down", "up")
    for column in (
        Column(f"{way}_rate", f"{way} MiB/s", "{:.0f}", ratio=ENVOY),
        Column(f"{way}_cpu", f"{way} CPU s/GiB", "{:.2f}", ratio=ENVOY),
        Column(f"{way}_growth", f"{way} RSS + MB", "{:.1f}", reduce=max),
    )
)
_WEBSOCKET = (
    Column("rate", "messages/s", "{:.0f}", ratio=NGINX),
    Column("rate", "spread", "{:.0%}", reduce=spread),
    Column("cpu", "CPU us/message", "{:.1f}", ratio=NGINX),
    Column("core", "core", "{:.0%}"),
    Column("load", "load's core", "{:.0%}"),
)
_CLIENTS = (
    Column("clients", "idle", "{:.0f}"),
    Column("each", "RSS KiB each", "{:.1f}", ratio=ENVOY),
    Column("rate_alone", "requests/s without", "{:.0f}"),
    Column("rate", "requests/s with", "{:.0f}"),
    Column("kept", "with/without", "{:.2f}"),
    Column("p99_alone", "p99 ms without", "{:.2f}"),
    Column("p99", "p99 ms with", "{:.2f}"),
)
_MEMORY = (
    Column("requests", "requests", "{:.0f}"),
    Column("rss_idle", "RSS idle MB", "{:.1f}", ratio=ENVOY),
    Column("rss", "after MB", "{:.1f}", ratio=ENVOY),
    Column("growth", "growth MB", "{:.1f}"),
)
_TAIL = (
    Column("p999", "p99.9 ms", "{:.2f}", ratio=UNDISTURBED),
    Column("p999", "spread", "{:.0%}", reduce=spread),
    Column("p99", "p99 ms", "{:.2f}", ratio=UNDISTURBED),
    Column("rate", "requests/s", "{:.0f}", ratio=UNDISTURBED),
    Column("tokens", "tokens", "{:.0f}"),
    Column("scrapes", "scrapes", "{:.0f}"),
)
_WORKERS = (
    Column("cpu", "CPU us/request", "{:.1f}", ratio=ONE),
    Column("cpu", "spread", "{:.0%}", reduce=spread),
    Column("rate", "requests/s", "{:.0f}", ratio=ONE),
    Column("cores", "cores", "{:.2f}"),
    Column("busiest", "busiest", "{:.0%}", reduce=max),
    Column("p99", "p99 ms", "{:.2f}", ratio=ONE),
    Column("rss", "RSS MB", "{:.0f}"),
)
CASES = {
    "json": Case("GET of 190 bytes of JSON, 32 connections", _LOAD, under_load, "wrk"),
    "post": Case("POST of 2 KiB, 32 connections", _LOAD, partial(under_load, body=2048), "wrk"),
    "plain": Case("as json, upstream without TLS", _LOAD, plain, "wrk"),
    "log": Case("as json, access log as JSON to a file", (*_LOAD, Column("logged", "logged", "{:.1%}")), logged, "wrk"),
    "latency": Case("GET of 190 bytes of JSON, 1 connection", _LATENCY, partial(under_load, connections=1), "wrk"),
    "bulk": Case("a large download and a large upload", _BULK, bulk, "curl"),
    "websocket": Case("echo of 1 KiB, 32 connections, one message at a time on each", _WEBSOCKET, websocket),
    "clients": Case("32 busy connections with and without idle ones", _CLIENTS, clients, "wrk"),
    "memory": Case("before the first request, and after many", _MEMORY, growth, "wrk"),
    "start": Case("from the command to ready", (Column("start", "ms", "{:.0f}", ratio=ENVOY),), start),
    "idle": Case("memory before the first request", (Column("rss_idle", "RSS MB", "{:.1f}", ratio=ENVOY),), idle),
    "tail": Case("32 connections while a token is obtained and metrics are read every second", _TAIL, tail, "wrk"),
    "workers": Case("as json, thg-proxy alone, with one process and with several workers", _WORKERS, workers, "wrk"),
}
