"""The whole way from file, environment and command line to Settings."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from proxy.config import sources
from proxy.config.checks import problems, secret_problems, secret_refs
from proxy.config.notes import notes
from proxy.config.schema import Problem, Reading, holds
from proxy.core.text import one_line
from proxy.errors import ConfigError
from proxy.settings import Settings, leaves

_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that can be used.

    `file`: its path, if there is one. `origin`: the file, or `defaults` where there is none. `origins`: for each dotted
    key `FILE:LINE`, `environment NAME`, `--set` or `default`. `notes`: what the operator should know, a sentence each.
    `again`: reads the same sources once more.
    """

    settings: Settings
    file: str | None
    origin: str
    origins: Mapping[str, str]
    notes: tuple[str, ...]
    again: Callable[[], "Loaded"]


def load(path: str | None, overrides: Sequence[str], environ: Mapping[str, str], *, secrets: bool = True) -> Loaded:
    """Reads `--set` (`overrides`: `KEY=VALUE`) over `environ` over the file over the defaults.

    `path`: the file of `-c`; None: the one that `environ` names, or the first that exists in the usual places.
    `secrets`: must they be readable?
    Raises ConfigError with all problems, each `KEY: sentence (ORIGIN)`, without the value: it may be a secret.
    """
    file = sources.read_file(path, environ)
    trees = [*sources.from_environment(environ), *sources.from_overrides(overrides)]
    reading = Reading()
    settings = reading.settings(sources.merged([file.root, *trees] if file else trees))
    found = [*reading.problems, *_secrets_on_command_line(settings, reading.origins)]
    wrong = [*problems(settings), *(secret_problems(settings, environ) if secrets else ())]
    found += [problem for problem in wrong if not _follows(problem, found)]
    if found:
        raise ConfigError(_sentences(found, reading.origins))
    return Loaded(
        settings=settings,
        file=file.name if file else None,
        origin=file.name if file else "defaults",
        origins={key: reading.origins.get(key, _DEFAULT) for key, _ in leaves(settings)},
        notes=tuple(_sentences(notes(settings, environ), {})),
        again=partial(load, path, overrides, environ, secrets=secrets),
    )


def _secrets_on_command_line(settings: Settings, origins: Mapping[str, str]) -> Iterator[Problem]:
    """Other users see the arguments of a process (R147)."""
    for key, secret in secret_refs(settings):
        if key.endswith(".client_secret") and secret.kind == "literal" and origins.get(key) == sources.COMMAND_LINE:
            yield Problem(key, f"must be {secret.form}: a secret is not accepted on the command line")
    if "@" in settings.oauth.store and origins.get("oauth.store") == sources.COMMAND_LINE:
        yield Problem("oauth.store", "must not hold a password here: put it into the file or THG_PROXY__OAUTH__STORE")


def _follows(problem: Problem, earlier: Iterable[Problem]) -> bool:
    """Is it about what is wrong already, or about a default that stands in for it?"""
    return any(holds(cause.key, problem.key) or holds(problem.key, cause.key) for cause in earlier)


def _sentences(found: Iterable[Problem], origins: Mapping[str, str]) -> list[str]:
    return [f"{one_line(key)}: {one_line(text)}{_place(origins.get(key))}" for key, text in found]


def _place(origin: str | None) -> str:
    return f" ({origin})" if origin else ""
