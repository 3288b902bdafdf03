"""`kill -9` at twenty moments of one run, of its executor and of its tasks, and a second executor besides.

One run is killed again and again and each time started again; another of the same manifest is left alone. Both must
end alike. The moments come from what is seen of the run (a task's process, its progress, its resume points) and from
a seed. `GAPO_KILL_MANIFEST` names another manifest than the smoke run's, `GAPO_KILL_SEED` another seed, and
`GAPO_KILL_PAGE` a Markdown file for what was seen.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from tests.slow.gapo_command import (
    PATIENCE,
    SMOKE,
    Bench,
    Ended,
    Process,
    Storage,
    bench,
    descendants,
    gone,
    wait_for,
)
from tests.slow.gapo_command import manifest as manifest_of
from tests.slow.kill_page import Row, page

pytestmark = pytest.mark.slow

KINDS = ("data", "sft", "rm-warmup", "evaluate", "ppo", "rm", "export")
MOMENTS: dict[str, tuple[str, ...]] = {
    "data": ("start",),
    "evaluate": ("start", "progress"),
    "export": ("start", "progress"),
}
"""Which moments a kind has; `start`, `progress` and `resume` where it is not listed."""
EACH = 10
"""Kills of the executor, and of a task."""


@dataclass(frozen=True)
class Kill:
    """What to kill, and when: once the attempt has used up some processor time after the moment was seen.

    Processor time, as a share of what the task needs undisturbed, since a clock says little on a busy machine.
    """

    victim: Literal["task", "executor", "other"]
    """`other` kills nothing: it starts a second executor."""
    task: str
    moment: str
    """`start`: the process is there. `progress`: it has told of some. `resume`: it has left a resume point.
    `pause`: an attempt was killed and the next one waits for its turn."""
    share: float
    latest: float = 1.0
    """Share at which to kill although the moment was not seen."""


@dataclass(frozen=True)
class Landed:
    """A kill that hit, and what the run had at that moment."""

    kill: Kill
    attempt: int
    iteration: int | None
    """Iterations in the task's last resume point."""
    committed: dict[str, str]
    """Manifest → sha256 of its bytes."""


@dataclass
class Story:
    """What happened to the run that was killed, and the run that was not."""

    undisturbed: Storage
    killed: Storage
    logs: Path
    landed: list[Landed] = field(default_factory=list)
    missed: list[Kill] = field(default_factory=list)
    taken_over: list[Ended] = field(default_factory=list)
    last: Ended | None = None

    def hits(self, victim: str) -> list[Landed]:
        return [hit for hit in self.landed if hit.kill.victim == victim]


