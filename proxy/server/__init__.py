"""The data port: aiohttp's low-level server with a strict handler of its own.

aiohttp accepts connections, parses requests and does flow control. What is done with a request, every byte that answers
it and when a connection ends is decided here: a request costs no task, no request object and no response object.
"""

from proxy.server.port import DataPort

__all__ = ["DataPort"]
