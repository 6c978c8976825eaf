from collections.abc import Callable

import pytest

from proxy.config import Loaded

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]

CANARY = "c4n4ry"

MISTAKES = {
    "upstream: {conect_timeout: 5s}": "upstream.conect_timeout: unknown key; did you mean connect_timeout?",
    "upstream: {Connect-Timeout: 5s}": "upstream.Connect-Timeout: unknown key; did you mean connect_timeout?",
    "token_url: https://idp.example": "token_url: unknown key; did you mean oauth.token_url?",
    "upstream.tls.ca_file: a": "upstream.tls.ca_file: unknown key; keys are nested: upstream: {tls: {ca_file: ...}}",
    "upstream: {tls.ca_file: ca.pem}": "upstream.tls.ca_file: unknown key; keys are nested: tls: {ca_file: ...}",
    "foo.bar: 1": "foo.bar: unknown key; known here: ",
    "shutdown: {foo: 1}": "shutdown.foo: unknown key; known here: delay, grace",
    "oauth: {clients: [{name: a, secret: x}]}": "oauth.clients[0].secret: unknown key",
    "oauth: {refresh: {backoff: {maximum: 1s}}}": "oauth.refresh.backoff.maximum: unknown key; did you mean max?",
    "policy: {allow: [{path: /, verbs: [GET]}]}": "policy.allow[0].verbs: unknown key",
    "<<: {workers: 2}": "<<: unknown key",
    f"upstream: {{connect_timeout: {CANARY}}}": "upstream.connect_timeout: must be a duration such as 250ms, 5s,",
    "upstream: {connect_timeout: 5 s}": "upstream.connect_timeout: must be a duration",
    "upstream: {connect_timeout: -1}": "upstream.connect_timeout: must be a duration",
    "upstream: {connect_timeout: {s: 5}}": "upstream.connect_timeout: must be a duration",
    "upstream: {connect_timeout: }": "upstream.connect_timeout: must be a duration",
    "limits: {replay_body: 64KB}": "limits.replay_body: must be a size such as 512, 64KiB or 10MiB",
    "limits: {max_body: lots}": "limits.max_body: must be a size such as 512, 64KiB or 10MiB or null",
    "listen: {address: 8080}": "listen.address: must be HOST:PORT, [IPV6]:PORT or unix:/PATH",
    "listen: {address: 'https://a:80'}": "listen.address: must be HOST:PORT",
    "listen: {unsafe: yes}": "listen.unsafe: must be true or false",
    "workers: two": "workers: must be a whole number",
    "workers: 1.5": "workers: must be a whole number",
    "workers: [1]": "workers: must be a whole number",
    f"workers: {'9' * 5000}": "workers: must be a whole number",
    "tracing: {sample: half}": "tracing.sample: must be a number",
    f"log: {{level: {CANARY}}}": "log.level: must be one of debug, info, warning, error",
    "log: {level: null}": "log.level: must be one of debug",
    "log: loud": "log: must be a mapping of keys to values",
    "log: [level]": "log: must be a mapping of keys to values",
    "upstream: {url: null}": "upstream.url: must be text",
    "upstream: {url: [a]}": "upstream.url: must be text",
    "oauth: {scope: [a]}": "oauth.scope: must be text or null",
    "upstream: {headers: {remove: a}}": "upstream.headers.remove: must be a list such as [a, b]",
    "upstream: {headers: {set: [a]}}": "upstream.headers.set: must be a mapping of keys to values",
    "upstream: {headers: {set: {a: [b]}}}": "upstream.headers.set.a: must be text",
    "policy: {allowed_hosts: [a, [b]]}": "policy.allowed_hosts[1]: must be text",
    f"policy: {{browsers: {CANARY}}}": "policy.browsers: must be refuse or a mapping of keys to values",
    "policy: {browsers: {}}": "policy.browsers.allow_origins: is required",
    "policy: {require_header: {name: a}}": "policy.require_header.value: is required",
    "policy: {allow: none}": "policy.allow: must be all or a list such as [a, b]",
    "policy: {allow: [{methods: [GET]}]}": "policy.allow[0].path: is required",
    "policy: {allow: [{path: [/]}]}": "policy.allow[0].path: must be text",
    "oauth: {clients: [a]}": "oauth.clients[0]: must be a mapping of keys to values",
    f"oauth: {{clients: [{{client_secret: {{value: {CANARY}}}}}]}}": "oauth.clients[0].client_secret: must be {env:",
    f"oauth: {{clients: [{{client_secret: [{CANARY}]}}]}}": "oauth.clients[0].client_secret: must be {env:",
    f"oauth: {{clients: [{{client_secret: {{{CANARY}}}}}]}}": "oauth.clients[0].client_secret: must be {env:",
    f"oauth: {{clients: [{{client_secret: {{keyring: {CANARY}}}}}]}}": "oauth.clients[0].client_secret: must be {env:",
    "oauth: {clients: [{client_secret: }]}": "oauth.clients[0].client_secret: must be {env:",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistake(problems: Problems, text: str) -> None:
    """A wrong type or key is one sentence, which says what is wanted and never what was given (R165)."""
    (problem,) = problems(text)
    assert problem.startswith(MISTAKES[text])
    assert CANARY not in problem


def test_all_at_once(problems: Problems) -> None:
    """Every fault of every kind is named in one go, with the line it is on (R165)."""
    text = """
upstream:
  url: http://api.example
  max_connections: many
  timeout: 5s
log: {level: loud}
workers: 0
"""
    assert [problem.rpartition(" ")[2] for problem in problems(text)] == [
        "(thg.yaml:4)",
        "(thg.yaml:5)",
        "(thg.yaml:6)",
        "(thg.yaml:7)",
        "(thg.yaml:3)",
    ]


def test_no_problem_for_what_was_not_read(problems: Problems) -> None:
    """A value that can't be read is one problem: its default is not judged in its place (R165)."""
    assert len(problems("oauth: {token_url: [a]}", environ={"THG_CLIENT_ID": "a", "THG_CLIENT_SECRET": "b"})) == 1
    assert len(problems("oauth: {clients: [{client_id: [a], client_secret: {file: }}]}", environ={})) == 3


def test_words_stay_words(load_text: Load) -> None:
    """A scalar is what its key wants: `off`, `0600` and `12` are text where text is wanted."""
    settings = load_text(
        "{log: {access: off}, oauth: {verify: {mode: off}, scope: 12, audience: 'null'}, listen: {unix_mode: 0600}}"
    ).settings
    assert (settings.log.access, settings.oauth.verify.mode) == ("off", "off")
    assert (settings.oauth.scope, settings.oauth.audience, settings.listen.unix_mode) == ("12", "null", "0600")


def test_empty_section(load_text: Load) -> None:
    """A section with nothing below it, as when all its lines are comments, is all defaults."""
    assert load_text("upstream:\noauth: {params: , refresh: ~}").settings == load_text("").settings


def test_unknown_keys_are_cut_and_escaped(problems: Problems) -> None:
    """A key can't break the line or flood the terminal (R165)."""
    (problem,) = problems(f'"a\\n\\e[31m{"x" * 500}": 1')
    assert problem.startswith("a\\n\\x1b[31mxxx")
    assert len(problem) < 300


def test_names_in_problems_are_escaped(problems: Problems) -> None:
    """The name of a source is shown, on the one line of its problem (R165)."""
    (problem,) = problems('oauth: {clients: [{client_id: {env: "A\\nB"}}]}')
    assert "the environment variable A\\nB is not set" in problem
