"""Builds the image with the first of docker, podman and buildah that works here; options go to its `build`."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TAG = "thg-proxy:dev"
# Images in the OCI format have no HEALTHCHECK.
BUILDERS = {
    "docker": ["build"],
    "podman": ["build", "--format", "docker"],
    "buildah": ["build", "--format", "docker"],
}


def works(program: str) -> bool:
    """Is it there, and can it do something? docker, for one, needs a daemon."""
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0


def main() -> int:
    builder = next(filter(works, BUILDERS), None)
    if builder is None:
        sys.stderr.write(f"none of these works here: {', '.join(BUILDERS)}\n")
        return 1
    version = runpy.run_path(str(ROOT / "proxy/__init__.py"))["__version__"]
    build = [builder, *BUILDERS[builder], "--build-arg", f"VERSION={version}", "--tag", TAG, *sys.argv[1:], str(ROOT)]
    return subprocess.run(build, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
