"""What the operator should know of a configuration that is not wrong."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from proxy.config.checks import secret_refs
from proxy.config.schema import Problem, holds
from proxy.settings import Settings, leaves

# What can be configured and does nothing in this version. A key here stands for those below it too.
_WITHOUT_EFFECT: Mapping[str, str] = {
    "upstream.egress_proxy": "the upstream is reached directly",
    "tracing": "nothing is traced",
}


def notes(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """What the proxy can run with."""
    yield from _unprotected(settings)
    yield from _without_effect(settings)
    yield from _exposed_secrets(settings, environ)


def _unprotected(settings: Settings) -> Iterator[Problem]:
    if not settings.listen.address.is_loopback:
        yield Problem("listen.address", "whoever can connect to it uses the API with this proxy's credentials")
    if settings.upstream.url.startswith("http:") and settings.upstream.insecure:
        yield Problem("upstream.insecure", "the token is sent without encryption")


def _without_effect(settings: Settings) -> Iterator[Problem]:
    default = dict(leaves(Settings()))
    changed = [key for key, value in leaves(settings) if default.get(key) != value]
    for key, text in _WITHOUT_EFFECT.items():
        if any(holds(key, name) for name in changed):
            yield Problem(key, f"has no effect in this version: {text}")


def _exposed_secrets(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Files that others may read (R148). Those of root are mounts, whose mode is not the operator's to change."""
    for key, secret in secret_refs(settings):
        path = secret.file(environ)
        if path and os.access(path, os.R_OK):
            status = Path(path).stat()
            if status.st_uid and status.st_mode & 0o077:
                yield Problem(key, f"other users may read the file {path}; chmod 600 {path}")
