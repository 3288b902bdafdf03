"""The trainer's real server and runner around tasks that take milliseconds: `python -m tests.unit.local.instant`.

Each task counts to `STEPS`, may save resume points, and leaves one small file. `GAPO_INSTANT` (JSON) makes attempts
fail: {"<stage>/<kind>/<attempt>": "exit:65" | "full" | "denied" | "raise" | "sigkill" | "hang" | "linger" | "badinput:<input>"}.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import torch  # noqa: F401  (imported before the server forks, as the real one does)

from gapo.errors import DataError, GateError, InputArtifactError, StoreRefusedError
from gapo.tasks import Kind
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.worker import fork_server as serve

STEPS = 4


def instant(ctx: TaskContext) -> dict[str, float]:
    task = ctx.task
    state = ctx.scratch / "state"
    state.mkdir()
    restored = ctx.resume.restore(state)
    count = 0 if restored is None else int((state / "count").read_text())
    misbehave(ctx)
    for step in range(count, STEPS):
        count = step + 1
        (state / "count").write_text(str(count))
        ctx.report({"fraction": count / STEPS, "metrics": {"instant/count": count, "ppo/kl": count / 100}})
        if ctx.resume.due():
            ctx.resume.save(state, count)
        while wanted(ctx) == "linger" and count == 2:
            time.sleep(0.05)
            ctx.resume.save(state, count)  # ends the task once it has been asked to stop
    (ctx.out / "generator").mkdir()
    (ctx.out / "generator" / "weights").write_text(f"{task.digest} {count}")
    for name in ("rm", "critic", "state", "model"):
        (ctx.out / name).mkdir()
        (ctx.out / name / "weights").write_text(f"{name} {task.digest}")
    (ctx.out / "samples.jsonl").write_text("")
    (ctx.out / "distributions.json").write_text("{}")
    for name in ("prompts-train.jsonl", "prompts-val.jsonl", "prompts-test.jsonl", "rows-val.jsonl"):
        (ctx.out / name).write_text("")
    metrics = {"instant/count": float(count)}
    if task.kind is Kind.EVALUATE:
        metrics |= {"eval/satisfaction": 0.4 + 0.03 * task.stage, "eval/satisfaction_n": 2000.0}
    if task.kind is Kind.EXPORT:
        metrics["export/stage"] = float(task.stage)
    return metrics


def wanted(ctx: TaskContext) -> str:
    faults: dict[str, str] = json.loads(os.environ.get("GAPO_INSTANT", "{}"))
    return faults.get(f"{ctx.task.key}/{ctx.task.attempt}", "")


def misbehave(ctx: TaskContext) -> None:
    task = ctx.task
    match wanted(ctx).partition(":"):
        case ("exit", _, "65"):
            raise DataError("rows.jsonl line 3: label is missing")
        case ("exit", _, "73"):
            raise GateError("the gate was not passed: keywords.forbidden_words 0.51")
        case ("full", _, _):
            raise OSError(errno.ENOSPC, "No space left on device", str(ctx.out))
        case ("denied", _, _):
            raise StoreRefusedError("data.sources.0.uri: cannot download rows.jsonl in s3://b: AccessDenied")
        case ("raise", _, _):
            raise RuntimeError("a bug")
        case ("sigkill", _, _):
            os.kill(os.getpid(), signal.SIGKILL)
        case ("hang", _, _):
            time.sleep(3600)
        case ("badinput", _, name):
            manifest = task.inputs[name].key
            raise InputArtifactError(f"{manifest}: an object has another digest", manifest=manifest)


def main() -> None:
    table = types.ModuleType("gapo_trainer.tasks.handlers")
    table.TASKS = dict.fromkeys(Kind, instant)  # type: ignore[attr-defined]
    sys.modules["gapo_trainer.tasks.handlers"] = table
    serve.warm_up = lambda: None
    serve.serve()


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[3] / room) for room in ("core", "trainer")]
    main()
