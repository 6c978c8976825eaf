"""Writes the lock files: each package that gets into the image or takes part in making it, with its hashes.

What is locked stays as long as it fits. All options are uv's: `--upgrade` takes the newest of everything,
`--upgrade-package NAME` of one.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What is in the image, what builds the wheel in it, and what lists its packages.
LOCKS = {
    "requirements.txt": [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["redis"]],
    "deploy/docker/requirements-build.txt": PROJECT["build-system"]["requires"],
    "deploy/docker/requirements-sbom.txt": PROJECT["dependency-groups"]["sbom"],
}


def lock(requirements: list[str], file: Path, *options: str) -> None:
    """`universal`: for every system and processor, from the oldest Python that the project supports."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "-"),
        *("--universal", "--python-version", PROJECT["project"]["requires-python"].removeprefix(">=")),
        *("--generate-hashes", "--no-annotate", "--custom-compile-command", "make lock"),
        *("--quiet", "--output-file", str(file), *options),
    ]
    subprocess.run(command, input="\n".join(requirements), text=True, check=True)


def main() -> None:
    for name, requirements in LOCKS.items():
        lock(requirements, ROOT / name, *sys.argv[1:])


if __name__ == "__main__":
    main()
