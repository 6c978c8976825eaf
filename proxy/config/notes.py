"""What the operator should know of a configuration that is not wrong."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from proxy.config.checks import secret_refs
from proxy.config.schema import Problem
from proxy.settings import Settings, Tracing


def notes(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """What the proxy can run with."""
    yield from _unprotected(settings)
    yield from _untraced(settings)
    yield from _exposed_secrets(settings, environ)
    yield from _replaceable_sockets(settings)


def _unprotected(settings: Settings) -> Iterator[Problem]:
    if not settings.listen.address.is_loopback:
        yield Problem("listen.address", "whoever can connect to it uses the API with this proxy's credentials")
    if settings.upstream.url.startswith("http:") and settings.upstream.insecure:
        yield Problem("upstream.insecure", "the token is sent without encryption")


def _untraced(settings: Settings) -> Iterator[Problem]:
    if settings.tracing.otlp_endpoint is None and settings.tracing != Tracing():
        yield Problem("tracing.sample", "has no effect without tracing.otlp_endpoint: nothing is traced")


def _exposed_secrets(settings: Settings, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Files that others may read (R148). Those of root are mounts, whose mode is not the operator's to change."""
    for key, secret in secret_refs(settings):
        path = secret.file(environ)
        if path and os.access(path, os.R_OK):
            status = Path(path).stat()
            if status.st_uid and status.st_mode & 0o077:
                yield Problem(key, f"other users may read the file {path}; {_closing(path, status)}")


def _closing(path: str, status: os.stat_result) -> str:
    """What can be done about it by the user who runs the proxy."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "it is on a read-only file system: give it the mode 0600 where that comes from"
    if os.geteuid() not in (0, status.st_uid):
        return f"it belongs to the user {status.st_uid}: use a file of this user's own, of mode 0600"
    return f"chmod 600 {path}"


def _replaceable_sockets(settings: Settings) -> Iterator[Problem]:
    """Who can write to a directory can put a socket of his own in the place of ours, and gets what the app sends."""
    for key, address in (("listen.address", settings.listen.address), ("admin.address", settings.admin.address)):
        directory = Path(address.path).parent if address.path is not None else None
        if directory is not None and directory.is_dir() and _others_write(directory.stat()):
            yield Problem(key, f"other users can replace the socket in {directory}; use a directory of this user's own")


def _others_write(directory: os.stat_result) -> bool:
    if directory.st_uid not in (0, os.geteuid()):
        return True
    return bool(directory.st_mode & 0o022) and not directory.st_mode & stat.S_ISVTX
