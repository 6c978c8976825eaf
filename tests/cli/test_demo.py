"""The options of `thg-proxy demo`."""

import pytest
from click.testing import CliRunner

from proxy.cli.demo import demo


@pytest.mark.parametrize(
    "option, value, complaint",
    [
        ("--ttl", "soon", "must be a duration"),
        ("--ttl", "1s", "must be at least 2s"),
        ("--port", "65536", "65535"),
        ("--admin-port", "-1", "0<=x"),
    ],
)
def test_a_bad_option_is_a_usage_error(option: str, value: str, complaint: str) -> None:
    """A bad value ends the command with 2 before anything is started, and says what is accepted (R165)."""
    result = CliRunner().invoke(demo, [option, value])
    assert result.exit_code == 2
    assert complaint in result.output


def test_help_shows_the_defaults() -> None:
    """The ports and the token's lifetime that are used without options are in the help."""
    output = CliRunner().invoke(demo, ["--help"]).output
    for default in ("8080", "9090", "60s"):
        assert default in output
