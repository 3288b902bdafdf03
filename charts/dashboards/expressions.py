"""PromQL that more than one panel needs. Of several that export the same run (an operator that hands over to another)
one is taken by `max`, and what a scrape adds (`instance`, `pod`) falls away."""

from __future__ import annotations

from charts.dashboards import exported_series

OF_RUN = 'namespace="$namespace", run="$run"'
OF_TASKS = f'{OF_RUN}, role=~"$role"'
RATE = "$__rate_interval"
_KNOWN = exported_series.series()


def of_run(name: str, *by: str, where: str = "") -> str:
    """`gapo_run_<name>` of the run, by further labels."""
    return _one(f"gapo_run_{name}", ("namespace", "run", *by), _and(OF_RUN, where))


def of_stage(name: str, *by: str, where: str = "") -> str:
    """`gapo_stage_<name>` of every stage of the run."""
    return _one(f"gapo_stage_{name}", ("namespace", "run", "stage", *by), _and(OF_RUN, where))


def of_task(name: str, *by: str, tasks: str = OF_RUN) -> str:
    """`gapo_task_<name>` of the tasks that run; by default one line through all stages, which marks tell apart."""
    return _one(f"gapo_task_{name}", ("namespace", "run", *by), tasks)


def rate(name: str, by: str, where: str) -> str:
    """What a counter gains a second, summed by labels."""
    return f"sum by ({by}) (rate({_checked(name)}{{{where}}}[{RATE}]))"


def quantile(share: float, name: str, by: str, where: str) -> str:
    """Of a histogram, over the last moments."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', f'{by}, le', where)})"


def _one(name: str, by: tuple[str, ...], where: str) -> str:
    return f"max by ({', '.join(by)}) ({_checked(name)}{{{where}}})"


def _checked(name: str) -> str:
    if name not in _KNOWN:
        raise ValueError(
            f"{name} is exported by nothing that dashboards know (charts/dashboards/exported_series.py)"
        )
    return name


def _and(where: str, more: str) -> str:
    return f"{where}, {more}" if more else where
