"""The dashboard: a page for people, made of static files, that shows `/status`. It asks no other host for anything."""

from importlib.resources import files
from typing import NamedTuple


class File(NamedTuple):
    content_type: str
    body: bytes


def dashboard() -> dict[str, File]:
    """The files by the path that they are served at."""
    directory = files("proxy.admin").joinpath("static")
    return {
        "/": File("text/html", directory.joinpath("index.html").read_bytes()),
        "/dashboard.css": File("text/css", directory.joinpath("dashboard.css").read_bytes()),
        "/dashboard.js": File("text/javascript", directory.joinpath("dashboard.js").read_bytes()),
    }
