"""*Rollouts and GPUs*: how fast text is made and trained on, what waits for what, and who holds the GPUs at what price."""

from __future__ import annotations

from charts.dashboards.board import Board, Panels, Section, namespace_and_run, of_labels, price
from charts.dashboards.convergence import GPU_HOURS, marks
from charts.dashboards.expressions import OF_RUN, OF_TASKS, of_run, of_task, quantile, rate
from charts.dashboards.panels import Query, over_time, single

ROLES = f'label_values({{__name__=~"gapo_task_progress_ratio|up", {OF_RUN}}}, role)'
SERVER = "namespace, run, pod"
"""vLLM's pods carry the labels of tasks' pods; the scrape sets `run` and the like from them."""
OF_POD = "namespace, pod"


def board() -> Board:
    return Board(
        uid="gapo-rollouts",
        title="gapo / Rollouts and GPUs",
        text="How fast a run makes text and learns from it, what its tasks and servers wait for, which GPUs it holds and "
        "what they cost. Panels of vLLM, DCGM and Kueue stay empty where these are not installed and scraped.",
        variables=[*namespace_and_run(), of_labels("role", "Role", ROLES, several=True), price()],
        sections=[tasks(), servers(), gpus(), waiting()],
        marks=marks(),
    )


def tasks() -> Section:
    return Section(
        "Tasks",
        [
            *_pace(),
            *_progress(),
        ],
    )


def _pace() -> Panels:
    """How fast the running tasks work."""
    return [
        over_time(
            "Tokens made and trained on",
            "Tokens a second of the running tasks: sampled in rollouts, and passed through training. Tasks start and "
            "end, so gaps are no fault.",
            "none",
            [
                Query("sampled, {{role}}", _rate_of_task("generated_tokens_total")),
                Query("trained on, {{role}}", _rate_of_task("trained_tokens_total")),
            ],
        ),
        over_time(
            "Rollouts and skipped updates",
            "Rollouts a second, updates a second that PPO skipped because the reward model scored all rollouts "
            "alike, and figures a second that were no number. Only the first should be above 0.",
            "none",
            [
                Query("rollouts", _rate_of_task("rollouts_total", "namespace, run")),
                Query("skipped", _rate_of_task("skipped_updates_total", "namespace, run")),
                Query("no finite number", _rate_of_task("nonfinite_total", "namespace, run")),
            ],
        ),
        over_time(
            "Where the time of PPO goes",
            "Seconds of each second that pass in a phase: sampling rollouts, scoring them, the passes that PPO needs "
            "before its update, the update. The tallest is the one to speed up; while it samples, training waits.",
            "percentunit",
            [
                Query(
                    "{{kind}}",
                    rate("gapo_task_phase_seconds_total", "namespace, run, kind", OF_TASKS),
                )
            ],
            stacked=True,
        ),
    ]


def _progress() -> Panels:
    """How far the running tasks are, and what a loss would cost."""
    return [
        over_time(
            "Progress of the running task",
            "Share of the task that is done. It begins anew with each task; a line that stays level is a task that "
            "hangs or waits.",
            "percentunit",
            [Query("{{role}}", _of_task("progress_ratio"))],
        ),
        over_time(
            "Time left of the running task",
            "Expected time to the end of the task, from its own pace so far.",
            "s",
            [Query("{{role}}", _of_task("remaining_seconds"))],
        ),
        over_time(
            "Unsaved work",
            "Time since the last resume point, or since the start where there is none: what a preemption would "
            "cost now. It should fall back at every checkpoint.interval.",
            "s",
            [
                Query(
                    "{{role}}",
                    f"time() - ({_of_task('checkpoint_timestamp_seconds')} or "
                    f"{_of_task('start_timestamp_seconds')})",
                )
            ],
        ),
    ]


def servers() -> Section:
    return Section(
        "Rollout servers (vLLM)",
        [
            *_load(),
            *_delays(),
        ],
    )


def _load() -> Panels:
    """What each server does."""
    return [
        over_time(
            "Tokens of the servers",
            "Tokens a second that each server makes, and prompt tokens that it reads. One server far below the others "
            "gets less work, or is throttled.",
            "none",
            [
                Query("made, {{pod}}", rate("vllm:generation_tokens_total", SERVER, OF_RUN)),
                Query("read, {{pod}}", rate("vllm:prompt_tokens_total", SERVER, OF_RUN)),
            ],
        ),
        over_time(
            "Requests",
            "Requests in the batches of each server, and those that wait for room. A queue that never empties asks for "
            "another server or more memory for the cache.",
            "none",
            [
                Query("running, {{pod}}", f"sum by ({SERVER}) (vllm:num_requests_running{{{OF_RUN}}})"),
                Query("waiting, {{pod}}", f"sum by ({SERVER}) (vllm:num_requests_waiting{{{OF_RUN}}})"),
            ],
        ),
        over_time(
            "KV cache",
            "Share of the KV cache that is in use. At 100 % requests wait or are preempted; far below, the server could "
            "take more at a time.",
            "percentunit",
            [Query("{{pod}}", f"max by ({SERVER}) (vllm:kv_cache_usage_perc{{{OF_RUN}}})")],
        ),
    ]


