"""The walls of the house, read from the source: who may import whom, what stays pure, how large a module gets."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "proxy"
TESTS = ROOT / "tests"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# From the bottom to the top. A module imports from the rows below its own and from its own package, nothing else.
LAYERS = (
    ("errors",),
    ("core",),
    ("background", "keyring"),
    ("secret",),
    ("settings", "log_writer", "hardening", "steps", "outgoing"),
    ("log", "metrics", "deadline", "clock", "tls", "credential", "loop"),
    ("record", "notify", "otlp"),
    ("config",),
    ("admission", "metadata", "dpop"),
    ("stores", "idp", "upstream", "tracing"),
    ("verifier", "rotation", "watch"),
    ("vetting", "clients"),
    ("mint",),
    ("tokens",),
    ("forward", "engine", "identity"),
    ("server", "admin"),
    ("plane",),
    ("reload", "workers"),
    ("run",),
    ("demo", "doctor"),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

# What can block, wait, or tell the time, the place or the chance.
IMPURE = frozenset(
    {
        *("asyncio", "aiohttp", "aiofastnet", "uvloop", "httptools", "selectors", "threading", "concurrent"),
        *("multiprocessing", "subprocess", "signal", "queue", "contextvars"),
        *(
            "os",
            "sys",
            "io",
            "pathlib",
            "shutil",
            "tempfile",
            "socket",
            "ssl",
            "select",
            "urllib.request",
            "http.client",
        ),
        *("time", "random", "secrets", "uuid", "logging", "prometheus_client", "redis", "requests"),
    }
)

MAX_LINES = 370
MAX_FUNCTION_LINES = 60

# Modules without a test file of their own, and why.
_WHOLE_CONNECTIONS = "its subject is whole connections: tests/behaviour drives it in the real process"
TESTED_ELSEWHERE = {
    "server/connection.py": _WHOLE_CONNECTIONS,
    "server/port.py": _WHOLE_CONNECTIONS,
    "server/caller.py": _WHOLE_CONNECTIONS,
    "server/parsing.py": _WHOLE_CONNECTIONS,
    "server/wire.py": _WHOLE_CONNECTIONS,
    "upstream/response.py": "is read by a connection: tests/upstream/test_connection.py feeds it in every way",
    "admin/status.py": "makes the documents of the admin port: tests/admin/test_app.py reads them",
    "cli/steps.py": "prints what a step found: tests/cli/test_doctor.py reads it",
    "cli/admin.py": "asks the admin port for `wait`: tests/cli/test_wait.py",
    "credential.py": "values without a rule",
    "upstream/tunnel.py": "joins two connections and has no rule of its own: tests/test_forward.py opens tunnels",
    "engine.py": "joins parts and has no rule of its own: tests/behaviour/test_reload.py replaces it",
    "identity.py": "joins parts and has no rule of its own: tests/behaviour/test_reload.py replaces it",
    "outgoing.py": "has no rule of its own: tests/test_idp.py and tests/test_otlp.py see what is sent, and what is not",
    "plane.py": "a protocol: tests/behaviour has every test of a process that serves, and of several",
    "workers/child.py": "its subject is the process: tests/behaviour/test_workers.py",
    "workers/parent.py": "its subject is the process: tests/behaviour/test_workers.py",
    "server/plane.py": "its subject is the process: tests/behaviour serves with it",
    "server/drain.py": "its subject is the process: tests/behaviour/test_drain.py",
    "reload.py": "its subject is the process: tests/behaviour/test_reload.py",
    "run.py": "its subject is the process: start, signals and exit codes are in tests/behaviour/test_process.py",
    "cli/run.py": "hands its arguments to run.py: tests/behaviour starts every proxy with it",
    "vetting.py": "chooses between verifying and not: tests/test_tokens.py has every mode",
    "clock.py": "a protocol and one line: the tests of tokens.py and verifier.py hand in clocks of their own",
}
# Test files that mirror no module.
OTHER_TESTS = ("behaviour", "bench", "deploy", "fuzz", "conformance", "test_architecture.py", "test_readme.py")


def part_of(module: Path) -> str:
    """The part of the house that a file, relative to the package, belongs to."""
    return module.parts[0].removesuffix(".py")


def tree(module: Path) -> ast.Module:
    return ast.parse((PACKAGE / module).read_bytes())


def imports(module: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(module: Path) -> set[str]:
    """The parts of the house that a file imports from."""
    dotted = (name.split(".") for name in imports(module))
    return {name[1] for name in dotted if name[0] == "proxy" and len(name) > 1 and name[1] != "__version__"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_down(module: Path) -> None:
    """Nobody imports from above or from beside: a part can be understood, and tested, with what is below it."""
    part = part_of(module)
    if part == "__init__":
        assert not own_parts(module)
        return
    assert part in RANK, f"{part} has no place in the house"
    others = own_parts(module) - {part}
    assert others <= RANK.keys()
    assert not {other for other in others if RANK[other] >= RANK[part]}


def drawn() -> tuple[dict[str, str], set[tuple[str, str]]]:
    """Of the diagram in proxy/README.md: the box of each part, and the arrows between boxes."""
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    labels = dict(re.findall(r'(\w+)\["(.+?)"\]', diagram))
    arrows = set()
    for line in re.sub(r'\[".+?"\]', "", diagram).splitlines()[1:]:
        sources, targets = (side.strip().split(" & ") for side in line.split("-->"))
        arrows |= {(source, target) for source in sources for target in targets}
    boxes = {box for arrow in arrows for box in arrow}
    parts = [(part, box) for box in boxes for part in labels.get(box, box).split(", ")]
    assert len(parts) == len(dict(parts)), "a part is in two boxes"
    return dict(parts), arrows


def test_the_diagram_is_true() -> None:
    """proxy/README.md draws every part, and every import between boxes that does not follow from others."""
    box_of, arrows = drawn()
    assert box_of.keys() == RANK.keys()
    below: dict[str, set[str]] = {box: set() for box in box_of.values()}
    for module in MODULES:
        if module.as_posix() != "__init__.py":
            box = box_of[part_of(module)]
            below[box] |= {box_of[part] for part in own_parts(module)} - {box}

    def reached(box: str) -> set[str]:
        return below[box].union(*map(reached, below[box]))

    direct = {
        (box, target)
        for box, targets in below.items()
        for target in targets
        if not any(target in reached(other) for other in targets)
    }
    assert arrows == direct


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) == "core"], ids=str)
def test_the_core_is_pure(module: Path) -> None:
    """Nothing in core can wait, read a clock or the environment, or open anything: same input, same output."""
    names = set(imports(module))
    assert not IMPURE & (names | {name.split(".")[0] for name in names})
    for node in ast.walk(tree(module)):
        assert not isinstance(node, ast.AsyncFunctionDef)
        assert not (isinstance(node, ast.Name) and node.id in ("open", "input", "print", "exec", "eval", "__import__"))
        assert not (isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today"))


@pytest.mark.parametrize(
    "module", [module for module in MODULES if part_of(module) in ("upstream", "forward")], ids=str
)
def test_the_data_path_knows_no_tokens(module: Path) -> None:
    """Whoever moves the bytes gets finished requests: no token source, no identity provider, no log."""
    assert not own_parts(module) & {"tokens", "idp", "stores", "log", "config"}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_grows_without_bound(module: Path) -> None:
    """A module has one reason to change, and can be read in one sitting."""
    lines = (PACKAGE / module).read_text().count("\n")
    assert lines <= MAX_LINES


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_function_grows_without_bound(module: Path) -> None:
    """A function does one thing, and can be seen as a whole: the limits of `make lint` count all but its lines."""
    functions = [node for node in ast.walk(tree(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES}


def mirror(module: Path) -> Path:
    return TESTS / module.with_name(f"test_{module.name}")


@pytest.mark.parametrize(
    "module", [path for path in MODULES if path.name not in ("__init__.py", "__main__.py")], ids=str
)
def test_every_module_has_its_tests(module: Path) -> None:
    """The tests of proxy/a/b.py are in tests/a/test_b.py, but for the few that are listed with a reason."""
    is_listed = module.as_posix() in TESTED_ELSEWHERE
    assert mirror(module).exists() != is_listed


def test_every_test_file_has_its_module() -> None:
    """A test file that mirrors nothing is one that a move forgot."""
    found = (path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    mirrors = [path for path in found if path.parts[0] not in OTHER_TESTS]
    assert not [path for path in mirrors if path.with_name(path.name.removeprefix("test_")) not in MODULES]


def test_the_listed_exceptions_exist() -> None:
    """The list of exceptions names modules that there are."""
    assert {Path(name) for name in TESTED_ELSEWHERE} <= set(MODULES)
