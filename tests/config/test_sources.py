import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import Loaded, load, sources
from proxy.errors import ConfigError
from proxy.settings import Address, Duration

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]

ENVIRON = {
    "THG_CLIENT_ID": "id",
    "THG_CLIENT_SECRET": "s3cr3t",
    "THG_PROXY__OAUTH__TOKEN_URL": "https://idp.example/token",
}
CANARY = "c4n4ry"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and another in place of /etc/thg-proxy."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(sources, "SYSTEM_FILE", "etc/config.yaml")
    return tmp_path


@pytest.fixture
def own(usual: Path) -> Path:
    """The user's own file, which is good."""
    own = usual / "home/.config/thg-proxy/config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("workers: 7")
    own.chmod(0o644)
    return own


def test_search_order(usual: Path, own: Path) -> None:
    """The file is that of -c, else that of THG_PROXY_CONFIG, else the first in the usual places, else none."""
    environ = ENVIRON | {"HOME": str(usual / "home")}
    own.rename(usual / "later")
    assert load(None, [], environ).origin == "defaults"
    (usual / "etc/config.yaml").touch()
    assert load(None, [], environ).origin == "etc/config.yaml"
    (usual / "later").rename(own)
    loaded = load(None, [], environ)
    assert (loaded.origin, loaded.file, loaded.settings.workers) == (str(own), str(own), 7)
    (usual / "thg-proxy.yaml").touch()
    assert load(None, [], environ).origin == "thg-proxy.yaml"
    (usual / "named.yaml").touch()
    environ["THG_PROXY_CONFIG"] = "named.yaml"
    assert load(None, [], environ).origin == "named.yaml"
    (usual / "given.yaml").touch()
    assert load("given.yaml", [], environ).origin == "given.yaml"


@pytest.mark.parametrize(
    "environ, place",
    [
        ({"HOME": "/home/me"}, "/home/me/.config/thg-proxy/config.yaml"),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": "/etc/me"}, "/etc/me/thg-proxy/config.yaml"),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": ""}, "/home/me/.config/thg-proxy/config.yaml"),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": "relative"}, "/home/me/.config/thg-proxy/config.yaml"),
        ({"XDG_CONFIG_HOME": "/etc/me"}, "/etc/me/thg-proxy/config.yaml"),
        ({"HOME": "/"}, "/.config/thg-proxy/config.yaml"),
        ({}, None),
        ({"HOME": ""}, None),
        ({"HOME": "relative"}, None),
    ],
)
def test_place_of_the_user(environ: dict[str, str], place: str | None) -> None:
    """What the environment says, and nothing where it says nothing: a container without HOME has no such place."""
    assert sources.user_file(environ) == place


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent", "/proc/1/root/nowhere"])
def test_home_that_is_none(usual: Path, home: str) -> None:
    """System users have all kinds of homes; what is not there is not read."""
    assert load(None, [], ENVIRON | {"HOME": home}).origin == "defaults"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_file_of_another_user(usual: Path, own: Path) -> None:
    """Who is given another's home, as by sudo, does not take the configuration in it, unless it is named (R148)."""
    os.chown(own, 65534, -1)
    environ = ENVIRON | {"HOME": str(usual / "home")}
    with pytest.raises(ConfigError, match="the file belongs to another user; if it is the right one, name it with -c"):
        load(None, [], environ)
    assert load(str(own), [], environ).settings.workers == 7
    assert load(None, [], environ | {"THG_PROXY_CONFIG": str(own)}).settings.workers == 7


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_file_that_others_may_write(usual: Path, own: Path, mode: int) -> None:
    """Who writes the configuration says where the secret goes: nobody else may (R148)."""
    own.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load(None, [], ENVIRON | {"HOME": str(usual / "home")})
    assert caught.value.problems == (f"{own}: other users may write the file; chmod go-w {own}",)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_local_file_of_another_user(usual: Path) -> None:
    """Who starts the proxy in a directory for all does not take what somebody has left there, unless it is named."""
    path = usual / "thg-proxy.yaml"
    path.write_text("workers: 7")
    os.chown(path, 65534, -1)
    with pytest.raises(ConfigError, match="the file belongs to another user; if it is the right one, name it with -c"):
        load(None, [], ENVIRON)
    assert load("thg-proxy.yaml", [], ENVIRON).settings.workers == 7


