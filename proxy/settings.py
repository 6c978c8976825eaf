"""The whole configuration as frozen values: every key, its type and its default; `proxy.config` reads it."""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import msgspec

from proxy.secret import SecretRef

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)?")
_BYTES = {"B": 1, None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_MAX_PORT = 65535


class Duration(float):
    """Seconds."""

    __slots__ = ()
    form: ClassVar[str] = "a duration such as 250ms, 5s, 10m or 24h"
    pattern: ClassVar[str] = _DURATION.pattern

    @classmethod
    def parse(cls, value: object) -> Self:
        """Of the configuration's form; a bare number is seconds. Raises ValueError."""
        match = None if isinstance(value, bool) else _DURATION.fullmatch(str(value))
        if match is None:
            raise ValueError(f"must be {cls.form}")
        return cls(float(match[1]) * _SECONDS[match[2]])

    def __str__(self) -> str:
        if 0 < self < 1:
            return f"{self * 1000:.15g}ms"
        for unit in ("d", "h", "m"):
            if self and self % _SECONDS[unit] == 0:
                return f"{self / _SECONDS[unit]:.15g}{unit}"
        return f"{float(self):.15g}s"


class Size(int):
    """Bytes."""

    form: ClassVar[str] = "a size such as 512, 64KiB or 10MiB"
    pattern: ClassVar[str] = _SIZE.pattern

    @classmethod
    def parse(cls, value: object) -> Self:
        """Of the configuration's form; a bare number is bytes. Raises ValueError."""
        match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value))
        if match is None:
            raise ValueError(f"must be {cls.form}")
        return cls(int(match[1]) * _BYTES[match[2]])

    def __str__(self) -> str:
        for unit in ("GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{self // _BYTES[unit]}{unit}"
        return str(int(self))


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `host` and `port`, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    form: ClassVar[str] = "HOST:PORT, [IPV6]:PORT or unix:/PATH"
    pattern: ClassVar[str] = rf"unix:/.*|{_ADDRESS.pattern}"

    @classmethod
    def parse(cls, value: object) -> Self:
        """Of the configuration's form. Raises ValueError."""
        if isinstance(value, str) and value.startswith("unix:/"):
            return cls(path=value.removeprefix("unix:"))
        match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
        if match is None or int(match[3]) > _MAX_PORT or (match[2] is None and not is_ipv6(match[1])):
            raise ValueError(f"must be {cls.form}")
        return cls(match[1] or match[2], int(match[3]))

    @property
    def is_loopback(self) -> bool:
        """True where only this machine can connect: a Unix socket, `localhost` or a loopback address."""
        return self.path is not None or is_loopback_host(self.host)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback_host(host: str) -> bool:
    """True for `localhost` and literal loopback addresses (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3); resolves nothing."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ServerTls(_Section, frozen=True):
    cert_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None


class ClientTls(_Section, frozen=True):
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.ca_file, self.cert_file, self.key_file)))


class UpstreamTls(ClientTls, frozen=True):
    server_name: str | None = None


class Listen(_Section, frozen=True):
    address: Address = Address("127.0.0.1", 8080)
    unsafe: bool = False
    unix_mode: str = "0600"
    allowed_uids: tuple[int, ...] = ()
    tls: ServerTls = ServerTls()
    header_timeout: Duration = Duration(10)
    keepalive_timeout: Duration = Duration(75)
    max_header_size: Size = Size(32 << 10)


class Admin(_Section, frozen=True):
    address: Address = Address("127.0.0.1", 9090)
    dashboard: bool = True
    allow_stop: bool = False


class UpstreamHeaders(_Section, frozen=True):
    set: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class Upstream(_Section, frozen=True):
    url: str = "https://thg.nxtlabs.online"
    insecure: bool = False
    connect_timeout: Duration = Duration(5)
    response_timeout: Duration = Duration(60)
    idle_timeout: Duration = Duration(60)
    max_connections: int = 256
    keepalive_timeout: Duration = Duration(55)
    egress_proxy: str | None = None
    tls: UpstreamTls = UpstreamTls()
    via: bool = True
    headers: UpstreamHeaders = UpstreamHeaders()


class Client(_Section, frozen=True):
    name: str = "primary"
    client_id: SecretRef = SecretRef("env", "THG_CLIENT_ID")
    client_secret: SecretRef = SecretRef("env", "THG_CLIENT_SECRET")
    key_id: str | None = None


AuthMethod = Literal[
    "client_secret_basic",
    "client_secret_basic_raw",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
    "federated",
]


class Assertion(_Section, frozen=True):
    audience: str | None = None
    algorithm: str | None = None


class Verify(_Section, frozen=True):
    mode: Literal["auto", "require", "warn", "off"] = "auto"
    issuer: str | None = None
    audience: str | None = None
    type: str | None = None
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    leeway: Duration = Duration(30)
    jwks_max_age: Duration = Duration(900)


class Backoff(_Section, frozen=True):
    initial: Duration = Duration(1)
    max: Duration = Duration(60)
    rejected: Duration = Duration(300)


class Refresh(_Section, frozen=True):
    at: float = 0.75
    jitter: float = 0.1
    margin: Duration = Duration(60)
    wait: Duration = Duration(5)
    min_interval: Duration = Duration(5)
    backoff: Backoff = Backoff()


class OAuth(_Section, frozen=True):
    token_url: str | None = None
    issuer: str | None = None
    jwks_url: str | None = None
    auth_method: AuthMethod = "client_secret_basic"
    clients: tuple[Client, ...] = (Client(),)
    assertion: Assertion = Assertion()
    dpop: bool = False
    scope: str | None = None
    audience: str | None = None
    resource: str | None = None
    params: dict[str, str] = {}
    timeout: Duration = Duration(10)
    egress_proxy: str | None = None
    tls: ClientTls = ClientTls()
    verify: Verify = Verify()
    refresh: Refresh = Refresh()
    standby_exercise: Duration = Duration(7 * 86400)
    store: str = "memory"

    @property
    def needs_client_secret(self) -> bool:
        """Does a client show its `client_secret`? With tls_client_auth it shows a certificate (RFC 8705 §2)."""
        return self.auth_method != "tls_client_auth"


class AllowOrigins(_Section, frozen=True):
    allow_origins: tuple[str, ...]


class RequireHeader(_Section, frozen=True):
    name: str
    value: str


class Rule(_Section, frozen=True):
    path: str
    methods: tuple[str, ...] = ()


class Policy(_Section, frozen=True):
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    browsers: Literal["refuse"] | AllowOrigins = "refuse"
    require_header: RequireHeader | None = None
    allow: Literal["all"] | tuple[Rule, ...] = "all"


class Limits(_Section, frozen=True):
    max_in_flight: int = 1024
    max_body: Size | None = None
    replay_body: Size = Size(64 << 10)


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"
    access: Literal["all", "errors", "off"] = "errors"


class Tracing(_Section, frozen=True):
    otlp_endpoint: str | None = None
    sample: float = 1.0


class Shutdown(_Section, frozen=True):
    delay: Duration = Duration(0)
    grace: Duration = Duration(30)


class Settings(_Section, frozen=True):
    listen: Listen = Listen()
    admin: Admin = Admin()
    upstream: Upstream = Upstream()
    oauth: OAuth = OAuth()
    policy: Policy = Policy()
    limits: Limits = Limits()
    log: Log = Log()
    tracing: Tracing = Tracing()
    workers: int = 1
    shutdown: Shutdown = Shutdown()


def leaves(value: object, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value of a configuration with its dotted key: `log.level`, `oauth.clients[0].name`."""
    children = _children(value)
    if not children:
        yield key, value
    for suffix, child in children:
        yield from leaves(child, (key + suffix).removeprefix("."))


def _children(value: object) -> list[tuple[str, Any]]:
    match value:
        case msgspec.Struct():
            return [(f".{name}", getattr(value, name)) for name in value.__struct_fields__]
        case dict():
            return [(f".{name}", child) for name, child in value.items()]
        case tuple() if any(isinstance(item, msgspec.Struct) for item in value):
            return [(f"[{index}]", item) for index, item in enumerate(value)]
    return []
