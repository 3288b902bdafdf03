"""`python -m gapo_operator --config FILE`: the operator's process."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from gapo.errors import ClusterError, GapoError
from gapo_operator.config import ConfigFile
from gapo_operator.manager import Operator, Options

COLLECT_AFTER = (10_000, 20, 50)
"""Objects made beyond those freed, then collections of the younger generation, before one is looked through (Python's
own 700, 10, 10 is for small programs)."""


class JsonLines(logging.Formatter):
    """One JSON object a line, which log collectors take apart by themselves."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gapo_operator", description=__doc__)
    parser.add_argument(
        "--config", type=Path, required=True, help="storage locations and defaults of task pods"
    )
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        help="watch this namespace (repeat for more); all where unset",
    )
    parser.add_argument("--credentials", type=Path, help="folder with one folder of keys a storage location")
    parser.add_argument("--ca", type=Path, help="folder with LOCATION/ca.crt for storage services")
    parser.add_argument(
        "--lease-namespace",
        default=os.environ.get("POD_NAMESPACE"),
        help="where the Lease lies (POD_NAMESPACE); without one this must be the only operator",
    )
    parser.add_argument("--lease-name", default="gapo-operator")
    parser.add_argument("--health-port", type=int, default=8080)
    parser.add_argument("--metrics-port", type=int, default=8081)
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    arguments = parser.parse_args()
    _log(arguments.log_level)
    # What was imported stays: looking through it again and again for garbage took a tenth of a busy operator's time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        config = ConfigFile(arguments.config)
    except GapoError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    options = Options(
        config=config,
        namespaces=tuple(arguments.namespace),
        lease_namespace=arguments.lease_namespace,
        lease_name=arguments.lease_name,
        identity=os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        credentials=arguments.credentials,
        authorities=arguments.ca,
        health_port=arguments.health_port,
        metrics_port=arguments.metrics_port,
    )
    try:
        return asyncio.run(_run(options))
    except ClusterError as error:  # nobody said which API server, or the kubeconfig cannot be used
        sys.stderr.write(f"{error}\n")
        return error.code


async def _run(options: Options) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await Operator(options).run(stop)


def _log(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("kopf").setLevel("WARNING")
    logging.getLogger("kubernetes").setLevel("WARNING")


if __name__ == "__main__":
    sys.exit(main())
