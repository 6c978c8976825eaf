"""The system's keyring: the Keychain of macOS, the Credential Locker of Windows, the Secret Service of a Linux desktop.

A locked keyring asks a person for its password, who may not be there. So a process of its own asks it, which is ended
when that takes too long: with it goes the question, and whatever memory and connections the library needs.
"""

import os
import subprocess
import sys
from typing import Any

import msgspec

from proxy.core.secret import Secret
from proxy.errors import SecretUnreadable

# Seconds: as long as it takes somebody to type a password.
TIMEOUT = 30.0

# Without -P, a module in the working directory could stand in for one of the library's.
_CHILD = (sys.executable, "-P", "-m", "proxy.keyring.child")


def read(service: str, name: str) -> Secret:
    """What the keyring has for `name` of `service`. Raises SecretUnreadable."""
    text = _asked({"service": service, "name": name})
    if not text:
        raise SecretUnreadable(
            f"the keyring has no entry {name} of the service {service}; `keyring set {service} {name}` makes it"
        )
    return Secret(text)


def write(service: str, name: str, secret: Secret) -> None:
    """Puts the secret there, in place of an older one. Raises SecretUnreadable where it can't be read again."""
    if _asked({"service": service, "name": name, "secret": secret.reveal()}) != secret.reveal():
        raise SecretUnreadable("the keyring does not keep what it is given; use {file: PATH} or {env: NAME}")


def _asked(request: dict[str, str]) -> str | None:
    """What the entry holds then. Raises SecretUnreadable."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THG_")}
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            _CHILD,
            input=msgspec.json.encode(request),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SecretUnreadable(
            f"the keyring does not answer within {TIMEOUT:g} s: it may wait for its password; unlock it, and try again"
        ) from None
    except OSError as exc:
        raise SecretUnreadable(f"the keyring can't be asked: no process can be started: {exc.strerror}") from exc
    return _result(done)


def _result(done: subprocess.CompletedProcess[bytes]) -> str | None:
    try:
        answer: dict[str, Any] = msgspec.json.decode(done.stdout, type=dict[str, Any])
    except msgspec.DecodeError:
        # Without its cause, which may hold what was printed.
        raise SecretUnreadable(f"the keyring can't be asked: exit code {done.returncode}") from None
    if "fault" in answer:
        raise SecretUnreadable(answer["fault"])
    secret: str | None = answer["secret"]
    return secret
