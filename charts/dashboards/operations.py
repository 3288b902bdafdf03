"""*Operator*: does the operator get on with its work, and if not, what holds it up: itself, the API server, or storage?"""

from __future__ import annotations

from charts.dashboards.board import Board, Section, of_labels
from charts.dashboards.expressions import quantile, rate
from charts.dashboards.panels import Query, over_time, single

OF_OPERATOR = 'namespace="$namespace", instance=~"$instance"'
BY = "namespace, instance"


def board() -> Board:
    return Board(
        uid="gapo-operator",
        title="gapo / Operator",
        text="How the operator works through its runs. Namespace is that of the operator. Of several replicas one leads "
        "and works; the others wait.",
        variables=[
            of_labels("namespace", "Namespace of the operator", "label_values(gapo_build_info, namespace)"),
            of_labels(
                "instance", "Instance", 'label_values(gapo_build_info{namespace="$namespace"}, instance)',
                several=True,
            ),
        ],
        sections=[state(), work(), kubernetes(), storage(), process()],
    )  # fmt: skip


def state() -> Section:
    return Section(
        "At a glance",
        [
            single(
                "Leads",
                "1 where this process holds the Lease. The sum over all instances must be 1: 0 means that nothing starts.",
                "none",
                [Query("{{instance}}", _gauge("gapo_leader"))],
                span=4,
            ),
            single(
                "Version",
                "What runs. Two versions for longer than an upgrade takes are a Deployment that is stuck.",
                "none",
                [Query("{{version}}", f"max by ({BY}, version) (gapo_build_info{{{OF_OPERATOR}}})")],
                names=True,
                span=4,
            ),
            single(
                "Up for",
                "Time since the process started. A small number again and again is a crash loop.",
                "s",
                [Query("{{instance}}", f"time() - {_gauge('process_start_time_seconds')}")],
                span=4,
            ),
            single(
                "Last full listing",
                "Time since everything was last listed anew, which happens every 5 minutes whatever the watches say.",
                "s",
                [Query("{{instance}}", f"time() - {_gauge('gapo_resync_timestamp_seconds')}")],
                span=4,
            ),
            single(
                "Storage left alone",
                "Storage locations that failed and are left alone for a while. Runs there stand still; others do not.",
                "none",
                [Query("{{instance}}", _gauge("gapo_object_store_paused_locations"))],
                span=4,
            ),
            single(
                "Finished runs to read",
                "Finished runs whose figures are still to be read from storage after a start. Until it is 0 their series "
                "are missing.",
                "none",
                [Query("{{instance}}", _gauge("gapo_runs_unread"))],
                span=4,
            ),
        ],
    )


def work() -> Section:
    return Section(
        "Work",
        [
            over_time(
                "Passes",
                "Passes over runs a second, and those that are under way. An idle run is looked at about every 10 s.",
                "none",
                [
                    Query("a second, {{instance}}", _rate("gapo_reconcile_duration_seconds_count")),
                    Query("under way, {{instance}}", _gauge("gapo_reconcile_active")),
                ],
            ),
            over_time(
                "Time of a pass",
                "Half, 95 and 99 of 100 passes took at most this. Storage is most of it; compare with its requests below.",
                "s",
                _quantiles("gapo_reconcile_duration_seconds", (0.5, 0.95, 0.99)),
            ),
            over_time(
                "Passes that failed",
                "A second, by what failed: kubernetes, storage, or internal, which is a bug. A failed pass is repeated.",
                "none",
                [Query("{{kind}}, {{instance}}", _rate("gapo_reconcile_errors_total", "kind"))],
            ),
            over_time(
                "Queue",
                "Runs that wait for their next pass, due or not. It follows the number of unfinished runs.",
                "none",
                [Query("{{instance}}", _gauge("gapo_queue_depth"))],
            ),
            over_time(
                "Waiting for a pass",
                "From when a run's pass was due until it began. Seconds here mean that runs advance late.",
                "s",
                _quantiles("gapo_queue_wait_seconds", (0.5, 0.95)),
            ),
            over_time(
                "Runs by state",
                "All GapoRuns that the leader sees. Stalled ones wait for somebody; Pending that stays is a cluster that is "
                "full, or an operator that is late.",
                "none",
                [
                    Query(
                        "{{status}}",
                        f"max by (namespace, status) (gapo_runs{{{OF_OPERATOR}}})",
                    )
                ],
                stacked=True,
            ),
            over_time(
                "Stages decided",
                "Stages that this process decided, a second, by verdict. Many rolled back or stopped: see the runs.",
                "none",
                [Query("{{reason}}, {{instance}}", _rate("gapo_decisions_total", "reason"))],
                span=24,
            ),
        ],
    )


def kubernetes() -> Section:
    requests = "gapo_kubernetes_request_duration_seconds"
    return Section(
        "Requests to the API server",
        [
            over_time(
                "API requests by verb",
                "Requests a second. Watches are not counted; a run that is idle costs next to none.",
                "none",
                [Query("{{op}}", _rate(f"{requests}_count", "op"))],
            ),
            over_time(
                "API answers other than success",
                "A second, by HTTP status; 0 is no answer at all. 404 and 409 belong to normal work, 403 is a right that "
                "is missing, 429 and 5xx are an API server in trouble.",
                "none",
                [Query("{{code}}", _rate(f"{requests}_count", "code", 'code!~"2.."'))],
            ),
            over_time(
                "Time of API requests",
                "95 of 100 requests of a verb took at most this.",
                "s",
                [Query("{{op}}", quantile(0.95, requests, f"{BY}, op", OF_OPERATOR))],
            ),
        ],
    )


def storage() -> Section:
    requests = "gapo_object_store_request_duration_seconds"
    return Section(
        "Requests to object storage",
        [
            over_time(
                "Storage requests by operation and outcome",
                "Requests a second. absent and unchanged are what polling finds; refused is a right that is missing, "
                "failed a service in trouble.",
                "none",
                [Query("{{op}} {{code}}", _rate(f"{requests}_count", "op, code"))],
            ),
            over_time(
                "Time of storage requests",
                "95 of 100 requests of an operation took at most this, retries included.",
                "s",
                [Query("{{op}}", quantile(0.95, requests, f"{BY}, op", OF_OPERATOR))],
            ),
            over_time(
                "Waiting for a thread",
                "How long work waited for one of its location's threads. More than a request's time: the location is "
                "slow, or has too many runs.",
                "s",
                _quantiles("gapo_object_store_wait_seconds", (0.5, 0.95)),
            ),
        ],
    )


def process() -> Section:
    return Section(
        "The process",
        [
            over_time(
                "Memory",
                "Resident memory. It follows the number of runs; compare with the limit of the pod.",
                "bytes",
                [Query("{{instance}}", _gauge("process_resident_memory_bytes"))],
                span=12,
            ),
            over_time(
                "CPU",
                "CPU seconds a second. Near 1 the process's one event loop is full, and passes start late.",
                "none",
                [Query("{{instance}}", _rate("process_cpu_seconds_total"))],
                span=12,
            ),
        ],
    )


def _gauge(name: str) -> str:
    return f"max by ({BY}) ({name}{{{OF_OPERATOR}}})"


def _rate(name: str, by: str = "", where: str = "") -> str:
    return rate(name, f"{BY}, {by}" if by else BY, f"{OF_OPERATOR}, {where}" if where else OF_OPERATOR)


def _quantiles(name: str, shares: tuple[float, ...]) -> list[Query]:
    return [
        Query(f"{100 * share:g} %, {{{{instance}}}}", quantile(share, name, BY, OF_OPERATOR))
        for share in shares
    ]
