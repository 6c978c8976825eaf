"""Reads an SBOM (CycloneDX JSON) on stdin, and prints the licence of each package in it as a Markdown table."""

import json
import sys
from collections.abc import Iterator
from typing import Any

# What packages say without SPDX's names; the empty one repeats what such a package says in another place.
SPDX = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "",
}
# They declare nothing; read in the licence file that they bring.
IN_THEIR_FILES = {"aiofastnet": "MIT"}


def declared(component: dict[str, Any]) -> Iterator[str]:
    for entry in component.get("licenses", ()):
        text = entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        yield SPDX.get(text, text)


def licences(sbom: dict[str, Any]) -> dict[str, str]:
    """Of each package but this one; several licences of one that says no more are joined by commas."""
    packages = {component["name"].lower().replace("_", "-"): component for component in sbom["components"]}
    found = {name: ", ".join(sorted({*declared(packages[name])} - {""})) for name in sorted(packages)}
    return {name: text or IN_THEIR_FILES.get(name, "unknown") for name, text in found.items() if name != "thg-proxy"}


def main() -> None:
    rows = [f"| {name} | {text} |\n" for name, text in licences(json.load(sys.stdin)).items()]
    sys.stdout.writelines(["| package | licence |\n", "|---|---|\n", *rows])


if __name__ == "__main__":
    main()
