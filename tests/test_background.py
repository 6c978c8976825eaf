import asyncio
import subprocess
import sys

import pytest

from proxy.background import in_background


def test_result() -> None:
    """What the work returns is waited for."""
    assert asyncio.run(in_background(lambda: "done")) == "done"


def test_failure() -> None:
    """What the work raises is raised where it is waited for."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_background(lambda: 1 // 0))


HANGING = """
import asyncio, threading
from proxy.background import in_background

async def main():
    try:
        async with asyncio.timeout(0):
            await in_background(threading.Event().wait)
    except TimeoutError:
        print("gave up")

asyncio.run(main())
"""


def test_process_ends() -> None:
    """Work that never ends keeps neither the event loop nor the process from ending."""
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("gave up\n", "")
