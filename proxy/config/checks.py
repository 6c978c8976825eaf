"""The rules that a configuration keeps beyond the types of its values, a sentence for each fault.

What one value must be is in the table; what depends on two of them, or on this machine, is a function.
"""

import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from proxy.config import forms
from proxy.config.schema import Problem
from proxy.core.client_auth import HMAC_ALGORITHMS
from proxy.core.headers import HOP_BY_HOP
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable
from proxy.secret import SecretRef
from proxy.settings import Address, AllowOrigins, OAuth, Settings, is_loopback_host, leaves

Problems = Iterator[Problem]

# sockaddr_un holds 104 bytes on macOS, 108 on Linux, the last one NUL.
_MAX_UNIX_PATH = 103
_MAX_JITTER = 0.5
_MIN_HEADER_SIZE = 1 << 10

# Written by the proxy itself, or of one hop only: never a matter of configuration (RFC 9110 §7.6.1).
_OWN_FIELDS = {name.decode() for name in HOP_BY_HOP} | {"authorization", "dpop", "host", "content-length", "expect"}
# What the other keys of `oauth` put into the token request (RFC 6749 §4.4, RFC 7521 §4.2, RFC 8707 §2).
_OWN_PARAMS = frozenset({"grant_type", "scope", "audience", "resource"}) | frozenset(
    {"client_id", "client_secret", "client_assertion", "client_assertion_type"}
)
# Signatures by a private key. The key of HS* would be one that everybody has, and `none` is none (RFC 8725 §3.1).
_ALGORITHMS = (*(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA", "Ed25519")
# What a client can sign its assertion with.
_ASSERTION_ALGORITHMS = {"private_key_jwt": _ALGORITHMS, "client_secret_jwt": HMAC_ALGORITHMS}
# An assertion is renewed all the time, and a certificate's key stays with one replica.
_WITHOUT_LASTING_SECRET = frozenset({"federated", "tls_client_auth"})
_LISTENERS = ("listen.address", "admin.address")

_Rule = tuple[Callable[[Any], object], str]
_DURATION: _Rule = (lambda value: value > 0, "must be longer than 0s")
_COUNT: _Rule = (lambda value: value >= 1, "must be at least 1")
_EGRESS_PROXY: _Rule = (forms.is_egress_proxy, "must be http://HOST:PORT, without a user name, a password or a path")
# Of the values that are not null.
_RULES: Mapping[str, _Rule] = {
    "listen.unix_mode": (forms.UNIX_MODE.fullmatch, "must be three octal digits such as 0600"),
    "listen.allowed_uids": (lambda uids: all(uid >= 0 for uid in uids), "must not be negative"),
    "listen.header_timeout": _DURATION,
    "listen.max_header_size": (lambda size: size >= _MIN_HEADER_SIZE, "must be at least 1KiB"),
    "upstream.connect_timeout": _DURATION,
    "upstream.response_timeout": _DURATION,
    "upstream.idle_timeout": _DURATION,
    "upstream.max_connections": _COUNT,
    "upstream.egress_proxy": _EGRESS_PROXY,
    "upstream.tls.server_name": (forms.HOST.fullmatch, "must be a host name"),
    "oauth.timeout": _DURATION,
    "oauth.egress_proxy": _EGRESS_PROXY,
    "oauth.verify.algorithms": (
        lambda names: names and set(names) <= set(_ALGORITHMS),
        f"must be one or more of {', '.join(_ALGORITHMS)}",
    ),
    "oauth.verify.type": (forms.MEDIA_TYPE.fullmatch, "must be a media type such as at+jwt"),
    "oauth.verify.jwks_max_age": _DURATION,
    "oauth.refresh.at": (lambda value: 0 < value < 1, "must be a fraction between 0 and 1, such as 0.75"),
    "oauth.refresh.jitter": (lambda value: 0 <= value <= _MAX_JITTER, f"must be a fraction from 0 to {_MAX_JITTER}"),
    "oauth.refresh.min_interval": _DURATION,
    "oauth.refresh.backoff.initial": _DURATION,
    "oauth.refresh.backoff.max": _DURATION,
    "oauth.refresh.backoff.rejected": _DURATION,
    "oauth.standby_exercise": _DURATION,
    "oauth.store": (forms.is_store, "must be memory, file:/PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB"),
    "policy.allowed_hosts": (
        lambda hosts: hosts and all(map(forms.HOST.fullmatch, hosts)),
        "must be host names or addresses without port, IPv6 in brackets",
    ),
    "limits.max_in_flight": _COUNT,
    "tracing.sample": (lambda value: 0 <= value <= 1, "must be a fraction from 0 to 1"),
    "workers": _COUNT,
}


def problems(settings: Settings) -> Problems:
    """Everything that is wrong with the settings on this machine, where files are looked for, but the secrets."""
    for check in _CHECKS:
        yield from check(settings)


def secret_refs(settings: Settings) -> Iterator[tuple[str, SecretRef]]:
    """Those that are read, with their keys."""
    for key, value in leaves(settings):
        if isinstance(value, SecretRef) and (settings.oauth.needs_client_secret or not key.endswith(".client_secret")):
            yield key, value


def _values(settings: Settings) -> Problems:
    for key, (holds, text) in _RULES.items():
        value = attrgetter(key)(settings)
        if value is not None and not holds(value):
            yield Problem(key, text)


def _exposure(settings: Settings) -> Problems:
    """Whoever can connect has the credentials of the proxy (R133)."""
    if not (settings.listen.address.is_loopback or settings.listen.unsafe):
        yield Problem("listen.address", "must be a loopback address or a Unix socket, unless listen.unsafe is true")


def _allowed_uids(settings: Settings) -> Problems:
    if settings.listen.allowed_uids and settings.listen.address.path is None:
        yield Problem("listen.allowed_uids", "needs a listen.address of the form unix:/PATH")
    elif settings.listen.allowed_uids and not hasattr(socket, "SO_PEERCRED"):
        yield Problem("listen.allowed_uids", "must be empty on this system, which does not say who calls")


def _unix_paths(settings: Settings) -> Problems:
    for key in _LISTENERS:
        path = attrgetter(key)(settings).path
        if path and len(path.encode()) > _MAX_UNIX_PATH:
            yield Problem(key, f"must be a path of at most {_MAX_UNIX_PATH} bytes")


def _two_ports(settings: Settings) -> Problems:
    listen, admin = settings.listen.address, settings.admin.address
    if listen == admin and (listen.path or listen.port):
        yield Problem("admin.address", "must differ from listen.address")


def _upstream_url(settings: Settings) -> Problems:
    upstream = settings.upstream
    for fault in forms.url_faults(
        upstream.url,
        plain=upstream.insecure,
        unless=" or with upstream.insecure: true",
        egress_proxy=upstream.egress_proxy,
    ):
        yield Problem("upstream.url", fault)


def _not_to_itself(settings: Settings) -> Problems:
    """An upstream, or a collector, that is one of the own listeners is an endless loop (R42)."""
    for key, whose in (("upstream.url", "the API"), ("tracing.otlp_endpoint", "the collector")):
        peer = forms.server(attrgetter(key)(settings) or "")
        for listener in _LISTENERS:
            if peer and _listens_at(attrgetter(listener)(settings), peer):
                yield Problem(key, f"must be the address of {whose}, and is {listener} of this proxy")


def _listens_at(address: Address, server: forms.Server) -> bool:
    if address.path is not None or address.port != server.port:
        return False
    if address.host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return is_loopback_host(server.host)
    return not _addresses(address.host).isdisjoint(_addresses(server.host))


def _addresses(host: str) -> set[str]:
    return {"localhost", "127.0.0.1", "::1"} if host.lower() == "localhost" else {host.lower()}


def _provider_urls(settings: Settings) -> Problems:
    for key in ("oauth.token_url", "oauth.issuer", "oauth.jwks_url"):
        url = attrgetter(key)(settings)
        for fault in forms.url_faults(url, egress_proxy=settings.oauth.egress_proxy) if url is not None else ():
            yield Problem(key, fault)


def _tracing(settings: Settings) -> Problems:
    endpoint = settings.tracing.otlp_endpoint
    if endpoint is None:
        return
    for fault in forms.url_faults(endpoint, plain=True):
        yield Problem("tracing.otlp_endpoint", fault)
    if endpoint.rstrip("/").endswith("/v1/traces"):
        yield Problem("tracing.otlp_endpoint", "must end before /v1/traces, which is added")
    try:
        import proxy.otlp  # noqa: F401, PLC0415 - what it needs is an extra
    except ImportError:
        yield Problem("tracing.otlp_endpoint", "needs the package opentelemetry-proto: pip install 'thg-proxy[otel]'")


def _token_endpoint(settings: Settings) -> Problems:
    if settings.oauth.token_url is None and settings.oauth.issuer is None:
        text = "is required, unless oauth.issuer is given; the API's documentation names it (or try `thg-proxy init`)"
        yield Problem("oauth.token_url", text)


def _clients(settings: Settings) -> Problems:
    clients = settings.oauth.clients
    if not clients:
        yield Problem("oauth.clients", "must have at least one client")
    count = Counter(client.name for client in clients)
    for index, client in enumerate(clients):
        key = f"oauth.clients[{index}].name"
        if not forms.CLIENT_NAME.fullmatch(client.name):
            yield Problem(key, "must be 1 to 64 letters, digits, dots, hyphens or underscores")
        if count[client.name] > 1:
            yield Problem(key, "must differ from the names of the other clients")


def _literal_secrets(settings: Settings) -> Problems:
    """A secret that is written into the configuration is for trying things on one machine."""
    provider = forms.server(settings.oauth.token_url or settings.oauth.issuer or "")
    if provider and is_loopback_host(provider.host):
        return
    for index, client in enumerate(settings.oauth.clients):
        if client.client_secret.kind == "literal":
            key = f"oauth.clients[{index}].client_secret"
            yield Problem(key, f"must be {SecretRef.form}; a literal is accepted only with a loopback oauth.token_url")


def secret_problems(settings: Settings, environ: Mapping[str, str]) -> Problems:
    """What is wrong with the secrets, each of which is read."""
    for key, secret in secret_refs(settings):
        try:
            text = secret.read(environ)
            if key.endswith(".client_secret"):
                yield from _misfits(settings.oauth, text)
        except SecretUnreadable as exc:
            yield Problem(key, exc.detail)


def _misfits(oauth: OAuth, secret: Secret) -> Problems:
    """What is wrong with a secret for `auth_method`. Raises SecretUnreadable."""
    if oauth.auth_method == "private_key_jwt":
        # joserfc and cryptography cost 10 MB and 0.1 s, which only those pay who sign.
        from proxy.core.assertion import algorithms, signing_key  # noqa: PLC0415 - as said

        fitting = algorithms(signing_key(secret.reveal()))
        if oauth.assertion.algorithm in _ALGORITHMS and oauth.assertion.algorithm not in fitting:
            yield Problem("oauth.assertion.algorithm", f"must fit the private key: {', '.join(fitting)}")


def _params(settings: Settings) -> Problems:
    for name in sorted(_OWN_PARAMS.intersection(settings.oauth.params)):
        yield Problem(f"oauth.params.{name}", "must not be set here: the proxy sends this parameter itself")


def _assertions(settings: Settings) -> Problems:
    oauth = settings.oauth
    fitting = _ASSERTION_ALGORITHMS.get(oauth.auth_method, ())
    if oauth.assertion.algorithm is not None and oauth.assertion.algorithm not in fitting:
        text = f"must be one of {', '.join(fitting)}" if fitting else "is for private_key_jwt and client_secret_jwt"
        yield Problem("oauth.assertion.algorithm", text)


def _client_certificate(settings: Settings) -> Problems:
    if settings.oauth.auth_method == "tls_client_auth" and settings.oauth.tls.cert_file is None:
        yield Problem("oauth.tls.cert_file", "is required with oauth.auth_method: tls_client_auth")


def _store(settings: Settings) -> Problems:
    """What is in Redis is encrypted under a key that all replicas have, and nobody else."""
    if settings.oauth.store.startswith("redis") and settings.oauth.auth_method in _WITHOUT_LASTING_SECRET:
        text = f"must not be redis with oauth.auth_method: {settings.oauth.auth_method}, which has no secret that lasts"
        yield Problem("oauth.store", text)


def _dpop(settings: Settings) -> Problems:
    """A token of another process, or of the one before this one, is bound to a key that nobody has here."""
    for key, only in (("oauth.store", "memory"), ("workers", 1)):
        if settings.oauth.dpop and attrgetter(key)(settings) != only:
            yield Problem(key, f"must be {only} with oauth.dpop: true, whose key is in one process only")


def _workers(settings: Settings) -> Problems:
    if settings.workers > 1 and platform.system() != "Linux":
        yield Problem("workers", "must be 1 on this system: only Linux shares a port out between processes")


def _verification(settings: Settings) -> Problems:
    oauth = settings.oauth
    if oauth.verify.mode in ("require", "warn") and not (oauth.jwks_url or oauth.issuer):
        yield Problem("oauth.verify.mode", f"{oauth.verify.mode} needs oauth.jwks_url or oauth.issuer")


def _backoff(settings: Settings) -> Problems:
    backoff = settings.oauth.refresh.backoff
    if backoff.initial > backoff.max:
        yield Problem("oauth.refresh.backoff.initial", "must not be longer than oauth.refresh.backoff.max")


def _upstream_headers(settings: Settings) -> Problems:
    headers = settings.upstream.headers
    for name, value in headers.set.items():
        yield from _field(f"upstream.headers.set.{name}", name, value)
    for index, name in enumerate(headers.remove):
        yield from _field(f"upstream.headers.remove[{index}]", name)


def _required_header(settings: Settings) -> Problems:
    if required := settings.policy.require_header:
        yield from _field("policy.require_header", required.name, required.value)


def _field(key: str, name: str, value: str = "") -> Problems:
    if not forms.FIELD_NAME.fullmatch(name):
        yield Problem(key, "must name a header field: letters, digits and hyphens")
    elif name.lower() in _OWN_FIELDS:
        yield Problem(key, "must not name a field that the proxy writes itself, nor one of the connection")
    if not forms.FIELD_VALUE.fullmatch(value):
        yield Problem(key, "must have a value of printable ASCII, without spaces at its ends")


def _browsers(settings: Settings) -> Problems:
    browsers = settings.policy.browsers
    for origin in browsers.allow_origins if isinstance(browsers, AllowOrigins) else ():
        if not (forms.ORIGIN.fullmatch(origin) and origin.islower()):
            text = "must be origins as browsers send them: https://app.example.com, in lower case and without a path"
            yield Problem("policy.browsers.allow_origins", text)


def _rules(settings: Settings) -> Problems:
    rules = settings.policy.allow
    for index, rule in enumerate(() if rules == "all" else rules):
        if not forms.is_path_rule(rule.path):
            text = "must be a plain path that begins with `/`; `*` is one whole segment, `**` the rest, only at the end"
            yield Problem(f"policy.allow[{index}].path", text)
        if not all(map(forms.METHOD.fullmatch, rule.methods)):
            yield Problem(f"policy.allow[{index}].methods", "must be methods in capitals, such as [GET, POST]")


def _files(settings: Settings) -> Problems:
    for key, value in leaves(settings):
        if key.endswith("_file") and value is not None and not (os.access(value, os.R_OK) and Path(value).is_file()):
            yield Problem(key, f"there is no readable file {value}")


def _certificates(settings: Settings) -> Problems:
    for section in ("listen.tls", "upstream.tls", "oauth.tls"):
        tls = attrgetter(section)(settings)
        if bool(tls.cert_file) != bool(tls.key_file):
            given, other = ("cert_file", "key_file") if tls.cert_file else ("key_file", "cert_file")
            yield Problem(f"{section}.{other}", f"is required with {section}.{given}")
    if settings.listen.tls.client_ca_file and not settings.listen.tls.cert_file:
        yield Problem("listen.tls.client_ca_file", "needs listen.tls.cert_file and listen.tls.key_file")


_CHECKS: tuple[Callable[[Settings], Problems], ...] = (
    _values,
    _exposure,
    _allowed_uids,
    _unix_paths,
    _two_ports,
    _upstream_url,
    _not_to_itself,
    _provider_urls,
    _tracing,
    _token_endpoint,
    _clients,
    _literal_secrets,
    _params,
    _assertions,
    _client_certificate,
    _store,
    _dpop,
    _workers,
    _verification,
    _backoff,
    _upstream_headers,
    _required_header,
    _browsers,
    _rules,
    _files,
    _certificates,
)
