"""`make bench-telemetry`: what a task's telemetry costs, on against off, in turns within one process.

The workload is that of `make bench-ppo`, on two trainers that do the same. On: the iteration is reported, progress.json
is written, and `/metrics` is scraped every second by another process. Off: none of it; the scraper asks itself instead,
for a cluster's Prometheus takes no task's processor. Turns of one iteration, in pairs: which trainer has it on, and which
goes first, is drawn. Beside the difference between the turns, which other load on the machine blurs, stands the
processor time of telemetry's own threads and calls, which it does not.
Exits with 1 where the bar is missed, or where what was to be measured did not happen.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from obstore.store import LocalStore
from tests.bench.ppo import workload as w
from tests.bench.ppo.__main__ import ROOT, machine
from tests.bench.ppo.ours import trainer

from gapo.store.objects import Objects
from gapo.tasks import Kind, Task
from gapo_trainer.ppo.trainer import PpoTrainer
from gapo_trainer.telemetry import Account, Progress, served

PAIRS = 200
BAR = 0.02
"""Share of a step's time, of the processor and on the wall."""
SCRAPE_SECONDS = 1.0
REPORTS, SCRAPES = 2000, 200
"""How often each is repeated to be timed by itself."""

SCRAPER = f"""
import http.server, sys, threading, time, urllib.request
last = b""
class Itself(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(last)
    def log_message(self, *_): pass
own = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Itself)
threading.Thread(target=own.serve_forever, daemon=True).start()
def get(port):
    with urllib.request.urlopen("http://127.0.0.1:" + str(port) + "/metrics", timeout=5) as answer:
        return answer.read()
count, due = 0, time.monotonic()
print("ready", flush=True)
while True:
    try:
        last = get(sys.argv[1])
        count += b"gapo_task_start_timestamp_seconds" in last
    except OSError:
        get(own.server_address[1])
    print(count, flush=True)
    due += {SCRAPE_SECONDS}
    time.sleep(max(0.0, due - time.monotonic()))
"""


@dataclass(frozen=True)
class Turn:
    """Seconds of one turn."""

    wall: float
    cpu: float
    """Of all threads."""
    telling: float
    """Of telemetry's threads and calls."""


class Answers:
    """Adds up the processor seconds of the threads that answer scrapes, each of which ends with its answer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        answer = socketserver.ThreadingMixIn.process_request_thread

        def timed(server: Any, request: Any, address: Any) -> None:
            answer(server, request, address)
            self.seconds += time.thread_time()

        socketserver.ThreadingMixIn.process_request_thread = timed  # type: ignore[method-assign]


class Counted(Objects):
    """A folder that counts its writes."""

    writes = 0

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self.writes += 1


@contextmanager
def telling(objects: Objects, port: int) -> Iterator[Account]:
    """A task's telemetry as `gapo_trainer.runner` sets it up."""
    account = Account()
    task = Task(run_id="bench", stage=1, kind=Kind.PPO, inputs={}, params={}, seed=0, attempt=0)
    with served(account, port):
        progress = Progress(objects, task, "w", account)
        try:
            yield account
        finally:
            progress.close()


def turn(
    ppo: PpoTrainer,
    iteration: int,
    account: Account | None,
    threads: list[threading.Thread],
    answers: Answers,
) -> tuple[Turn, dict[str, float]]:
    """One iteration: what it took, and its metrics. `threads` are telemetry's that live as long as the turn."""

    def apart() -> float:
        clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident]
        return answers.seconds + sum(time.clock_gettime(clock) for clock in clocks)

    wall, cpu, own = time.perf_counter(), time.process_time(), apart()
    reports = 0.0
    metrics = ppo.iteration(iteration).metrics
    if account is not None:
        began = time.thread_time()
        account.report({"fraction": 0.5, "metrics": metrics})
        reports = time.thread_time() - began
    took = Turn(time.perf_counter() - wall, time.process_time() - cpu, apart() - own + reports)
    return took, {name: value for name, value in metrics.items() if not name.startswith("wall/")}


