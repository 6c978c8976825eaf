"""How a command talks to the admin port of a running proxy: the standard library only, so that it starts fast."""

import json
import socket
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

import click

from proxy import settings
from proxy.errors import ProxyError
from proxy.settings import Address

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


def _address(_context: click.Context, _option: click.Parameter, value: str) -> Address:
    """Of a URL, or of what `admin.address` accepts."""
    try:
        return Address.parse(value.removeprefix("http://").removesuffix("/"))
    except ValueError:
        raise click.BadParameter("must be http://HOST:PORT or unix:/PATH") from None


admin_option = click.option(
    "--admin",
    metavar="URL",
    callback=_address,
    default=f"http://{settings.Admin().address}",
    envvar="THG_PROXY__ADMIN__ADDRESS",
    show_default=True,
    show_envvar=True,
    help="The admin port of the proxy.",
)


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