@pytest.mark.parametrize("mode, accepted", [(0o644, True), (0o664, True), (0o666, False)])
def test_local_file_that_all_may_write(usual: Path, mode: int, accepted: bool) -> None:
    """Many systems let a group write to what its users make; everybody is too many."""
    path = usual / "thg-proxy.yaml"
    path.write_text("workers: 7")
    path.chmod(mode)
    if accepted:
        assert load(None, [], ENVIRON).settings.workers == 7
        return
    with pytest.raises(ConfigError, match=r"other users may write the file; chmod go-w thg-proxy\.yaml"):
        load(None, [], ENVIRON)


# To whom the modes of files do not apply gives that up.
OBEDIENT = ("setpriv", "--reuid=65534", "--clear-groups") if os.geteuid() == 0 else ()


def test_closed_home(tmp_path: Path) -> None:
    """A home in which the user may not look, as one that a service was given by mistake, holds nothing for it."""
    home = tmp_path / "home"
    (home / ".config/thg-proxy").mkdir(parents=True)
    (home / ".config/thg-proxy/config.yaml").touch()
    home.chmod(0)
    try:
        done = subprocess.run(
            [*OBEDIENT, sys.executable, "-m", "proxy", "check"],
            cwd="/",
            env=ENVIRON | {"HOME": str(home), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        home.chmod(0o700)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("OK: defaults")


@pytest.mark.parametrize(
    "path, environ, problem",
    [
        ("nowhere.yaml", {}, "nowhere.yaml: there is no such file"),
        (None, {"THG_PROXY_CONFIG": "nowhere.yaml"}, "nowhere.yaml: there is no such file"),
        ("etc", {}, "etc: the file can't be read: Is a directory"),
    ],
)
def test_named_file_that_is_not_there(usual: Path, path: str | None, environ: dict[str, str], problem: str) -> None:
    """A file that was asked for must be there: the defaults do not stand in for it (R165)."""
    with pytest.raises(ConfigError) as caught:
        load(path, [], ENVIRON | environ)
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"\xff\xfe", "thg.yaml: the file is not UTF-8 text"),
        (b"#" * (1 << 20) + b"\n", "thg.yaml: the file is larger than 1 MiB"),
        (b"[a, b]", "thg.yaml: the file must be a mapping of keys to values"),
        (b"c4n4ry", "thg.yaml: the file must be a mapping of keys to values"),
        (b"a: 'c4n4ry", "thg.yaml: not valid YAML at line 1, column 11"),
    ],
)
def test_file_that_can_not_be_read(problems: Problems, content: bytes, problem: str) -> None:
    """A file that is no configuration is one sentence, which does not quote it (R165)."""
    (found,) = problems(content)
    assert found.startswith(problem)
    assert CANARY not in found


def test_byte_order_mark(load_text: Load) -> None:
    """A byte order mark, which some editors write, is no part of the first key."""
    assert load_text(b"\xef\xbb\xbfworkers: 3").settings.workers == 3


def test_order_of_sources(load_text: Load) -> None:
    """--set wins over the environment, the environment over the file, the file over the default; key by key."""
    text = "log: {level: debug, format: json, access: all}"
    environ = ENVIRON | {"THG_PROXY__LOG__FORMAT": "console", "THG_PROXY__LOG__ACCESS": "errors"}
    loaded = load_text(text, "log.access=errors", "log.access=off", environ=environ)
    log = loaded.settings.log
    assert (log.level, log.format, log.access, loaded.settings.workers) == ("debug", "console", "off", 1)
    assert {key: origin for key, origin in loaded.origins.items() if key.startswith(("log", "workers"))} == {
        "log.level": "thg.yaml:1",
        "log.format": "environment THG_PROXY__LOG__FORMAT",
        "log.access": "--set",
        "workers": "default",
    }


def test_no_file_is_needed(usual: Path) -> None:
    """A token URL and credentials in the environment are a whole configuration."""
    loaded = load(None, [], ENVIRON)
    assert loaded.settings.oauth.token_url == "https://idp.example/token"
    assert loaded.notes == ()


def test_other_variables(load_text: Load) -> None:
    """Variables that only look like ours are left alone."""
    others = {"THG_PROXY_ADMIN": "x", "THG_PROXY": "x", "THG_OTHER": "x", "thg_proxy__workers": "x"}
    assert load_text("", environ=ENVIRON | others).settings.workers == 1


