"""`python -m gapo_trainer --task URI --sha256 D` runs one task; `--serve` waits for tasks to fork."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gapo_trainer", description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--serve", action="store_true", help="fork tasks on request (used by `gapo run`)")
    mode.add_argument("--task", metavar="URI", help="URI of the task.json to run")
    parser.add_argument("--sha256", help="digest of task.json; anything else there is refused")
    parser.add_argument("--writer", help="name of this process among a task's writers (the pod's UID)")
    parser.add_argument("--claim", type=int, help="number of the executor's claim")
    parser.add_argument("--endpoint", help="URL of an S3-compatible service")
    parser.add_argument("--region")
    parser.add_argument("--ca-file", help="certificates that sign the service's own")
    parser.add_argument(
        "--metrics-port", type=int, help="port of /metrics while the task runs; none where unset"
    )
    parser.add_argument("--scratch", type=Path, help="folder for working files; a temporary one where unset")
    arguments = parser.parse_args()
    try:
        from gapo_trainer.worker.fork_server import serve
        from gapo_trainer.worker.runner import Request, run_request
    except ImportError as error:
        sys.stderr.write(f"the trainer cannot start: {error}; install gapo with its trainer extra\n")
        return 3
    if arguments.serve:
        serve()
        return 0
    if not arguments.sha256:
        parser.error("--task needs --sha256")
    run, _, rest = arguments.task.rpartition("/stages/")  # a run may be named stages, too
    with tempfile.TemporaryDirectory(prefix="gapo-") as temporary:
        return run_request(
            Request(
                run=run,
                task=f"stages/{rest}",
                sha256=arguments.sha256,
                writer=arguments.writer or os.urandom(8).hex(),
                claim=arguments.claim,
                endpoint=arguments.endpoint,
                region=arguments.region,
                ca_file=arguments.ca_file,
                metrics_port=arguments.metrics_port,
                scratch=str(arguments.scratch or temporary),
            )
        )


if __name__ == "__main__":
    sys.exit(main())
