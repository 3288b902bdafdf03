"""Who asks the API server, and where that is: a pod's service account, or a kubeconfig.

The Kubernetes library is imported only here and when somebody connects: a command that talks to no cluster starts
without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gapo.errors import ClusterError, NoClusterError

if TYPE_CHECKING:
    from kubernetes.aio import client

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What the kubelet puts into a pod: token, ca.crt, namespace."""


def has_service_account() -> bool:
    return (SERVICE_ACCOUNT / "token").is_file()


def load_service_account(settings: client.Configuration) -> None:
    """Fills in address and credentials; the library reads the token anew as the kubelet replaces it. Raises ClusterError
    where the pod lacks something of it."""
    from kubernetes.aio import config

    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise ClusterError(f"{SERVICE_ACCOUNT}: {error}") from None


async def load_kubeconfig(
    settings: client.Configuration, file: Path | None = None, context: str | None = None, *, hint: str
) -> str:
    """Fills in address and credentials; returns the context's namespace. Without a file it is KUBECONFIG's, then
    ~/.kube/config, as for kubectl.

    Raises NoClusterError, with the hint, where no such file is there, ClusterError where it cannot be used.
    """
    from kubernetes.aio import config
    from yaml import YAMLError

    named = str(file) if file else os.environ.get("KUBECONFIG") or "~/.kube/config"
    if not any(Path(part).expanduser().is_file() for part in named.split(os.pathsep) if part):
        raise NoClusterError(f"no kubeconfig at {named}; {hint}")
    try:
        loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=named, context=context, client_configuration=settings, persist_config=False
        )
    except config.ConfigException as error:
        in_context = f"context {context!r}: " if context else ""
        raise ClusterError(f"{named}: {in_context}{error}") from None
    except (YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        raise ClusterError(f"{named}: not a kubeconfig: {' '.join(str(error).split())}") from None
    return str(loader.current_context["context"].get("namespace") or "default")
