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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from obstore.store import LocalStore
from tests.bench.experiments import ROOT, machine
from tests.bench.method.stats import t_quantile
from tests.bench.ppo import workload as w
from tests.bench.ppo.ours import trainer

from gapo.store.objects import Objects
from gapo.tasks import Kind, Task
from gapo_trainer.ppo.trainer import PpoTrainer
from gapo_trainer.runtime.progress import ProgressFile, TaskProgress, served

PAIRS = 300
BAR = 0.02
"""Share of a step's time, of the processor and on the wall."""
SCRAPE_SECONDS = 1.0
REPORTS, SCRAPES = 2000, 200
"""How often each is repeated to be timed by itself."""

SCRAPER = f"""
import http.server, sys, threading, time, urllib.request
task, page, on, count = int(sys.argv[1]), b"", threading.Event(), 0
class Itself(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page)
    def log_message(self, *_): pass
own = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Itself)
threading.Thread(target=own.serve_forever, daemon=True).start()
def scrape():
    global page, count
    due = time.monotonic()
    while True:
        asked = on.is_set()
        with urllib.request.urlopen(f"http://127.0.0.1:{{task if asked else own.server_port}}/metrics") as answer:
            page = answer.read()
        count += asked and b"gapo_task_start_timestamp_seconds" in page
        due += {SCRAPE_SECONDS}
        time.sleep(max(0.0, due - time.monotonic()))
threading.Thread(target=scrape, daemon=True).start()
for line in sys.stdin:
    on.set() if line == "on\\n" else on.clear()
    print(count, flush=True)
"""
"""Scrapes the task or itself, as told by its input; answers with how often it has scraped the task."""


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
def telling(objects: Objects, port: int) -> Iterator[tuple[TaskProgress, list[threading.Thread]]]:
    """A task's telemetry as `gapo_trainer.worker.runner` sets it up, and its threads."""
    before = threading.enumerate()
    account = TaskProgress()
    task = Task(run_id="bench", stage=1, kind=Kind.PPO, inputs={}, params={}, seed=0, attempt=0)
    with served(account, port):
        progress = ProgressFile(objects, task, "w", account)
        try:
            yield account, [one for one in threading.enumerate() if one not in before]
        finally:
            progress.close()


class Scraper:
    """The process that scrapes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def turn(self, name: str) -> int:
        """Whom to scrape from now on: the task (`on`) or itself. How often the task was scraped until now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def scraping(port: int) -> Iterator[Scraper]:
    command = [sys.executable, "-c", SCRAPER, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        scraper = Scraper(process)
        scraper.turn("off")
        try:
            yield scraper
        finally:
            process.terminate()


@dataclass
class Bench:
    """The two trainers, and the telemetry that either has in turn."""

    trainers: list[PpoTrainer]
    account: TaskProgress
    threads: list[threading.Thread]
    scraper: Scraper
    answers: Answers
    last: dict[str, float] = field(default_factory=dict)
    """What is reported: the metrics of the last iteration."""

    def turn(self, name: str, ppo: PpoTrainer, iteration: int) -> Turn:
        """One iteration, with the report of the last one as it begins where `name` is `on`."""
        self.scraper.turn(name)
        wall, cpu, own = time.perf_counter(), time.process_time(), self._apart()
        reports = 0.0
        if name == "on":
            began = time.thread_time()
            self.account.report({"fraction": 0.5, "metrics": self.last})
            reports = time.thread_time() - began
        self.last = ppo.iteration(iteration).metrics
        return Turn(time.perf_counter() - wall, time.process_time() - cpu, self._apart() - own + reports)

    def _apart(self) -> float:
        """Processor seconds of telemetry's threads so far."""
        clocks = [time.pthread_getcpuclockid(thread.ident) for thread in self.threads if thread.ident]
        return self.answers.seconds + sum(time.clock_gettime(clock) for clock in clocks)

    def pair(self, order: random.Random, iteration: int) -> tuple[dict[str, Turn], bool]:
        """Both trainers, one with telemetry and one without; whether they computed the same."""
        roles = dict(zip(order.sample(["on", "off"], 2), self.trainers, strict=True))
        turns, computed = {}, []
        for name in order.sample(["on", "off"], 2):
            turns[name] = self.turn(name, roles[name], iteration)
            computed.append({key: value for key, value in self.last.items() if not key.startswith("wall/")})
        return turns, computed[0] == computed[1]


def measure(folder: Path, scratch: Path, seed: int, wanted: int) -> dict[str, Any]:
    """Runs all turns; overheads are shares of the step without telemetry, one a pair."""
    w.begin()
    objects, port, order = Counted(LocalStore(scratch)), free_port(), random.Random(seed)
    with telling(objects, port) as (account, threads), scraping(port) as scraper:
        bench = Bench([trainer(folder), trainer(folder)], account, threads, scraper, Answers())
        found = [bench.pair(order, iteration) for iteration in range(w.WARM + wanted)]
        scrapes = scraper.turn("off")
    pairs = [turns for turns, _ in found]
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
        "alike": all(alike for _, alike in found),
        **alone(bench.last),
    }


def alone(metrics: dict[str, float]) -> dict[str, float]:
    """Processor seconds of one report, and of one scrape on the side of the task, with nothing else going on."""
    account, port = TaskProgress(), free_port()
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


def typical(values: list[float]) -> tuple[float, float, float]:
    """The mean without the least and the largest tenth, and its 95 % interval (Tukey and McLaughlin 1963)."""
    n, cut = len(values), len(values) // 10
    ordered = sorted(values)
    winsorized = [ordered[min(max(i, cut), n - 1 - cut)] for i in range(n)]
    kept = n - 2 * cut
    error = stdev(winsorized) / ((kept / n) * math.sqrt(n))
    mean, half = fmean(ordered[cut : n - cut]), t_quantile(0.975, kept - 1) * error
    return mean, mean - half, mean + half


def failures(found: dict[str, Any]) -> list[str]:
    problems = []
    for name, of in (("cpu", "processor"), ("wall", "wall")):
        _, low, high = typical(found[name])
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
        mean, low, high = typical(values)
        return f"{mean:{form}} ({low:{form}} to {high:{form}})"

    scraped = found["scrapes"] / found["onSeconds"]
    return f"""# What telemetry costs

Written by `make bench-telemetry`. Machine: {machine()}.

**Result: steps with telemetry took {share(found["cpu"])} more processor time and {share(found["wall"])} more wall \
time than steps without; {share(found["telling"], ".2%")} of the processor time is telemetry's own** ({len(found["cpu"])} \
pairs, trimmed mean with its 95 % interval in brackets). The bar is under {BAR:.0%}, for the upper ends of both \
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
its own, so that its own work falls on both. Threads that wait for something to tell are there in both. Both trainers \
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
