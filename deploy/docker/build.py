"""Builds the image with the first of docker, podman and buildah that is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

TAG = "thg-proxy:dev"
BUILDERS = {"docker": ["build"], "podman": ["build"], "buildah": ["bud"]}


def main() -> int:
    for name, verb in BUILDERS.items():
        if path := shutil.which(name):
            root = Path(__file__).parents[2]
            return subprocess.run([path, *verb, "--tag", TAG, str(root)], check=False).returncode
    sys.stderr.write(f"none of these is installed: {', '.join(BUILDERS)}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
