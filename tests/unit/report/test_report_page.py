"""The page as a file: self-contained, small, the same each time, and deaf to whatever a sample says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.page_text import Page, document_of
from tests.unit.report.run_folder import RunFolder, files_of, finished_run, sample

from gapo.errors import SpecError
from gapo.report import ReportPaths, load_run_data, report_of, write_report
from gapo.report.html import page
from gapo.store import layout
from gapo.store.records import Decision

pytestmark = pytest.mark.slow

HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x00<!-- &amp; \ud800 \"'"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    folder = finished_run(stages=12, verdict="converged", iterations=16)
    return write_report(folder.objects, tmp_path_factory.mktemp("report"))


def hostile_run() -> RunFolder:
    folder = RunFolder()
    rows = [sample(0, HOSTILE, False, prompt=HOSTILE, promptId=HOSTILE)]
    rows[0]["verdicts"] = [{"family": HOSTILE, "ok": False}]
    files = files_of(samples_jsonl=rows)
    metrics = {"eval/satisfaction": 0.5, "eval/family/<script>alert(3)</script>": 0.4}
    folder.commit(1, "evaluate", metrics, files, environment={"image": "<script>alert(4)</script>"})
    folder.hand_over(1, "ppo")
    folder.end(1, "ppo", 0, "failed", charged=True, exit_code=1, message="<script>alert(5)</script>")
    folder.decide(1, "stopped", "<script>alert(6)</script>")
    return folder


def test_no_text_of_a_run_becomes_markup():
    text = page(report_of(load_run_data(hostile_run().objects)))
    html = Page(text)
    assert [tag for tag, _ in html.tags if tag in {"script", "img", "iframe", "object", "link"}] == ["script"]
    handlers = [name for _, attributes in html.tags for name in attributes if name.startswith("on")]
    assert handlers == []
    for n in range(3, 7):
        assert f"<script>alert({n})</script>" in html.text
    shown = next(row for row in html.rows if len(row) == 5 and row[0] == "1")
    assert shown[4].startswith("</td></script><script>alert(1)</script><img src=x onerror=alert(2)>")


def test_characters_that_would_reorder_or_break_a_page_are_replaced():
    text = page(report_of(load_run_data(hostile_run().objects)))
    assert not set(text) & {"\u202e", "\x00", "\ud800"}
    text.encode()


def test_a_hostile_run_name_stays_text():
    report = report_of(load_run_data(finished_run(stages=1).objects))
    run = replace(report.run, name="</title><script>alert(1)</script>")
    html = Page(page(replace(report, run=run)))
    assert sum(tag == "script" for tag, _ in html.tags) == 1


def test_the_page_loads_nothing_from_anywhere(written: ReportPaths):
    text = written.html.read_text()
    for _, attributes in Page(text).tags:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_the_pages_policy_allows_its_one_script_by_digest_and_no_other(written: ReportPaths):
    text = written.html.read_text()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    policy = next(
        a["content"] for tag, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")


def test_the_verdict_is_the_first_line_of_the_page(written: ReportPaths):
    html = Page(written.html.read_text())
    body = [text for text in html.visible if text.strip()]
    assert body[0] == "quickstart: gapo report"
    assert body[1] == html.headline
    assert html.headline.startswith("Converged at stage 12. Stage 11 was exported:")


def test_a_run_of_twelve_stages_stays_under_a_megabyte(written: ReportPaths):
    assert written.html.stat().st_size < 1_000_000


def test_long_responses_are_cut_on_the_page_and_whole_in_the_json(tmp_path: Path):
    folder = RunFolder()
    for stage in range(13):
        rows = [sample(i, f"{i} " + "word " * 4000, bool(i % 2)) for i in range(30)]
        folder.commit(stage, "evaluate", {"eval/satisfaction": 0.5}, files_of(samples_jsonl=rows))
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert len(document["samples"][0]["response"]) == 20_002
    text = page(report)
    assert "… (19,402 more characters)" in text
    assert len(text) < 1_000_000


def test_the_json_says_its_schema_and_the_same_headline(written: ReportPaths):
    document: dict[str, Any] = json.loads(written.json.read_text())
    assert document["schemaVersion"] == 1
    assert document["verdict"]["headline"] == Page(written.html.read_text()).headline
    assert document["run"]["name"] == "quickstart"


def test_a_foreign_nan_becomes_null_in_the_json():
    folder = RunFolder()
    folder.commit(
        1, "evaluate", {"eval/satisfaction": 0.5}, {"samples.jsonl": b'{"score": NaN, "response": "x"}\n'}
    )
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["samples"][0]["score"] is None
    assert "NaN" not in report.to_json()


def test_an_infinity_in_a_foreign_decision_becomes_null_in_the_json():
    folder = RunFolder()
    decision = Decision(
        stage=1, verdict="continue", reason="r", by="t", evidence={"slope": 0.25, "limits": [1]}
    )
    foreign = decision.to_bytes().replace(b"0.25", b"-Infinity").replace(b"[1]", b"[NaN]")
    folder.objects.create(layout.decision(1), foreign)
    (stage,) = document_of(report_of(load_run_data(folder.objects)))["stages"]
    assert stage["decision"]["evidence"] == {"slope": None, "limits": [None]}


def test_the_picture_has_the_stated_size(written: ReportPaths):
    data = written.png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1760, 1160)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path):
    one, two = (write_report(finished_run(stages=1).objects, tmp_path / name) for name in ("a", "b"))
    assert one.html.read_bytes() == two.html.read_bytes()
    assert one.png.read_bytes() == two.png.read_bytes()
    assert one.json.read_bytes() == two.json.read_bytes()


def test_a_run_without_figures_has_a_picture_too(tmp_path: Path):
    paths = write_report(RunFolder().objects, tmp_path)
    assert paths.png.stat().st_size > 5_000
    assert Page(paths.html.read_text()).headline.startswith("Nothing is committed yet")


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_a_library_the_message_names_the_extra(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SpecError, match=r"install gapo with its extra: gapo\[report\]"):
        write_report(RunFolder().objects, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_and_rendering_import_no_library_of_the_extra():
    import subprocess

    code = (
        "import sys, gapo.cli.app, gapo.report.html, gapo.report.png; "
        "print(sorted({'jinja2', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env()
    )
    assert done.stdout.strip() == "[]"


def test_a_wheel_ships_what_the_page_is_made_from(tmp_path: Path):
    import shutil
    import subprocess
    import zipfile

    root = Path(__file__).parents[3]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    for name in ("core", "trainer", "operator"):
        shutil.copytree(
            root / name, tmp_path / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
        )
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    templates = root / "core/gapo/report/templates"
    expected = {f"gapo/report/templates/{path.name}" for path in templates.iterdir()}
    assert {"page.html", "style.css", "script.js"} <= {path.name for path in templates.iterdir()}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
