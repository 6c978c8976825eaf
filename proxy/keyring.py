"""The system's keyring: the Keychain of macOS, the Credential Locker of Windows, the Secret Service of a Linux desktop.

It needs the extra `keyring`, whose library finds the one that there is. A locked keyring asks a person for its
password, who may not be there: it is waited for, but not for ever.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, partial
from typing import TYPE_CHECKING, TypeVar

from proxy.background import in_background
from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")

# Seconds: as long as it takes somebody to type a password.
TIMEOUT = 30.0

_reads: dict[tuple[str, str], Future[str | None]] = {}
_reads_lock = threading.Lock()


def read(service: str, name: str) -> Secret:
    """What the keyring has for `name` of `service`. Raises SecretUnreadable."""
    text = _result(_reading(service, name))
    if not text:
        raise SecretUnreadable(
            f"the keyring has no entry {name} of the service {service}; `keyring set {service} {name}` makes it"
        )
    return Secret(text)


def write(service: str, name: str, secret: Secret) -> None:
    """Puts the secret there, in place of an older one. Raises SecretUnreadable where it could not be read again."""

    def put(keyring: "KeyringBackend") -> None:
        keyring.set_password(service, name, secret.reveal())

    _result(in_background(partial(_with_keyring, put)))
    if read(service, name) != secret:
        raise SecretUnreadable("the keyring does not keep what it is given")


def _reading(service: str, name: str) -> Future[str | None]:
    """One at a time for an entry: a keyring that nobody unlocks is not to ask again and again."""
    key = service, name

    def get(keyring: "KeyringBackend") -> str | None:
        return keyring.get_password(service, name)

    def read_once() -> str | None:
        try:
            return _with_keyring(get)
        finally:
            with _reads_lock:
                del _reads[key]

    with _reads_lock:
        if key not in _reads:
            _reads[key] = in_background(read_once)
        return _reads[key]


def _result(future: Future[T]) -> T:
    try:
        return future.result(TIMEOUT)
    except TimeoutError:
        raise SecretUnreadable(
            f"the keyring does not answer within {TIMEOUT:g} s: it may wait for its password; unlock it, and try again"
        ) from None


def _with_keyring(work: Callable[["KeyringBackend"], T]) -> T:
    """Raises SecretUnreadable."""
    try:
        return work(_keyring())
    except Exception as exc:  # noqa: BLE001 - each backend has errors of its own
        fault = _fault(exc)
    # Not in the `except`: the error may hold the secret, and holds on to a connection that its backend has not closed.
    raise SecretUnreadable(fault)


def _fault(exc: Exception) -> str:
    """What is wrong, and what to do."""
    try:
        from keyring import errors  # noqa: PLC0415 - an extra
    except ImportError:
        return "a keyring needs the extra; install it by `pip install 'thg-proxy[keyring]'`"
    match exc:
        case errors.NoKeyringError():
            return "there is no keyring that this session can reach; use {file: PATH} or {env: NAME}"
        case errors.KeyringLocked() | errors.InitError():
            return "the keyring is locked, or can't be opened; unlock it, and try again"
    return f"the keyring can't be used ({type(exc).__name__}); use {{file: PATH}} or {{env: NAME}}"


@cache
def _keyring() -> "KeyringBackend":
    """The one that the user has configured for the library, or else the system's.

    A backend that the library does not recommend, such as a file in plain text, is used only by that choice.
    """
    from keyring import core  # noqa: PLC0415 - an extra

    core.init_backend(limit=core.recommended)
    return core.get_keyring()
