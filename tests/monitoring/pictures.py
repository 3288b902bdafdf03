"""`python -m tests.monitoring.pictures MANIFEST --write docs/images`: a real run, scraped by a real Prometheus, and what
the dashboards show of it as PNGs. vLLM, DCGM and Kueue are not there, so their panels are not drawn."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml
from charts.dashboards import grafana_emulation, picture
from charts.dashboards.__main__ import FOLDER
from charts.dashboards.grafana_emulation import Json, Span
from charts.dashboards.panel_data import PanelData
from tests.cluster.processes import free_ports
from tests.monitoring.prometheus import SCRAPE, Target, prometheus
from tests.slow.gapo_command import bench

BOARD = "stage-convergence"
STEPS = 400
"""Points of a line over time, as on a wide screen."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--stages", type=int, help="stages.max instead of the manifest's")
    parser.add_argument("--write", type=Path, required=True, help="folder for the PNGs")
    arguments = parser.parse_args()
    document = yaml.safe_load(arguments.manifest.read_text())
    if arguments.stages:
        document["spec"].setdefault("stages", {})["max"] = arguments.stages
    with tempfile.TemporaryDirectory() as folder:
        for path in photograph(document, Path(folder), arguments.write):
            sys.stdout.write(f"{path}\n")


def photograph(document: Json, folder: Path, into: Path) -> list[Path]:
    """Runs it to its end. Raises AssertionError with its output where it fails."""
    (port,) = free_ports(1)
    with bench(folder) as user, prometheus(folder, [Target("gapo", port, honor_labels=True)]) as scraping:
        since = time.time()
        ended = user.gapo("run", user.write(document), "--no-report", "--metrics-port", str(port))
        assert ended.code == 0, ended.err + ended.out
        whole = scraping.span_of("gapo", since, time.time())
        step = max(SCRAPE, (whole.end - whole.start) / STEPS)
        board = json.loads((FOLDER / f"{BOARD}.json").read_text())
        chosen = grafana_emulation.variables(board, namespace="default", run=document["metadata"]["name"])
        data = PanelData(scraping.api, Span(whole.start, whole.end, step, SCRAPE), chosen)
        into.mkdir(parents=True, exist_ok=True)
        return picture.draw(board, data, into / BOARD)


if __name__ == "__main__":
    main()