def _delays() -> Panels:
    """What requests and publishing wait for."""
    return [
        over_time(
            "Waiting for the first token",
            "95 of 100 requests had their first token, and left the queue, within this time.",
            "s",
            [
                Query(
                    "first token, {{pod}}",
                    quantile(0.95, "vllm:time_to_first_token_seconds", SERVER, OF_RUN),
                ),
                Query("queue, {{pod}}", quantile(0.95, "vllm:request_queue_time_seconds", SERVER, OF_RUN)),
            ],
        ),
        over_time(
            "Publishing weights",
            "Mean time of a call by which weights are published into a server (POST /collective_rpc), as the server "
            "saw it. No text is made meanwhile; it should be small beside an iteration.",
            "s",
            [Query("{{pod}}", _mean_time('handler="/collective_rpc"'))],
        ),
        over_time(
            "Cache hits and evictions",
            "Share of prompt tokens found in the prefix cache (samples of one prompt share it), and requests a second "
            "that were thrown out of a full cache and begin anew.",
            "none",
            [
                Query(
                    "hits, {{pod}}",
                    f"{rate('vllm:prefix_cache_hits_total', SERVER, OF_RUN)} / "
                    f"{rate('vllm:prefix_cache_queries_total', SERVER, OF_RUN)}",
                ),
                Query("evictions, {{pod}}", rate("vllm:num_preemptions_total", SERVER, OF_RUN)),
            ],
        ),
    ]


def gpus() -> Section:
    return Section(
        "GPUs and their price",
        [
            over_time(
                "GPU in use",
                "Share of the time in which a kernel ran, by GPU of the run's pods. Held and idle is money lost; for one "
                "that mostly samples look at the servers' queue first.",
                "percent",
                [Query("{{role}}, GPU {{gpu}}, {{Hostname}}", _of_devices("DCGM_FI_DEV_GPU_UTIL"))],
            ),
            over_time(
                "GPU memory",
                "Used by each GPU of the run's pods, and free. With little free, the next longer batch fails.",
                "mbytes",
                [
                    Query("used, {{role}}, GPU {{gpu}}, {{Hostname}}", _of_devices("DCGM_FI_DEV_FB_USED")),
                    Query("free, {{role}}, GPU {{gpu}}, {{Hostname}}", _of_devices("DCGM_FI_DEV_FB_FREE")),
                ],
            ),
            over_time(
                "GPU power",
                "Power drawn. In use at 100 % but far below the card's limit, it waits for memory or for other cards.",
                "watt",
                [Query("{{role}}, GPU {{gpu}}, {{Hostname}}", _of_devices("DCGM_FI_DEV_POWER_USAGE"))],
            ),
            single(
                "GPU-hours by role",
                "GPUs held, times the time, of attempts that have ended, by the role that held them. 0 on CPUs.",
                "none",
                [Query("{{role}}", f"{of_run('gpu_seconds_total', 'role')} / 3600")],
                span=9,
                decimals=2,
            ),
            single(
                "Cost by role",
                "GPU-hours times the price above, in the price's currency.",
                "none",
                [Query("{{role}}", f"{of_run('gpu_seconds_total', 'role')} / 3600 * $price")],
                span=9,
                decimals=2,
            ),
            single(
                "Cost of the run",
                "All roles together, of attempts that have ended.",
                "none",
                [Query("cost", f"{GPU_HOURS} * $price")],
                span=6,
                decimals=2,
            ),
        ],
    )


def waiting() -> Section:
    return Section(
        "Waiting, and starting again",
        [
            over_time(
                "Queue of the namespace (Kueue)",
                "Workloads that wait in the local queues of the run's namespace. Inadmissible ones fit no quota as it is; "
                "waiting will not help them.",
                "none",
                [
                    Query(
                        "{{status}}, {{name}}",
                        _of_queues("kueue_local_queue_pending_workloads", "name, status"),
                    )
                ],
            ),
            over_time(
                "Time until admitted (Kueue)",
                "95 of 100 workloads of the namespace's queues were admitted within this time. It is no part of a stage's "
                "deadline.",
                "s",
                [
                    Query(
                        "{{name}}",
                        _with_run(
                            quantile(
                                0.95,
                                "kueue_local_queue_admission_wait_time_seconds",
                                "exported_namespace, name",
                                'exported_namespace="$namespace"',
                            )
                        ),
                    )
                ],
            ),
            over_time(
                "Attempts that ended",
                "Attempts of tasks that have ended so far, by cause; causes that have not come up are left out. What is not "
                "`committed` was work done twice, or the user's own stop.",
                "none",
                [Query("{{reason}}", f"{of_run('attempts_ended_total', 'reason')} > 0")],
            ),
        ],
    )


def _of_task(name: str) -> str:
    return of_task(name, "role", tasks=OF_TASKS)


def _rate_of_task(name: str, by: str = "namespace, run, role") -> str:
    return rate(f"gapo_task_{name}", by, OF_TASKS)


def _mean_time(where: str) -> str:
    took, calls = (
        rate(f"http_request_duration_seconds_{part}", SERVER, f"{OF_RUN}, {where}")
        for part in ("sum", "count")
    )
    return f"{took} / {calls}"


def _of_devices(name: str) -> str:
    """DCGM names the pod that holds a GPU, in labels that depend on how it is scraped; which run and role that pod is of,
    its own scrape says."""
    named = f'label_replace({name}, "pod", "$1", "exported_pod", "(.+)")'
    named = f'label_replace({named}, "namespace", "$1", "exported_namespace", "(.+)")'
    pods = f"max by ({OF_POD}, run, role) (up{{{OF_TASKS}}} >= bool 0)"
    return f"max by ({OF_POD}, gpu, Hostname) ({named}) * on ({OF_POD}) group_left (run, role) {pods}"


def _of_queues(name: str, by: str) -> str:
    return _with_run(f'sum by (exported_namespace, {by}) ({name}{{exported_namespace="$namespace"}})')


def _with_run(expression: str) -> str:
    """Queues know no run; they are shown where the run is in their namespace."""
    run = f"group by (namespace, run) (gapo_run_stage{{{OF_RUN}}})"
    run = f'label_replace({run}, "exported_namespace", "$1", "namespace", "(.+)")'
    return f"{expression} * on (exported_namespace) group_left (namespace, run) {run}"