@contextmanager
def scraping(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SCRAPER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.terminate()


def measure(folder: Path, scratch: Path, seed: int, wanted: int) -> dict[str, Any]:
    """Runs all turns; overheads are shares of the step without telemetry, one a pair."""
    w.begin()
    trainers = [trainer(folder), trainer(folder)]
    objects, port, order = Counted(LocalStore(scratch)), free_port(), random.Random(seed)
    pairs, answers, alike = [], Answers(), True
    with scraping(port) as scraper:
        for iteration in range(w.WARM + wanted):
            found: dict[str, Turn] = {}
            metrics: dict[str, dict[str, float]] = {}
            roles = dict(zip(order.sample(["on", "off"], 2), trainers, strict=True))
            for name in order.sample(["on", "off"], 2):
                before = threading.enumerate()
                if name == "on":
                    with telling(objects, port) as account:
                        threads = [one for one in threading.enumerate() if one not in before]
                        found[name], metrics[name] = turn(roles[name], iteration, account, threads, answers)
                else:
                    found[name], metrics[name] = turn(roles[name], iteration, None, [], answers)
            alike = alike and metrics["on"] == metrics["off"]
            pairs.append(found)
        scraper.terminate()
        assert scraper.stdout is not None
        scrapes = int(scraper.stdout.read().split()[-1])
    on_seconds, pairs = sum(pair["on"].wall for pair in pairs), pairs[w.WARM :]
    return {
        "telling": [pair["on"].telling / pair["off"].cpu for pair in pairs],
        "cpu": [pair["on"].cpu / pair["off"].cpu - 1 for pair in pairs],
        "wall": [pair["on"].wall / pair["off"].wall - 1 for pair in pairs],
        "stepCpu": median(pair["off"].cpu for pair in pairs),
        "stepWall": median(pair["off"].wall for pair in pairs),
        "onSeconds": on_seconds,
        "scrapes": scrapes,
        "writes": objects.writes,
        "alike": alike,
        **alone(trainers[0].iteration(w.WARM + wanted).metrics),
    }


def alone(metrics: dict[str, float]) -> dict[str, float]:
    """Processor seconds of one report, and of one scrape on the side of the task, with nothing else going on."""
    account, port = Account(), free_port()
    began = time.process_time()
    for _ in range(REPORTS):
        account.report({"fraction": 0.5, "metrics": metrics})
    report = (time.process_time() - began) / REPORTS
    fetch = (
        "import sys, urllib.request\n"
        f"for _ in range({SCRAPES}): urllib.request.urlopen('http://127.0.0.1:' + sys.argv[1] + '/metrics').read()"
    )
    with served(account, port):
        began = time.process_time()
        subprocess.run([sys.executable, "-c", fetch, str(port)], check=True)
        scrape = (time.process_time() - began) / SCRAPES
    return {"report": report, "scrape": scrape}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def interval(values: list[float]) -> tuple[float, float]:
    """At least 95 % of the median, from order statistics: no outlier moves it."""
    ordered, n = sorted(values), len(values)
    below, rank = 0.5**n, 0  # P(fewer than rank + 1 of n lie under the median)
    while below <= 0.025:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    return ordered[max(rank - 1, 0)], ordered[n - max(rank, 1)]


def failures(found: dict[str, Any]) -> list[str]:
    problems = []
    if median(found["telling"]) >= BAR:
        problems.append(f"telemetry takes {median(found['telling']):.2%} of a step's processor time")
    for name, of in (("cpu", "processor"), ("wall", "wall")):
        low, high = interval(found[name])
        if high >= BAR:
            problems.append(
                f"steps with telemetry take {low:+.2%} to {high:+.2%} more {of} time: not shown to be under {BAR:.0%}. "
                "A quiet machine narrows that, and so does a larger --pairs"
            )
    if not found["alike"]:
        problems.append("with telemetry a trainer computed something else than without")
    if found["scrapes"] < 0.6 * found["onSeconds"] / SCRAPE_SECONDS:
        problems.append(
            f"{found['scrapes']} scrapes in {found['onSeconds']:.0f} s: they were not one a second"
        )
    if found["writes"] < len(found["cpu"]):
        problems.append(f"progress.json was written {found['writes']} times in {len(found['cpu'])} turns")
    return problems


def page(found: dict[str, Any], missed: list[str]) -> str:
    def share(values: list[float], form: str = "+.2%") -> str:
        low, high = interval(values)
        return f"{median(values):{form}} ({low:{form}} to {high:{form}})"

    scraped = found["scrapes"] / found["onSeconds"]
    return f"""# What telemetry costs

Written by `make bench-telemetry`. Machine: {machine()}.

**Result: steps with telemetry took {share(found["cpu"])} more processor time and {share(found["wall"])} more wall \
time than steps without; {share(found["telling"], ".2%")} of the processor time is telemetry's own** (medians of \
{len(found["cpu"])} pairs, 95 % interval in brackets). The bar is under {BAR:.0%}, for the upper ends of both \
intervals: {"missed" if missed else "met"}.

| | |
|---|---:|
| processor s/step without telemetry | {found["stepCpu"]:.3f} |
| s/step without telemetry | {found["stepWall"]:.3f} |
| steps with telemetry against steps without, processor time | {share(found["cpu"])} |
| the same, wall time | {share(found["wall"])} |
| telemetry's threads and calls, of processor time | {share(found["telling"], ".2%")} |
| one report, processor µs | {found["report"] * 1e6:.0f} |
| one scrape, processor µs of the task | {found["scrape"] * 1e6:.0f} |

The workload is that of [PPO iterations](ppo.md), whose steps take about a second: on larger models the same work is a \
smaller share. One process steps two equal trainers, one with telemetry and one without; which of them has it, and \
which goes first, is drawn for every pair. With telemetry the step is reported, `progress.json` is written to a folder \
({found["writes"]} times), and another process scrapes `/metrics` every second ({found["scrapes"]} times in \
{found["onSeconds"]:.0f} s, {scraped * found["stepWall"]:.1f} a step); during the other's step it scrapes a page of \
its own, so that its own work falls on both. Starting and stopping lies outside. Both trainers \
{"computed the same, bit for bit" if found["alike"] else "did NOT compute the same"}.

Telemetry's own time is that of the threads that write and answer, and of the reports within the training's thread. \
The difference between steps holds what telemetry does to the training beside it, too; where its intervals are wide, \
the machine was busy.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench-telemetry")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    parser.add_argument("--seed", type=int, default=0, help="of the order of turns")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    folder, scratch = arguments.out / "models", arguments.out / "run"
    scratch.mkdir(parents=True, exist_ok=True)
    w.make(folder)
    found = measure(folder, scratch, arguments.seed, arguments.pairs)
    (arguments.out / "result.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    missed = failures(found)
    if arguments.write:
        arguments.write.write_text(page(found, missed), encoding="utf-8")
    for problem in missed:
        sys.stderr.write(problem + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
