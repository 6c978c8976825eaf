"""What a worker inherits. How it is started, and how it ends: tests/behaviour/test_workers.py."""

import os

from proxy.workers.process import environment

SECRETS = {
    "THG_CLIENT_SECRET": "canary",
    "THG_CLIENT_SECRET_FILE": "/canary",
    "THG_PROXY__OAUTH__TOKEN_URL": "https://canary",
    "MY_OWN_NAME_FOR_IT": "canary",
    "AWS_SECRET_ACCESS_KEY": "canary",
    "CREDENTIALS_DIRECTORY": "/canary",
    "NOTIFY_SOCKET": "/canary",
}


def test_no_secret_is_inherited() -> None:
    """A secret can be in a variable of any name: what an interpreter goes by is kept, and nothing else (R147)."""
    kept = {"PATH": "/bin", "LC_ALL": "C", "SSL_CERT_FILE": "/ca.pem", "PYTHONASYNCIODEBUG": "1", "TZ": "UTC"}
    assert environment(SECRETS | kept, ["/a", "/b"]) == kept | {"PYTHONPATH": f"/a{os.pathsep}/b"}


def test_imports_come_from_where_the_parent_s_do() -> None:
    """A worker takes its code from no other place: not from the working directory, nor from a PYTHONPATH of its own."""
    assert environment({"PYTHONPATH": "/other"}, ["/a", ""]) == {"PYTHONPATH": "/a"}