@pytest.mark.parametrize(
    "override, expected",
    [
        ("listen.address=[::1]:8080", lambda s: s.listen.address == Address("::1", 8080)),
        ("upstream.connect_timeout=250ms", lambda s: s.upstream.connect_timeout == Duration(0.25)),
        ("limits.max_body=null", lambda s: s.limits.max_body is None),
        ("limits.max_body=", lambda s: s.limits.max_body is None),
        ("oauth.scope=a: b # c", lambda s: s.oauth.scope == "a: b # c"),
        ("oauth.scope=*", lambda s: s.oauth.scope == "*"),
        ("oauth.audience=a=b", lambda s: s.oauth.audience == "a=b"),
        ("policy.allowed_hosts=[a, b]", lambda s: s.policy.allowed_hosts == ("a", "b")),
        ("policy.browsers={allow_origins: ['https://a']}", lambda s: s.policy.browsers.allow_origins == ("https://a",)),
        ("policy.allow=[{path: /v1}]", lambda s: s.policy.allow[0].path == "/v1"),
        ("oauth.params={a: b}", lambda s: s.oauth.params == {"a": "b"}),
        ("upstream.headers.set.X-A=b: c", lambda s: s.upstream.headers.set == {"X-A": "b: c"}),
        ("upstream={via: false}", lambda s: s.upstream.via is False),
        ("oauth.clients=[{client_id: me}]", lambda s: s.oauth.clients[0].client_id.literal.reveal() == "me"),
    ],
)
def test_single_values(load_text: Load, override: str, expected: Callable[[object], bool]) -> None:
    """On the command line and in the environment text stays text, and lists and mappings are YAML."""
    key, _, text = override.partition("=")
    assert expected(load_text("", override).settings)
    if key == key.lower():
        name = f"THG_PROXY__{key.upper().replace('.', '__')}"
        assert expected(load_text("", environ=ENVIRON | {name: text}).settings)


@pytest.mark.parametrize(
    "override, problem",
    [
        ("upstream.conect_timeout=5s", "upstream.conect_timeout: unknown key; did you mean connect_timeout? (--set)"),
        (f"client_secret={CANARY}", "client_secret: unknown key; "),
        (f"oauth.client_secret={CANARY}", "oauth.client_secret: unknown key; did you mean "),
        ("log.level", "log.level: must be given as KEY=VALUE (--set)"),
        ("=x", ": unknown key; known here: listen"),
        (f"log.level={CANARY}", "log.level: must be one of debug, info, warning, error (--set)"),
        (f"oauth.params={{a: {CANARY}", "oauth.params: is not valid YAML at line 1, column 11: "),
        (f"oauth.clients=[{{client_secret: {CANARY}}}]", "oauth.clients[0].client_secret: must be {env: NAME}, "),
    ],
)
def test_bad_override(problems: Problems, override: str, problem: str) -> None:
    """What is wrong with --set begins with its key, and its value is not shown (R147, R165)."""
    (found,) = problems("", override)
    assert found.startswith(problem)
    assert CANARY not in found


def test_bad_variables(problems: Problems) -> None:
    """What is wrong with a variable names the key and the variable; a misspelled one is found too (R165)."""
    environ = ENVIRON | {"THG_PROXY__WORKER": "2", "THG_PROXY__LOG__LEVEL": CANARY, "THG_PROXY__LOG__ACCESS": "\udcff"}
    assert problems("", environ=environ) == [
        "log.access: holds a character that is not allowed (environment THG_PROXY__LOG__ACCESS)",
        "log.level: must be one of debug, info, warning, error (environment THG_PROXY__LOG__LEVEL)",
        "worker: unknown key; did you mean workers? (environment THG_PROXY__WORKER)",
    ]


def test_no_secret_on_the_command_line(problems: Problems) -> None:
    """Even where a literal secret would do, it is refused as an argument (R147)."""
    (problem,) = problems(
        "", "oauth.token_url=http://127.0.0.1/t", f"oauth.clients=[{{client_id: a, client_secret: {CANARY}}}]"
    )
    assert "a secret is not accepted on the command line" in problem
    assert CANARY not in problem


def test_no_password_on_the_command_line(problems: Problems) -> None:
    """That of a store neither; in the environment it is accepted (R147)."""
    url = f"redis://user:{CANARY}@127.0.0.1/0"
    (problem,) = problems("", f"oauth.store={url}")
    assert problem == (
        "oauth.store: must not hold a password here: put it into the file or THG_PROXY__OAUTH__STORE (--set)"
    )
    assert not problems("", environ=ENVIRON | {"THG_PROXY__OAUTH__STORE": url})


def test_doubled_key_is_not_hidden(problems: Problems) -> None:
    """A key that stands twice in the file is a problem, whatever overrides it (R165)."""
    (problem,) = problems("log: {level: info}\nlog: {level: debug}", "log.level=error")
    assert problem == "log: stands twice; keep one of them (thg.yaml:2)"
