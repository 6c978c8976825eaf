"""`thg-proxy stop`: for the end of a Kubernetes Job, whose sidecar must not outlive it."""

from http import HTTPStatus

import click

from proxy.cli.admin import Answer, ask, with_admin
from proxy.core.text import one_line
from proxy.errors import CallerRefused, NotAllowed, ProxyError
from proxy.settings import Address

_TIMEOUT = 5.0
_REASONS = {
    NotAllowed.code: "it is not allowed to be stopped: set admin.allow_stop: true in its configuration",
    CallerRefused.code: "it can be stopped only from its own machine or pod, on a loopback address",
}


class NotStopped(ProxyError):
    code = "not_stopped"
    title = "Not stopped"


@click.command()
@with_admin
def stop(admin: Address) -> None:
    """Ask a running proxy to drain and exit.

    It must have `admin.allow_stop: true`.
    """
    answer = ask(admin, "POST", "/stop", _TIMEOUT)
    if answer.status != HTTPStatus.ACCEPTED:
        raise NotStopped(f"{admin} does not stop: {_reason(answer)}")
    click.echo("stopping")


def _reason(answer: Answer) -> str:
    known = _REASONS.get(str(answer.document.get("code")))
    return known or one_line(str(answer.document.get("detail", f"it answers with status {answer.status}")))
