"""Asks the operator over HTTP: SECONDS HINT URL... Each URL must answer 200 in that time, /metrics with series of gapo;
else the hint tells where to look.

The address of a Service is taken from the environment where the kubelet has set it there: DNS may be missing.
"""

import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def address(url: str) -> str:
    """The URL with the Service's address for its name, where it is known."""
    host = urllib.parse.urlsplit(url).hostname or ""
    service = host.split(".")[0].upper().replace("-", "_")
    address = os.environ.get(f"{service}_SERVICE_HOST", "")
    return url.replace(host, f"[{address}]" if ":" in address else address, 1) if address else url


def trouble(url: str) -> str:
    """What is wrong with an answer; empty where it is as it should be."""
    try:
        with OPENER.open(address(url), timeout=5) as answer:
            body = answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read(500).decode(errors='replace').strip()}"
    except OSError as error:
        return str(error)
    return "no series of gapo" if url.endswith("/metrics") and "# TYPE gapo_" not in body else ""


deadline = time.monotonic() + float(sys.argv[1])
for url in sys.argv[3:]:
    while problem := trouble(url):
        if time.monotonic() > deadline:
            sys.exit(f"{url}: {problem}\nWhat the operator itself says: {sys.argv[2]}")
        time.sleep(1)
    sys.stdout.write(f"{url}: well\n")
