"""A folder with models, data and a manifest that fit together."""

from __future__ import annotations

import json
from pathlib import Path

from gapo.api.load import load_document
from gapo.preflight import Level
from gapo_trainer.preflight.models import check_models

ROW = {"prompt": "describe a red lamp", "response": "a red lamp", "label": 1}


def write_rows(place: Path, rows: list[dict]) -> None:
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spec_of(place: Path, **changes):
    spec = {
        "data": {"sources": [{"uri": "data.jsonl"}], "maxPromptTokens": 40},
        "generator": {"model": "generator"},
        "rewardModel": {"model": "encoder", "maxTokens": 64},
        "generation": {"maxNewTokens": 12},
        "stages": {"rolloutsPerIteration": 32},
        "ppo": {"miniBatch": 16},
    }
    for section, part in changes.items():
        spec[section] = {**spec.get(section, {}), **part} if isinstance(part, dict) else part
    document = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "a"}, "spec": spec}
    return load_document(document, where="run.yaml", base=place).spec


def findings(place: Path, level: Level = Level.FAULT, **changes) -> list[str]:
    all_findings = check_models(spec_of(place, **changes), open=None, into=None)
    return [str(finding) for finding in all_findings if finding.level is level]
