"""Stands for an app: asks the API for its vehicles, as plain HTTP to loopback, without a token or a secret."""

import os
import time
import urllib.error
import urllib.request

API = os.environ.get("API", "http://127.0.0.1:8080")
# The environment's http_proxy is not for loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

while True:
    try:
        with OPENER.open(f"{API}/v1/vehicles", timeout=70) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as answer:
        print(answer.code, answer.read().decode())
    except OSError as exc:
        print("no answer:", exc)
    time.sleep(5)
