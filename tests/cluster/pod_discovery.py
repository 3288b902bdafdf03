"""Discovery of pods for a Prometheus that is built without Kubernetes' own, as Debian's is.

Lists pods with the service account of the pod that it runs in, and writes them to a file for `file_sd_configs`, with
the labels that Prometheus' discovery of role `pod` gives them: everything after it is as documented.
Started as `python -c TEXT FILE`; needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 0.5


def targets(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each port that a container of a pod with an address declares."""
    groups = []
    for pod in pods:
        address = pod["status"].get("podIP")
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []) if address else []:
                labels = {
                    "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
                    "__meta_kubernetes_pod_name": pod["metadata"]["name"],
                    "__meta_kubernetes_pod_phase": pod["status"]["phase"],
                    "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                }
                for name, value in pod["metadata"].get("labels", {}).items():
                    labels["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", name)] = value
                groups.append({"targets": [f"{address}:{port['containerPort']}"], "labels": labels})
    return groups


def listed() -> list[dict[str, Any]]:
    """All pods of the cluster."""
    host, port = (os.environ[f"KUBERNETES_SERVICE_{name}"] for name in ("HOST", "PORT"))
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/pods",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, context=trusted, timeout=10) as answer:  # noqa: S310
        pods: list[dict[str, Any]] = json.load(answer)["items"]
    return pods


def main(file: Path) -> None:
    while True:
        try:
            text = json.dumps(targets(listed()))
        except OSError as error:
            sys.stderr.write(f"{error}\n")
        else:
            draft = file.with_suffix(".tmp")
            draft.write_text(text)
            draft.replace(file)
        time.sleep(SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
