import platform
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

Problems = Callable[..., list[str]]

CREDENTIALS = {"THG_CLIENT_ID": "id", "THG_CLIENT_SECRET": "s3cr3t"}
CANARY = "c4n4ry"

BAD = {
    # URLs (R41, R43)
    "upstream: {url: http://api.example}": "upstream.url: must be https; plain http is accepted only to a loopback",
    "upstream: {url: http://10.0.0.1:8081}": "upstream.url: must be https",
    "upstream: {url: http://127.1}": "upstream.url: must be https",
    "upstream: {url: api.example}": "upstream.url: must be a URL such as",
    "upstream: {url: ftp://api.example}": "upstream.url: must be a URL such as",
    "upstream: {url: ''}": "upstream.url: must be a URL such as",
    f"upstream: {{url: https://{CANARY}@evil/}}": "upstream.url: must not hold a user name or a password",
    f"upstream: {{url: https://a:{CANARY}@evil/}}": "upstream.url: must not hold a user name or a password",
    f"upstream: {{url: 'https://a\\@{CANARY}'}}": "upstream.url: must not hold a user name or a password",
    f"upstream: {{url: 'https://api.example/?key={CANARY}'}}": "upstream.url: must not hold a query or a fragment",
    "upstream: {url: 'https://api.example/#top'}": "upstream.url: must not hold a query or a fragment",
    "upstream: {url: 'https://'}": "upstream.url: must name a host",
    "upstream: {url: 'https://a b/'}": "upstream.url: must name a host",
    "upstream: {url: 'https://a:65536/'}": "upstream.url: must name a host, with a port of at most 65535",
    "upstream: {url: 'https://[::1/'}": "upstream.url: must name a host",
    "upstream: {url: https://api.example/a//b}": "upstream.url: must have a plain path",
    "upstream: {url: https://api.example/a/../b}": "upstream.url: must have a plain path",
    "upstream: {url: 'https://api.example/a b'}": "upstream.url: must have a plain path",
    # its own address (R42)
    "upstream: {url: http://localhost:8080}": "upstream.url: must be the address of the API, and is listen.address",
    "upstream: {url: http://127.0.0.1:9090/x}": "upstream.url: must be the address of the API, and is admin.address",
    "{listen: {address: 0.0.0.0:80, unsafe: true}, upstream: {url: http://127.0.0.1}}": "upstream.url: must be the ad",
    "admin: {address: 127.0.0.1:8080}": "admin.address: must differ from listen.address",
    # the listener (R133)
    "listen: {address: 0.0.0.0:8080}": "listen.address: must be a loopback address or a Unix socket, unless",
    "listen: {address: '[::]:8080'}": "listen.address: must be a loopback address",
    "listen: {address: proxy.example:8080}": "listen.address: must be a loopback address",
    f"listen: {{address: unix:/{'a' * 103}}}": "listen.address: must be a path of at most 103 bytes",
    "listen: {unix_mode: rw}": "listen.unix_mode: must be three octal digits",
    "listen: {allowed_uids: [1000]}": "listen.allowed_uids: needs a listen.address of the form unix:/PATH",
    "listen: {address: unix:/run/s, allowed_uids: [-1]}": "listen.allowed_uids: must not be negative",
    "listen: {header_timeout: 0}": "listen.header_timeout: must be longer than 0s",
    "listen: {max_header_size: 100}": "listen.max_header_size: must be at least 1KiB",
    "listen: {tls: {cert_file: thg.yaml}}": "listen.tls.key_file: is required with listen.tls.cert_file",
    "listen: {tls: {client_ca_file: thg.yaml}}": "listen.tls.client_ca_file: needs listen.tls.cert_file",
    # the upstream
    "upstream: {connect_timeout: 0s}": "upstream.connect_timeout: must be longer than 0s",
    "upstream: {max_connections: 0}": "upstream.max_connections: must be at least 1",
    "upstream: {egress_proxy: proxy.example:3128}": "upstream.egress_proxy: must be http://HOST:PORT",
    f"upstream: {{egress_proxy: http://a:{CANARY}@proxy:3128}}": (
        "upstream.egress_proxy: must be http://HOST:PORT, without a user name, a password or a path"
    ),
    "upstream: {egress_proxy: http://proxy.example:65536}": "upstream.egress_proxy: must be http://HOST:PORT",
    "upstream: {egress_proxy: 'http://[::::]:3128'}": "upstream.egress_proxy: must be http://HOST:PORT",
    "upstream: {egress_proxy: https://proxy.example:3128}": "upstream.egress_proxy: must be http://HOST:PORT",
    "upstream: {url: http://localhost:8081, egress_proxy: http://proxy.example:3128}": (
        "upstream.url: must be https, since the egress proxy is not on this machine"
    ),
    "upstream: {tls: {ca_file: missing.pem}}": "upstream.tls.ca_file: there is no readable file missing.pem",
    "upstream: {tls: {ca_file: .}}": "upstream.tls.ca_file: there is no readable file",
    "upstream: {tls: {key_file: thg.yaml}}": "upstream.tls.cert_file: is required with upstream.tls.key_file",
    "upstream: {tls: {server_name: 'a b'}}": "upstream.tls.server_name: must be a host name",
    f"upstream: {{headers: {{set: {{Authorization: {CANARY}}}}}}}": "upstream.headers.set.Authorization: must not name",
    f"upstream: {{headers: {{set: {{DPoP: {CANARY}}}}}}}": "upstream.headers.set.DPoP: must not name",
    "upstream: {headers: {set: {host: a}}}": "upstream.headers.set.host: must not name a field",
    "upstream: {headers: {set: {Transfer-Encoding: chunked}}}": "upstream.headers.set.Transfer-Encoding: must not name",
    "upstream: {headers: {set: {'a b': c}}}": "upstream.headers.set.a b: must name a header field",
    f'upstream: {{headers: {{set: {{a: "b\\r\\nX: {CANARY}"}}}}}}': "upstream.headers.set.a: must have a value of",
    "upstream: {headers: {remove: [Connection]}}": "upstream.headers.remove[0]: must not name a field",
    # the identity provider
    "oauth: {jwks_url: http://idp.example/jwks}": "oauth.jwks_url: must be https",
    "oauth: {issuer: 'https://idp.example/?a'}": "oauth.issuer: must not hold a query or a fragment",
    "oauth: {auth_method: private_key_jwt}": "oauth.clients[0].client_secret: must be one private key, PEM",
    "oauth: {auth_method: tls_client_auth}": "oauth.tls.cert_file: is required with oauth.auth_method: tls_client_auth",
    "oauth: {auth_method: jwt}": "oauth.auth_method: must be one of client_secret_basic, ",
    "oauth: {assertion: {algorithm: RS256}}": "oauth.assertion.algorithm: is for private_key_jwt and client_secret_jwt",
    "oauth: {auth_method: client_secret_jwt, assertion: {algorithm: RS256}}": (
        "oauth.assertion.algorithm: must be one of HS256, HS384, HS512"
    ),
    "oauth: {auth_method: client_secret_jwt, assertion: {algorithm: none}}": "oauth.assertion.algorithm: must be one",
    "oauth: {dpop: true, store: 'file:/var/lib/thg/token'}": "oauth.store: must be memory with oauth.dpop: true",
    "oauth: {verify: {type: 'at jwt'}}": "oauth.verify.type: must be a media type such as at+jwt",
    "oauth: {verify: {type: a/b/c}}": "oauth.verify.type: must be a media type such as at+jwt",
    "oauth: {clients: []}": "oauth.clients: must have at least one client",
    "oauth: {clients: [{name: ''}]}": "oauth.clients[0].name: must be 1 to 64",
    f"oauth: {{clients: [{{client_secret: {CANARY}}}]}}": "oauth.clients[0].client_secret: must be {env: NAME}, ",
    "oauth: {clients: [{client_id: {env: NOT_SET}}]}": "oauth.clients[0].client_id: the environment variable NOT_SET",
    "oauth: {clients: [{client_secret: {file: nowhere}}]}": "oauth.clients[0].client_secret: the file nowhere can't be",
    "oauth: {egress_proxy: 'http://proxy/'}": "oauth.egress_proxy: must be http://HOST:PORT",
    f"oauth: {{egress_proxy: http://{CANARY}@proxy:3128}}": "oauth.egress_proxy: must be http://HOST:PORT, without",
    "oauth: {jwks_url: 'http://[::1]/jwks', egress_proxy: http://proxy.example:3128}": (
        "oauth.jwks_url: must be https, since the egress proxy is not on this machine"
    ),
    "oauth: {verify: {algorithms: [none]}}": "oauth.verify.algorithms: must be one or more of RS256",
    "oauth: {verify: {algorithms: [RS256, HS256]}}": "oauth.verify.algorithms: must be one or more of RS256",
    "oauth: {verify: {algorithms: []}}": "oauth.verify.algorithms: must be one or more of RS256",
    "oauth: {verify: {mode: require}}": "oauth.verify.mode: require needs oauth.jwks_url or oauth.issuer",
    "oauth: {refresh: {at: 1}}": "oauth.refresh.at: must be a fraction between 0 and 1",
    "oauth: {refresh: {at: nan}}": "oauth.refresh.at: must be a fraction between 0 and 1",
    "oauth: {refresh: {jitter: 0.6}}": "oauth.refresh.jitter: must be a fraction from 0 to 0.5",
    "oauth: {refresh: {backoff: {initial: 2m}}}": "oauth.refresh.backoff.initial: must not be longer than",
    "oauth: {store: disk}": "oauth.store: must be memory, file:/PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB",
    f"oauth: {{store: 'redis://{CANARY}:{CANARY}@cache:99999/0'}}": "oauth.store: must be memory",
    "oauth: {store: 'redis://cache', auth_method: federated}": "oauth.store: must not be redis with oauth.auth_method:",
    "oauth: {store: 'rediss://cache', auth_method: tls_client_auth, tls: {cert_file: thg.yaml, key_file: thg.yaml}}": (
        "oauth.store: must not be redis with oauth.auth_method: tls_client_auth, which has no secret that lasts"
    ),
    # the rest
    "policy: {allowed_hosts: []}": "policy.allowed_hosts: must be host names",
    "policy: {allowed_hosts: ['localhost:8080']}": "policy.allowed_hosts: must be host names or addresses without port",
    "policy: {allowed_hosts: ['::1']}": "policy.allowed_hosts: must be host names",
    "policy: {browsers: {allow_origins: [app.example.com]}}": "policy.browsers.allow_origins: must be origins as",
    "policy: {browsers: {allow_origins: ['https://App.example']}}": "policy.browsers.allow_origins: must be origins",
    "policy: {browsers: {allow_origins: ['https://a.example/']}}": "policy.browsers.allow_origins: must be origins",
    "policy: {require_header: {name: 'a b', value: c}}": "policy.require_header: must name a header field",
    "policy: {allow: [{path: v1}]}": "policy.allow[0].path: must be a plain path",
    "policy: {allow: [{path: /v*}]}": "policy.allow[0].path: must be a plain path that begins with `/`; `*` is one",
    "policy: {allow: [{path: /**/v1}]}": "policy.allow[0].path: must be a plain path",
    "policy: {allow: [{path: /v1, methods: [get]}]}": "policy.allow[0].methods: must be methods in capitals",
    "limits: {max_in_flight: 0}": "limits.max_in_flight: must be at least 1",
    "tracing: {sample: 2}": "tracing.sample: must be a fraction from 0 to 1",
    "tracing: {otlp_endpoint: collector}": "tracing.otlp_endpoint: must be a URL",
    f"tracing: {{otlp_endpoint: 'http://a:{CANARY}@collector'}}": "tracing.otlp_endpoint: must not hold a user name",
    "tracing: {otlp_endpoint: http://collector:4318/v1/traces}": "tracing.otlp_endpoint: must end before /v1/traces",
    "tracing: {otlp_endpoint: http://localhost:8080}": (
        "tracing.otlp_endpoint: must be the address of the collector, and is listen.address of this proxy"
    ),
    "workers: 0": "workers: must be at least 1",
    "{workers: 2, oauth: {dpop: true}}": "workers: must be 1 with oauth.dpop: true, whose key is in one process only",
}
BAD_PROVIDERS = {
    "oauth: {}": "oauth.token_url: is required, unless oauth.issuer is given",
    "oauth: {token_url: http://idp.example/token}": "oauth.token_url: must be https; plain http is accepted only to a",
    f"oauth: {{token_url: https://a:{CANARY}@idp.example/token}}": "oauth.token_url: must not hold a user name",
    "oauth: {token_url: 'https://idp.example/token?x=1'}": "oauth.token_url: must not hold a query",
    f"oauth: {{token_url: https://idp.example/t, clients: [{{client_secret: {CANARY}}}]}}": (
        "oauth.clients[0].client_secret: must be {env: NAME}, {file: PATH} or {keyring: SERVICE/NAME}; a literal"
    ),
    f"oauth: {{issuer: https://idp.example, clients: [{{client_secret: {CANARY}}}]}}": (
        "oauth.clients[0].client_secret: must be {env: NAME}, {file: PATH} or {keyring: SERVICE/NAME}; a literal"
    ),
}
GOOD = [
    "",
    "upstream: {url: https://api.example/base/}",
    "upstream: {url: 'https://[2001:db8::1]:8443'}",
    "upstream: {url: http://10.0.0.1, insecure: true}",
    "upstream: {url: http://127.0.0.1:8081}",
    "upstream: {url: http://127.0.0.2:8080}",
    "listen: {address: 0.0.0.0:8080, unsafe: true}",
    "{listen: {address: 127.0.0.1:0}, admin: {address: 127.0.0.1:0}}",
    "listen: {address: unix:/run/proxy.sock, unix_mode: 0660, allowed_uids: [0, 1000]}",
    "upstream: {url: http://localhost:8081, egress_proxy: 'http://[::1]:3128'}",
    "upstream: {url: http://localhost:8081, egress_proxy: http://proxy.example:3128, insecure: true}",
    "oauth: {egress_proxy: http://proxy.example:3128}",
    "upstream: {egress_proxy: http://proxy.example:3128, headers: {set: {X-A: ''}, remove: [x-b]}}",
    "oauth: {issuer: https://idp.example, verify: {mode: require, algorithms: [EdDSA]}}",
    "oauth: {token_url: http://localhost:4444/t, clients: [{client_secret: literal}]}",
    "oauth: {clients: [{name: a}, {name: b, client_id: literal}]}",
    "oauth: {store: 'redis://cache:6379/0'}",
    f"oauth: {{store: 'rediss://user:{CANARY}@cache/1?ssl_ca_certs=/etc/ssl/redis.pem'}}",
    "oauth: {store: 'file:/run/thg-proxy/token', auth_method: federated}",
    "oauth: {dpop: true}",
    "oauth: {auth_method: federated}",
    "oauth: {auth_method: client_secret_jwt, assertion: {algorithm: HS512, audience: https://idp.example/}}",
    "oauth: {verify: {type: at+jwt}}",
    "oauth: {verify: {type: application/at+jwt}}",
    "policy: {allow: [{path: /}, {path: '/v1/*/x', methods: [GET]}, {path: '/v1/**'}]}",
    "policy: {allow: [], browsers: {allow_origins: ['https://app.example.com']}, require_header: {name: a, value: b}}",
    "admin: {address: 0.0.0.0:9090}",
    "tracing: {otlp_endpoint: 'https://collector.example/otlp/', sample: 0}",
    "tracing: {otlp_endpoint: http://collector:4318, sample: 1}",
    "workers: 8",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_value(problems: Problems, text: str) -> None:
    """One fault is one sentence, which begins with its key and holds no value that could be secret (R43, R165)."""
    (problem,) = problems(text)
    assert problem.startswith(BAD[text])
    assert "\n" not in problem
    assert CANARY not in problem


@pytest.mark.parametrize("text", BAD_PROVIDERS)
def test_bad_provider(problems: Problems, text: str) -> None:
    """The provider must be named, by a URL without secrets; a literal secret stays on this machine (R41, R43, R165)."""
    (problem,) = problems(text, environ=CREDENTIALS)
    assert problem.startswith(BAD_PROVIDERS[text])
    assert CANARY not in problem


@pytest.mark.parametrize("text", GOOD)
def test_good_value(problems: Problems, text: str) -> None:
    """What the proxy can run with is accepted (R165)."""
    environ = CREDENTIALS if "token_url" in text else CREDENTIALS | {"THG_PROXY__OAUTH__TOKEN_URL": "https://i.example"}
    assert problems(text, environ=environ) == []


def test_keyring(problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of the keyring that can't be read is a problem of its key, as it is with a file."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    (problem,) = problems("oauth: {clients: [{client_secret: {keyring: thg/app}}]}")
    assert problem.startswith("oauth.clients[0].client_secret: there is no keyring that this session can reach; use")


def test_workers_elsewhere(problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems know SO_REUSEPORT, too, and give all connections to one of those that share the port."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert problems("workers: 1") == []
    (problem,) = problems("workers: 2")
    assert problem.startswith("workers: must be 1 on this system: only Linux shares a port out between processes")


EC_KEY = "{auth_method: private_key_jwt, clients: [{client_secret: {file: key.pem}, key_id: k1}]"


@pytest.mark.parametrize(
    "text, start",
    [
        (f"oauth: {EC_KEY}}}", None),
        (f"oauth: {EC_KEY}, assertion: {{algorithm: ES256}}}}", None),
        (f"oauth: {EC_KEY}, assertion: {{algorithm: RS256}}}}", "must fit the private key: ES256"),
        (f"oauth: {EC_KEY}, assertion: {{algorithm: HS256}}}}", "must be one of RS256"),
    ],
)
def test_private_key(problems: Problems, text: str, start: str | None) -> None:
    """The private key is read, and the algorithm must be one that it can sign with (R101, R165)."""
    Path("key.pem").write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    found = problems(text)

    assert [problem.startswith(f"oauth.assertion.algorithm: {start}") for problem in found] == [True] * (
        start is not None
    )


def test_no_secret_is_wanted_with_a_certificate(problems: Problems, tmp_path: Path) -> None:
    """With tls_client_auth there need be no client secret, and none is read (R103, R165)."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    text = "oauth: {auth_method: tls_client_auth, tls: {cert_file: cert.pem, key_file: key.pem}}"
    environ = {"THG_CLIENT_ID": "id", "THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example/token"}

    assert problems(text, environ=environ) == []
    assert problems(text, environ=environ | {"THG_CLIENT_SECRET_FILE": "/nowhere"}) == []


@pytest.mark.parametrize(
    "name",
    [
        "grant_type",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
        "scope",
        "audience",
        "resource",
    ],
)
def test_protected_parameter(problems: Problems, name: str) -> None:
    """An extra parameter can't stand in for one that the proxy sends itself (R75)."""
    (problem,) = problems(f"oauth: {{params: {{{name}: {CANARY}}}}}")
    assert problem.startswith(f"oauth.params.{name}: must not be set here")
    assert CANARY not in problem


def test_clients_with_one_name(problems: Problems) -> None:
    """Metrics and logs tell clients by their names, so these differ (R165)."""
    found = problems("oauth: {clients: [{name: a}, {name: b}, {name: a}]}")
    assert [problem.partition(":")[0] for problem in found] == ["oauth.clients[0].name", "oauth.clients[2].name"]


def test_callers_that_nobody_knows(problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not tell who calls, as on macOS, a list of users is refused, not ignored (R141)."""
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    (problem,) = problems("listen: {address: unix:/run/proxy.sock, allowed_uids: [1000]}")
    assert problem.startswith("listen.allowed_uids: must be empty on this system")
    assert problems("listen: {address: unix:/run/proxy.sock}") == []


def test_socket_path_is_measured_in_bytes(problems: Problems) -> None:
    """A path of a socket that the kernel would refuse is found before it is bound (R165)."""
    assert problems(f"listen: {{address: unix:/{'a' * 102}}}") == []
    assert len(problems(f"admin: {{address: unix:/{'ä' * 60}}}")) == 1


def test_certificate_and_key(problems: Problems, tmp_path: Path) -> None:
    """A certificate and its key are given together, as files that can be read (R165)."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    assert problems("upstream: {tls: {cert_file: cert.pem, key_file: key.pem, ca_file: cert.pem}}") == []
