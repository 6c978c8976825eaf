"""What the service manager is told of this process, by datagrams to the socket that it names: sd_notify(3)."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from proxy.log import Log

# What `systemctl status` shows is never older.
_INTERVAL = 5.0
# For what is not part of the drain: the last log line, the end of the interpreter.
_TO_EXIT = 5.0


class ServiceManager:
    """Whoever has started this process; nobody is told anything where NOTIFY_SOCKET is not set.

    Telling never waits. A manager that does not read is one that has worse problems than this service.
    """

    def __init__(self, environ: Mapping[str, str], log: Log) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._log = log
        self._is_heard = True
        # A manager that watches wants to hear twice in the time that it names: sd_watchdog_enabled(3).
        usec = environ.get("WATCHDOG_USEC", "")
        half = int(usec) / 2e6 if usec.isdecimal() else 0.0
        self._interval = min(_INTERVAL, half or _INTERVAL)

    async def keep_told(self, status: Callable[[], str]) -> NoReturn:
        """Says that the service is ready, and from then on how it is.

        It is the event loop that says so, which makes it true: a loop that is stuck says nothing, and is restarted.
        """
        self._tell("READY=1")
        while True:
            self._tell("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(self._interval)

    def reloading(self) -> None:
        """The end of it is told by `reloaded`. With the time, the manager knows which of its demands this answers."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        self._tell("READY=1")

    def stopping(self, within: float) -> None:
        """`within`: seconds that the requests in flight may take, however soon the manager would lose patience."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int((within + _TO_EXIT) * 1e6)}")

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        # With @ begins an abstract name (unix(7)).
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0)
                sock.sendto("\n".join(assignments).encode(), address)
        except OSError as exc:
            self._unheard(exc)
        else:
            self._is_heard = True

    def _unheard(self, exc: OSError) -> None:
        """One line, however often it is told in vain."""
        if self._is_heard:
            self._log.warning("service_manager_unreachable", reason=exc.strerror, hint="NOTIFY_SOCKET names its socket")
        self._is_heard = False
