"""`thg-proxy wait`: for an entrypoint, an init step or a HEALTHCHECK."""

import time
from http import HTTPStatus

import click

from proxy.cli.admin import NoAnswer, ask, with_admin
from proxy.cli.options import duration
from proxy.cli.terminal import StatusLine
from proxy.core.text import one_line
from proxy.errors import ProxyError
from proxy.settings import Address, Duration

_INTERVAL = 0.2
_ANSWER_TIMEOUT = 2.0


class NotReady(ProxyError):
    code = "not_ready"
    title = "Not ready"
    exit_code = 3


class Progress:
    """What is being waited for, on stderr: on a terminal one line that is rewritten, elsewhere one for each change."""

    def __init__(self) -> None:
        self._line = StatusLine()
        self._began = time.monotonic()
        self._shown = ""

    def show(self, reason: str) -> None:
        if self._line.is_shown:
            self._line.show(f"waiting {time.monotonic() - self._began:.0f}s: {reason}")
        elif reason != self._shown:
            click.echo(f"waiting: {reason}", err=True)
        self._shown = reason

    def end(self) -> None:
        self._line.clear()


@click.command()
@with_admin
@click.option("--timeout", callback=duration, default="30s", show_default=True, help="How long to wait at most.")
def wait(admin: Address, timeout: Duration) -> None:
    """Wait until the proxy is ready: a usable token exists, and it is not stopping.

    Exit code 3 if that takes longer than the timeout.
    """
    end = time.monotonic() + timeout
    progress = Progress()
    try:
        while (reason := _obstacle(admin, end - time.monotonic())) is not None:
            if time.monotonic() + _INTERVAL > end:
                raise NotReady(f"not ready after {timeout}: {reason}")
            progress.show(reason)
            time.sleep(_INTERVAL)
    finally:
        progress.end()
    click.echo("ready")


def _obstacle(admin: Address, seconds_left: float) -> str | None:
    """Why the proxy is not ready, or None."""
    try:
        status, document = ask(admin, "GET", "/readyz", min(_ANSWER_TIMEOUT, max(_INTERVAL, seconds_left)))
    except NoAnswer as exc:
        return exc.detail
    if status == HTTPStatus.OK:
        return None
    return one_line(str(document.get("reason", f"{admin} answers {status}")))
