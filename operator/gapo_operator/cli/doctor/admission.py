"""Whether a namespace would take a pod of a run: asked of the API server itself, by a pod that it does not keep."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gapo.api.load import load_document
from gapo.api.run import API_VERSION
from gapo.errors import GapoError
from gapo.planning.observation import Observation
from gapo.planning.plan import RunFacts
from gapo.planning.planner import plan
from gapo_operator.cli.client import Cluster, RefusedError
from gapo_operator.cli.doctor.finding import Finding, fail, ok, warn
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.resource_paths import core_path
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner
from gapo_operator.render.threads import with_threads


async def admission(cluster: Cluster, config: OperatorConfig) -> list[Finding]:
    """Pod security, quotas, limit ranges and the cluster's own policies judge it as they would the real one."""
    check = "admission"
    allowed = [one.name for one in config.storage_locations if one.allows(cluster.namespace)]
    if not allowed:
        return []  # said elsewhere
    path = core_path(cluster.namespace, "pods")
    try:
        await cluster.send(
            "POST", path, example_pod(cluster.namespace, allowed[0], config), query={"dryRun": "All"}
        )
    except RefusedError as error:
        if error.status == 403 and "cannot create resource" in str(error):
            return [
                warn(
                    check,
                    f"you may not create pods in namespace {cluster.namespace}, so that none can be tried",
                )
            ]
        if error.status == 404:
            return []
        message = f"a pod of a run would be refused: {str(error).partition('; ask an administrator')[0]}"
        return [
            fail(
                check,
                message,
                "the message names the policy or quota; runs that ask for other amounts may pass",
            )
        ]
    except GapoError as error:
        return [warn(check, str(error))]
    return [ok(check, f"namespace {cluster.namespace} would take a pod of a run")]


def example_pod(namespace: str, location: str, config: OperatorConfig) -> dict[str, Any]:
    """The first pod of a small run, as the operator would have it created."""
    document = {
        "apiVersion": API_VERSION,
        "kind": "GapoRun",
        "metadata": {"name": "doctor", "namespace": namespace},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "storage": {"location": location},
        },
    }
    loaded = load_document(document, where="doctor", base=Path("/"))
    (task, *_) = plan(RunFacts(loaded.run_id, loaded.spec), Observation(), datetime.now(UTC)).start
    owner = Owner("doctor", namespace, loaded.run_id)
    rendered = job(with_threads(task, loaded.spec), loaded.spec, owner, config, claim=0)
    template = rendered["spec"]["template"]
    metadata = {**template["metadata"], "generateName": "gapo-doctor-", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