def choose_kills(tasks: list[str], seed: int) -> dict[str, list[Kill]]:
    """For each task its kills, in order: ten of either victim, every kind of task among those of both."""
    rng = random.Random(seed)
    by_kind = {kind: [task for task in tasks if task.endswith(f"/{kind}")] for kind in KINDS}

    def kill(victim: Literal["task", "executor", "other"], task: str) -> Kill:
        moments = MOMENTS.get(task.partition("/")[2], ("start", "progress", "resume"))
        return Kill(victim, task, rng.choice(moments), rng.uniform(0.05, 0.5))

    one_each = [rng.choice(by_kind[kind]) for kind in KINDS]
    others = rng.sample([task for task in tasks if task not in one_each], EACH - len(KINDS))
    killed_tasks = [*one_each, *others]
    kills = [kill("task", task) for task in killed_tasks]
    kills += [kill("executor", rng.choice(by_kind[kind])) for kind in KINDS]
    rng.shuffle(kills)
    queues: dict[str, list[Kill]] = defaultdict(list)
    for one in kills:
        # A later attempt goes on from a resume point and may need little more than its start.
        first = not queues[one.task]
        queues[one.task].append(
            replace(one, share=one.share / (1 if first else 6), latest=0.5 if first else 0.1)
        )
    for task in rng.sample(killed_tasks, EACH - len(KINDS)):
        place = next(i for i, one in enumerate(queues[task]) if one.victim == "task")
        queues[task].insert(place + 1, Kill("executor", task, "pause", rng.uniform(0.05, 0.6)))
    # Last, for the attempt that it meets may well commit before the second executor has taken over.
    taken_over = rng.choice([*by_kind["ppo"], *by_kind["rm"]])
    queues[taken_over].append(replace(kill("other", taken_over), share=0.05, latest=0.1))
    return dict(queues)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def freeze(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Lets a frozen process go on: one that was just forked has yet to see that its parent is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def run_undisturbed(folder: Bench, manifest: Path) -> dict[str, float]:
    """Runs to the end; `<stage>/<kind>` → processor seconds of the task."""
    process = folder.start("run", manifest, "--no-report")
    used: dict[str, float] = {}
    while process.running:
        for name, pid in process.tasks().items():
            task = name.rpartition("-")[0].replace("-", "/", 1)
            used[task] = max(used.get(task, 0.0), processor_seconds(pid))
        time.sleep(0.02)
    ended = process.finish()
    assert ended.code == 0, ended.err
    return used


class Watch:
    """Looks at a run that is being killed, and kills it."""

    def __init__(
        self,
        folder: Bench,
        manifest: Path,
        queues: dict[str, list[Kill]],
        usual: dict[str, float],
        story: Story,
    ) -> None:
        self.bench, self.manifest, self.queues, self.story = folder, manifest, queues, story
        self.usual = usual
        self.used: dict[str, float] = {}
        """Attempt and moment → processor time when it was first seen."""
        self.resume_before: dict[str, int] = {}
        self.process = self.start()

    def start(self) -> Process:
        return self.bench.start("run", self.manifest, "--jobs", "1")

    def run(self) -> None:
        """Kills and starts again until the run has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.process.running:
            assert time.monotonic() < deadline, f"the run did not end in {PATIENCE:.0f} s"
            self.look()
            time.sleep(0.02)
        self.story.last = self.process.finish()
        self.story.missed = [kill for queue in self.queues.values() for kill in queue]

    def look(self) -> None:
        live = self.process.tasks()
        for task, queue in self.queues.items():
            prefix = task.replace("/", "-", 1) + "-"
            names = [name for name in live if name.startswith(prefix)]
            if queue and queue[0].moment == "pause":
                causes = self.story.killed.causes(task)
                if causes and causes[-1] == "killed" and not names:
                    return self.carry_out(queue, len(causes) - 1, None)
            elif queue and names and self.due(queue[0], names[0], live[names[0]]):
                return self.carry_out(queue, int(names[0].removeprefix(prefix)), live[names[0]])
        return None

    def due(self, kill: Kill, name: str, pid: int) -> bool:
        attempt = self.story.killed.folder / f"stages/{kill.task}/{name.rpartition('-')[2]}"
        points = len(self.story.killed.resume_points(kill.task))
        before = self.resume_before.setdefault(name, points)
        used, usual = processor_seconds(pid), self.usual[kill.task]
        if any(attempt.glob("*/out")):
            return True  # it is about to commit: the last chance, and a good moment
        if kill.moment == "start":
            return used >= kill.share * usual
        happened = points > before if kill.moment == "resume" else any(attempt.glob("*/progress.json"))
        if happened and used >= self.used.setdefault(name, used) + kill.share * usual / 2:
            return True
        return used >= kill.latest * usual

    def carry_out(self, queue: list[Kill], attempt: int, pid: int | None) -> None:
        """Freezes the victim, notes what there is, then kills it: so no kill can come too late unnoticed."""
        kill = queue.pop(0)
        if kill.victim == "other":
            self.note(kill, attempt)
            return self.take_over()
        victim = pid if kill.victim == "task" else self.process.pid
        assert victim is not None
        left = descendants(victim)
        for one in (victim, *left):
            freeze(one)
        if gone([victim]):
            queue.insert(0, kill)
            return None
        self.note(kill, attempt)
        os.kill(victim, signal.SIGKILL)
        for one in left:
            thaw(one)
        if kill.victim == "executor":
            self.process.finish()
            wait_for(lambda: gone(left), "the end of a killed executor's tasks")
            self.process = self.start()
        else:
            ended = self.story.killed.folder / f"stages/{kill.task}/{attempt}/ended.json"
            wait_for(ended.exists, f"the record of {kill}", self.process)
        return None

    def note(self, kill: Kill, attempt: int) -> None:
        storage = self.story.killed
        points = storage.resume_points(kill.task)
        self.story.landed.append(
            Landed(kill, attempt, max((p["iteration"] for p in points), default=None), storage.digests())
        )

    def take_over(self) -> None:
        first, left = self.process, descendants(self.process.pid)
        self.process = self.start()
        self.story.taken_over.append(first.finish())
        wait_for(lambda: gone(left), "the end of the first executor's tasks")


@pytest.fixture(scope="module")
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    source = Path(os.environ.get("GAPO_KILL_MANIFEST", SMOKE)).absolute()
    document = manifest_of(source, checkpoint={"interval": "0.2s"})
    name = document["metadata"]["name"]
    with (
        bench(tmp_path_factory.mktemp("undisturbed")) as alone,
        bench(tmp_path_factory.mktemp("killed")) as killed,
    ):
        usual = run_undisturbed(alone, source)
        undisturbed = alone.storage(name)
        run_id = undisturbed.folder.name
        told = Story(
            undisturbed,
            Storage(killed.folder / "runs" / "default" / name / run_id),
            killed.folder / "cache" / "gapo" / "work" / f"{name}-{run_id}" / "logs",
        )
        queues = choose_kills(sorted(undisturbed.manifests()), int(os.environ.get("GAPO_KILL_SEED", "0")))
        Watch(killed, killed.write(document), queues, usual, told).run()
        yield told
        file = os.environ.get("GAPO_KILL_PAGE")
        if file and not request.session.testsfailed:
            Path(file).write_text(written(told, os.environ.get("GAPO_KILL_MANIFEST", str(SMOKE))))


def written(story: Story, manifest: str) -> str:
    rows = [
        Row(hit.kill.victim, hit.kill.task, hit.attempt, hit.kill.moment, hit.iteration)
        for hit in story.landed
    ]
    tasks = story.undisturbed.manifests()
    attempts = sum(len(story.killed.attempts(task)) for task in tasks)
    return page(manifest, rows, len(tasks), attempts, len(story.killed.weights()))


def test_ten_executors_and_ten_tasks_are_killed_and_each_kind_of_task_is_among_them(story: Story) -> None:
    assert not story.missed
    for victim in ("task", "executor"):
        hits = story.hits(victim)
        assert len(hits) == EACH
        assert {hit.kill.task.partition("/")[2] for hit in hits} == set(KINDS)
    for hit in story.hits("task"):
        end = story.killed.ended(hit.kill.task, hit.attempt)
        assert end is not None
        assert end["exitCode"] == -signal.SIGKILL, hit


def test_the_run_goes_on_after_every_kill_and_ends_well(story: Story) -> None:
    assert story.last is not None
    assert story.last.code == 0, story.last.err
    assert "succeeded" in story.last.out


def test_no_task_is_committed_twice_nor_started_after_its_commit(story: Story) -> None:
    for task in story.undisturbed.manifests():
        commits = list(story.killed.folder.glob(f"stages/{task}/manifest-*.json"))
        assert [path.name for path in commits] == ["manifest-0.json"]
        committed_at = commits[0].stat().st_mtime_ns
        for started in story.killed.folder.glob(f"stages/{task}/*/task.json"):
            assert started.stat().st_mtime_ns < committed_at, started
        hits = [hit for hit in story.landed if hit.kill.task == task and hit.kill.moment != "pause"]
        assert len(story.killed.attempts(task)) <= len(hits) + 2, "an attempt that nobody killed was repeated"


def test_what_was_committed_when_a_kill_struck_stays_as_it_is(story: Story) -> None:
    final = story.killed.digests()
    for hit in story.landed:
        assert hit.committed.items() <= final.items()


def test_an_attempt_after_a_kill_goes_on_from_the_last_resume_point(story: Story) -> None:
    resumed = 0
    for hit in story.landed:
        task, attempt = hit.kill.task, hit.attempt + 1
        while hit.iteration is not None and attempt in story.killed.attempts(task):
            log = story.logs / f"{task.replace('/', '-', 1)}-{attempt}.log"
            match = re.search(r"resuming after iteration (\d+)", log.read_text() if log.exists() else "")
            if match is not None:
                assert int(match[1]) >= hit.iteration
                resumed += 1
                break
            end = story.killed.ended(task, attempt)
            assert end is not None
            assert end["cause"] != "committed", f"{log}: this attempt started from nothing"
            attempt += 1
    assert resumed >= 3, "too few kills struck a task that had a resume point"


def test_an_executor_that_is_taken_over_ends_with_one_message_and_loses_nothing(story: Story) -> None:
    for ended in story.taken_over:
        assert ended.code == 75
        assert "another executor drives this run" in ended.message()
    assert len(story.taken_over) == 1


def test_metrics_and_weights_equal_the_undisturbed_runs_bit_for_bit(story: Story) -> None:
    assert story.killed.results() == story.undisturbed.results()
    weights = story.undisturbed.weights()
    assert len(weights) >= len(story.undisturbed.manifests()) / 2
    assert story.killed.weights() == weights
