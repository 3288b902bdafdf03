from __future__ import annotations

import re
import socket
import threading
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gapo.metrics import http as exposition
from gapo.metrics.catalogue import METRICS, RUN_FAMILIES, STAGE_FAMILIES, TASK_FAMILIES
from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.metrics.http import SampleCollector, described, serve
from gapo.metrics.samples import run_samples, task_samples


def names() -> list[str]:
    families = (*STAGE_FAMILIES, *RUN_FAMILIES, *TASK_FAMILIES)
    return [
        *(f"gapo_stage_{f.name}" for f in METRICS if f.stage),
        *(f"gapo_task_{f.name}" for f in METRICS if f.live),
        *(f.name for f in families),
    ]


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_a_scrape_holds_name_type_help_and_escaped_labels() -> None:
    figures = RunFigures("red", 'la"mp\\\n', "Running", stages={2: {"eval/satisfaction": 0.5}}, rollbacks=1)
    samples = [*run_samples(figures), *task_samples({}, TaskFigures(metrics={"ppo/rollouts": 3.0}))]
    with serve([SampleCollector(lambda: samples)], "127.0.0.1", 0) as port:
        text = get(port)
    assert 'gapo_stage_satisfaction_ratio{namespace="red",run="la\\"mp\\\\\\n",stage="2"} 0.5\n' in text
    assert "# TYPE gapo_stage_satisfaction_ratio gauge\n" in text
    assert (
        "# HELP gapo_stage_satisfaction_ratio Share of sampled validation responses that are not cut off and meet all "
        "their constraints\n" in text
    )
    assert "# TYPE gapo_run_rollbacks_total counter\n" in text
    assert "\ngapo_task_rollouts_total 3.0\n" in text
    families = {f.name: f for f in text_string_to_metric_families(text)}
    (sample,) = families["gapo_stage_satisfaction_ratio"].samples
    assert sample.labels == {"namespace": "red", "run": 'la"mp\\\n', "stage": "2"}


def test_an_answer_that_is_begun_is_sent_whole_before_the_server_ends() -> None:
    """It is held back until nobody else is let in any more, and the block must not be left before it is sent."""
    begun, sent = threading.Event(), threading.Event()
    ports: list[int] = []

    def read() -> list[object]:
        begun.set()
        while socket.socket().connect_ex(("127.0.0.1", ports[0])) == 0:
            time.sleep(0.01)
        return [*run_samples(RunFigures("red", "lamp", "Succeeded"))]

    def ask() -> None:
        assert 'gapo_run_state{namespace="red",run="lamp",status="Succeeded"} 1.0' in get(ports[0])
        sent.set()

    asking = threading.Thread(target=ask)
    of_other_servers = set(threading.enumerate())
    with serve([SampleCollector(read)], "127.0.0.1", 0) as port:  # type: ignore[arg-type]
        ports.append(port)
        asking.start()
        assert begun.wait(10)
        serving = [
            thread
            for thread in set(threading.enumerate()) - of_other_servers
            if "process_request" in thread.name
        ]
    assert serving
    assert not any(thread.is_alive() for thread in serving)
    asking.join(10)
    assert sent.is_set()


def test_whoever_connects_and_says_nothing_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exposition, "SILENCE", 0.1)
    with socket.socket() as silent:
        with serve([], "127.0.0.1", 0) as port:
            silent.connect(("127.0.0.1", port))
            get(port)  # so that the silent one has been let in
        assert silent.recv(1) == b""  # the server has hung up
    assert capsys.readouterr().err == ""


def test_every_scrape_asks_anew() -> None:
    asked: list[int] = []

    def read() -> list[object]:
        asked.append(1)
        return [*run_samples(RunFigures("red", "lamp", "Running", stage=len(asked)))]

    with serve([SampleCollector(read)], "127.0.0.1", 0) as port:  # type: ignore[arg-type]
        first, second = get(port), get(port)
    assert 'gapo_run_stage{namespace="red",run="lamp"} 1.0' in first
    assert 'gapo_run_stage{namespace="red",run="lamp"} 2.0' in second


def test_series_of_many_runs_share_one_head() -> None:
    both = [
        *run_samples(RunFigures("red", "a", "Running")),
        *run_samples(RunFigures("red", "b", "Running")),
    ]
    with serve([SampleCollector(lambda: both)], "127.0.0.1", 0) as port:
        text = get(port)
    assert text.count("# TYPE gapo_run_stage gauge\n") == 1
    assert re.search(r'gapo_run_stage\{namespace="red",run="a"\} 0.0\ngapo_run_stage\{', text)


def test_the_port_is_free_again_after_the_block() -> None:
    with serve([], "127.0.0.1", 0) as port:
        pass
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="in use"),
        serve([], "127.0.0.1", taken.getsockname()[1]),
    ):
        pass


def test_every_name_of_the_catalogue_is_there_once_and_follows_prometheus_guide() -> None:
    assert len(set(names())) == len(names())
    units = ("_seconds", "_ratio", "_nats", "_tokens", "_total", "_stage", "_stages", "_mean", "_stddev")
    bare = {
        "gapo_run_state",
        "gapo_run_condition",
        "gapo_run_stages_max",
        "gapo_run_guard_hits",
        "gapo_stage_rm_memorisation_gap",
        "gapo_task_rm_memorisation_gap",
        "gapo_stage_rm_prompt_swap_gap",
        "gapo_task_kl_coefficient",
        "gapo_task_policy_loss",
        "gapo_task_value_loss",
        "gapo_task_rm_loss",
        "gapo_task_sft_loss",
        "gapo_task_sft_validation_loss",
    }
    for name in names():
        kind, text = described(name)
        assert re.fullmatch(r"gapo_(stage|run|task)_[a-z0-9_]+", name)
        assert name.endswith(units) or name in bare, name
        assert name.endswith("_total") == (kind == "counter")
        assert text
        assert not text.endswith(".")
