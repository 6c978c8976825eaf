"""A page of documentation, as the tests read it: what it tells people to run, and where its links lead."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.peers import TIMEOUT

ROOT = Path(__file__).parents[2]


def commands(page: Path) -> list[str]:
    """Every line of the page's shell blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines() if line]


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub and GitLab make them: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of the page that lead to no file of the repository, or to no heading of this page."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    inner = anchors(page)
    return [
        link
        for link in links
        if "://" not in link
        and not (link[1:] in inner if link.startswith("#") else (page.parent / link.partition("#")[0]).exists())
    ]


def shell(command: str, directory: Path, environment: Mapping[str, str]) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def running(command: str, directory: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """The command in the background; it ends as SIGTERM ends it."""
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(TIMEOUT)
