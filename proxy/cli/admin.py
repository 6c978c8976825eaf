"""How a command talks to the admin port of a running proxy: no HTTP library, so that it starts fast."""

import functools
import json
import os
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any, NamedTuple, TypeVar

import click

from proxy import settings
from proxy.cli.options import configuration_option
from proxy.errors import ConfigError, ProxyError
from proxy.settings import Address

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MAX_ANSWER = 64 * 1024
# What a server may listen on is not always what a client can connect to.
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound here


class NoAnswer(ProxyError):
    code = "no_answer"
    title = "No answer"


class Answer(NamedTuple):
    """`document`: empty where the body is not a JSON object."""

    status: int
    document: dict[str, object]


def with_admin(command: _Command) -> Callable[..., Any]:
    """Gives a command `--admin` and `-c`, and calls it with the address of the admin port as `admin`."""

    @click.option(
        "--admin",
        metavar="URL",
        callback=_address,
        envvar="THG_PROXY__ADMIN__ADDRESS",
        show_envvar=True,
        help="The admin port of the proxy; without it, admin.address of the configuration.",
    )
    @configuration_option
    @functools.wraps(command)
    def with_address(admin: Address | None, path: str | None, **others: Any) -> Any:
        return command(admin=admin or _configured(path), **others)

    return with_address


def _address(_context: click.Context, _option: click.Parameter, value: str | None) -> Address | None:
    """Of a URL, or of what `admin.address` accepts."""
    if value is None:
        return None
    try:
        return Address.parse(value.removeprefix("http://").removesuffix("/"))
    except ValueError:
        raise click.BadParameter("must be http://HOST:PORT or unix:/PATH") from None


def _configured(path: str | None) -> Address:
    """What is wrong with the configuration is for the proxy to say, which may run with an earlier one."""
    from proxy.config import load  # noqa: PLC0415 - where the address is given, it is not needed

    try:
        return load(path, (), os.environ, secrets=False).settings.admin.address
    except ConfigError:
        if path is not None:
            raise
        return settings.Admin().address


def ask(admin: Address, method: str, path: str, timeout: float) -> Answer:
    """One request; `timeout` in seconds is for each step of it. Raises NoAnswer."""
    connection = HTTPConnection(_LOOPBACK_OF.get(admin.host, admin.host or "localhost"), admin.port, timeout=timeout)
    try:
        if admin.path is not None:
            connection.sock = _unix_socket(admin.path, timeout)
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, _document(response.read(_MAX_ANSWER)))
    except ConnectionRefusedError as exc:
        raise NoAnswer(f"nothing listens on {admin}") from exc
    except (OSError, HTTPException) as exc:
        raise NoAnswer(f"no answer from {admin} ({type(exc).__name__})") from exc
    finally:
        connection.close()


def _unix_socket(path: str, timeout: float) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(timeout)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    return connected


def _document(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
