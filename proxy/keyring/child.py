"""Asks the keyring, by the library of the extra `keyring`: the request is on standard input, the answer on output."""

import signal
import sys
from typing import TYPE_CHECKING

import msgspec

from proxy.keyring import TIMEOUT

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend


class Request(msgspec.Struct):
    """`secret`: what is to be written; None: nothing."""

    service: str
    name: str
    secret: str | None = None


def main() -> None:
    if hasattr(signal, "alarm"):
        # Whoever has asked may be gone, and can't end this any more.
        signal.alarm(int(2 * TIMEOUT))
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    # The answer is the only thing that is printed, whatever a backend has to say.
    printed, sys.stdout = sys.stdout, sys.stderr
    printed.buffer.write(msgspec.json.encode(_answer(request)))
    # What is not sys.stdout any more is not flushed at the end, unless nobody else refers to it.
    printed.flush()


def _answer(request: Request) -> dict[str, str | None]:
    try:
        keyring = _keyring()
        if request.secret is not None:
            keyring.set_password(request.service, request.name, request.secret)
        return {"secret": keyring.get_password(request.service, request.name)}
    except Exception as exc:  # noqa: BLE001 - each backend has errors of its own
        return {"fault": _fault(exc)}


def _keyring() -> "KeyringBackend":
    """The one that the user has configured for the library, or else the system's.

    A backend that the library does not recommend, such as a file in plain text, is used only by that choice.
    """
    from keyring import core  # noqa: PLC0415 - an extra

    core.init_backend(limit=core.recommended)
    return core.get_keyring()


def _fault(exc: Exception) -> str:
    """What is wrong, and what to do; nothing of what the error says, which may hold the secret."""
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


if __name__ == "__main__":
    main()
