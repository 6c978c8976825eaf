"""A real Secret Service, as a Linux desktop has it: GNOME's, on a D-Bus session of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.behaviour.running import until
from tests.peers import TIMEOUT
from tests.real_parts import real_part

_PASSWORD = b"password of the keyring"
_IS_THERE = "import secretstorage as s; print(s.check_service_availability(s.dbus_init()))"
_LOCK = "import secretstorage as s; s.get_default_collection(s.dbus_init()).lock()"
# Nobody can see a prompt in this session, nor is it one of the machine's own.
_LEFT_OUT = ("DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND")
_DIRECTORIES = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")

# Nothing is started on demand, as in the session of a desktop: neither another keyring nor a prompt.
_BUS = """
<busconfig>
  <type>session</type>
  <listen>unix:dir=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


class SecretService:
    """`environment`: what a process needs of it, beside the machine's own, to be in this session."""

    def __init__(self, home: Path, daemon: str) -> None:
        self.environment = dict.fromkeys(_DIRECTORIES, str(home))
        self._daemon = daemon

    @contextmanager
    def running(self, *command: str, stdin: bytes = b"") -> Iterator[IO[bytes]]:
        """A program of the session; gives what it prints."""
        with subprocess.Popen(
            command,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(stdin)
            process.stdin.close()
            try:
                yield process.stdout
            finally:
                process.terminate()

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """With a keyring that is unlocked, and made where there is none."""
        with self.running(self._daemon, "--unlock", "--foreground", "--components=secrets", stdin=_PASSWORD):
            until(lambda: "True" in self.python("-c", _IS_THERE), "the Secret Service")
            yield

    def lock(self) -> None:
        self.python("-c", _LOCK)

    def set(self, service: str, name: str, secret: str) -> None:
        self.python("-m", "keyring", "set", service, name, stdin=f"{secret}\n")

    def get(self, service: str, name: str) -> str:
        return self.python("-m", "keyring", "get", service, name).rstrip("\n")

    @property
    def _environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
        return inherited | self.environment

    def python(self, *arguments: str, stdin: str = "") -> str:
        """What Python prints in this session."""
        command = (sys.executable, *arguments)
        done = subprocess.run(
            command, input=stdin, env=self._environ, capture_output=True, text=True, check=True, timeout=TIMEOUT
        )
        return done.stdout


@contextmanager
def secret_service() -> Iterator[SecretService]:
    """A session in which nobody has logged in."""
    bus = real_part("dbus-daemon", "dbus-daemon")
    daemon = real_part("gnome-keyring-daemon", "gnome-keyring")
    # The path of a socket is short, and pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="thg-") as directory:
        home = Path(directory)
        (home / "bus.conf").write_text(_BUS % home)
        service = SecretService(home, daemon)
        with service.running(bus, f"--config-file={home / 'bus.conf'}", "--nofork", "--print-address") as printed:
            service.environment["DBUS_SESSION_BUS_ADDRESS"] = printed.readline().decode().strip()
            yield service
