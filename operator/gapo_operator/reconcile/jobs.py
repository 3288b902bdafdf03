"""Makes the cluster's Jobs what a pass has decided: creates those that must be there, deletes those that must go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from gapo.api.load import LoadedRun
from gapo.planning.observation import AttemptKey
from gapo.reasons import Reason
from gapo.tasks import Task
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.client import Kube, KubeError
from gapo_operator.kube.job_revision import asked_of
from gapo_operator.kube.job_states import AttemptJob, JobState, Problem, is_unfinished_job_of
from gapo_operator.kube.leader import Leadership
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.reconcile.backoff import Refusals
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.pass_failure import RETRY_SECONDS
from gapo_operator.reconcile.problems import refusal_of
from gapo_operator.reconcile.run_memory import RunMemory
from gapo_operator.render.job import job
from gapo_operator.render.names import ASKED_ANNOTATION, Owner, attempt_name, job_name
from gapo_operator.render.pod_group import GROUP_ANNOTATION, pod_group
from gapo_operator.watch.cache import ClusterView

log = logging.getLogger(__name__)

GIVE_WAY_SECONDS = 2.0
"""Until a Job of an earlier GapoRun of the same name is looked for again."""
CONFLICT_SECONDS = 60.0
"""After which the status names one that is still there, for somebody to delete it."""


@dataclass
class ApplyResult:
    """What the cluster refused in one pass, and after how many seconds to ask again because of it."""

    problem: Problem | None = None
    retry_after: float | None = None

    def refused(self, error: KubeError) -> None:
        self.problem, self.retry_after = refusal_of(error), RETRY_SECONDS


class JobControl:
    """Used from one event loop."""

    def __init__(
        self,
        view: ClusterView,
        kube: Kube,
        leadership: Leadership,
        refusals: Refusals,
        clock: Callable[[], datetime],
    ) -> None:
        self.view, self.kube, self.leadership = view, kube, leadership
        self.refusals, self.clock = refusals, clock

    async def delete_unfinished(self, key: RunKey, uid: str) -> None:
        """Deletes every Job of the run that has not ended."""
        for body in self.view.jobs(key):
            if is_unfinished_job_of(uid, body):
                self.leadership.check()
                metadata = body["metadata"]
                await self.kube.delete_job(key.namespace, metadata["name"], metadata["uid"])

    async def apply(
        self,
        key: RunKey,
        memory: RunMemory,
        run: Body,
        loaded: LoadedRun,
        outcome: Outcome,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        config: OperatorConfig,
    ) -> ApplyResult:
        """Deletes `outcome.stop` and creates `outcome.create`; of the latter those stay that are there then.

        Raises SpecError where a Job cannot be made of what the manifest says.
        """
        result = ApplyResult()
        owner = Owner(key.name, key.namespace, loaded.run_id, str(run["metadata"]["uid"]))
        await self._own_groups(key, memory, result)
        await self._stop(owner, loaded, outcome, attempt_jobs, result)
        for task in list(outcome.create):
            if not await self._create(
                key, memory, owner, loaded, outcome, task, attempt_jobs, config, result
            ):
                outcome.create.remove(task)  # no event says that it has started
        if result.problem is not None and result.problem.reason != Reason.API_UNAVAILABLE:
            # A quota or an admission policy: no event tells when it would take the Job.
            result.retry_after = self.refusals.refused(key)
        else:
            self.refusals.forget(key)
        return result

    async def _own_groups(self, key: RunKey, memory: RunMemory, result: ApplyResult) -> None:
        """Makes each PodGroup its Job's own, once that is there: it then goes with it, whoever deletes that."""
        for body in self.view.jobs(key):
            metadata = body["metadata"]
            in_group = GROUP_ANNOTATION in (metadata.get("annotations") or {})
            if (
                not in_group
                or metadata["uid"] in memory.owned_groups
                or not is_unfinished_job_of(memory.uid, body)
            ):
                continue
            self.leadership.check()
            try:
                await self.kube.own_pod_group(key.namespace, metadata["name"], metadata["uid"])
            except KubeError as error:
                result.refused(error)
                return
            memory.owned_groups.add(metadata["uid"])

    async def _stop(
        self,
        owner: Owner,
        loaded: LoadedRun,
        outcome: Outcome,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        result: ApplyResult,
    ) -> None:
        for attempt in outcome.stop:
            self.leadership.check()
            attempt_job = attempt_jobs.get(attempt)
            if attempt_job is not None and attempt_job.state is JobState.STOPPING:
                continue  # on its way out, or not ours to delete
            name = attempt_name(owner, attempt.task, attempt.attempt)
            try:
                await self.kube.delete_job(owner.namespace, name, attempt_job.uid if attempt_job else None)
                if loaded.spec.scheduling.scheduler == "volcano":
                    await self.kube.delete_pod_group(owner.namespace, name)
            except KubeError as error:
                result.refused(error)

    async def _create(
        self,
        key: RunKey,
        memory: RunMemory,
        owner: Owner,
        loaded: LoadedRun,
        outcome: Outcome,
        task: Task,
        attempt_jobs: Mapping[AttemptKey, AttemptJob],
        config: OperatorConfig,
        result: ApplyResult,
    ) -> bool:
        """Creates one Job; False where it is not there then."""
        config = _with_image(config, outcome.record.default_image)
        manifest = job(task, loaded.spec, owner, config, claim=outcome.claim)
        manifest["metadata"]["annotations"][ASKED_ANNOTATION] = asked_of(
            task.kind, loaded.spec, owner.namespace, config
        )
        self.leadership.check()
        try:
            group = pod_group(manifest, loaded.spec)
            if group is not None:
                await self.kube.apply_pod_group(group)  # first: Volcano may refuse a pod that lacks it
            created = await self.kube.create_job(manifest)
        except KubeError as error:
            result.refused(error)
            return False
        if created is None:
            self._give_way(memory, job_name(owner, task), attempt_jobs, result)
            return False
        memory.jobs_in_the_way.clear()
        self.view.observe("jobs", created, deleted=False)
        log.info("%s: job %s created", key, manifest["metadata"]["name"])
        return True

    def _give_way(
        self, memory: RunMemory, name: str, attempt_jobs: Mapping[AttemptKey, AttemptJob], result: ApplyResult
    ) -> None:
        """A Job of that name is there: ours and not heard of yet, an earlier run's on its way out, or a stranger's."""
        if name in {attempt_job.name for attempt_job in attempt_jobs.values()}:
            return
        since = memory.jobs_in_the_way.setdefault(name, self.clock())
        result.retry_after = GIVE_WAY_SECONDS
        if (self.clock() - since).total_seconds() >= CONFLICT_SECONDS:
            text = f"a Job of that name is there and is not this run's: kubectl delete job {name}"
            result.problem = Problem(Reason.JOB_CONFLICT, f"{name}: {text}")


def _with_image(config: OperatorConfig, image: str | None) -> OperatorConfig:
    """The configuration with the image that the run began with."""
    if image is None or image == config.trainer.image:
        return config
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"image": image})})
