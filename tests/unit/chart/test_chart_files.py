"""What lies in the chart beside its templates: copies that must not drift, and the script of its checks."""

from __future__ import annotations

import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from charts import readme, schema

from gapo.api.load import load_document

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "gapo-operator"
ABOUT = yaml.safe_load((CHART / "Chart.yaml").read_text())


def test_the_readme_says_what_the_values_say() -> None:
    assert (CHART / "README.md").read_text() == readme.page(), "run: make crds"


def test_the_chart_holds_the_crd_of_the_models() -> None:
    name = "gapo.dev_gaporuns.yaml"
    assert (CHART / "files" / name).read_bytes() == (ROOT / "crds" / name).read_bytes(), "run: make crds"


def test_the_schema_of_the_values_allows_what_the_operator_does() -> None:
    assert schema.FILE.read_text() == schema.text(), "run: make crds"


def test_a_value_without_a_comment_is_noticed() -> None:
    source = "# == Title\n\n# -- Said\na: 1\nb:\n  # a remark\n  c: 2\n"
    with pytest.raises(ValueError, match=r"values.yaml:7: b.c has no comment"):
        readme.values(source)


def test_a_comment_documents_the_value_below_it_and_all_that_lies_in_it() -> None:
    source = (
        "# == Title\n\n# remark\n# -- First\n# line\na:\n  b: [x]\n  c: {}\n\nd:\n  # -- Second\n  e: true\n"
    )
    assert readme.values(source) == [
        readme.Value("a", "map", '{"b": ["x"], "c": {}}', "First line", "Title"),
        readme.Value("d.e", "boolean", "true", "Second", "Title"),
    ]


def test_chart_and_project_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (ABOUT["version"], ABOUT["appVersion"]) == (project, project)


def test_the_example_that_the_chart_shows_is_a_valid_run() -> None:
    (example,) = yaml.safe_load(ABOUT["annotations"]["artifacthub.io/crdsExamples"])
    assert load_document(example, where="Chart.yaml", base=ROOT).run_id
    (crd,) = yaml.safe_load(ABOUT["annotations"]["artifacthub.io/crds"])
    written = yaml.safe_load((ROOT / "crds" / "gapo.dev_gaporuns.yaml").read_text())
    assert (crd["name"], crd["kind"]) == (written["metadata"]["name"], written["spec"]["names"]["kind"])
    assert crd["version"] in [version["name"] for version in written["spec"]["versions"]]


class Operator(BaseHTTPRequestHandler):
    """Answers as an operator that is not ready at first."""

    answers: dict[str, list[tuple[int, str]]]

    def do_GET(self) -> None:
        left = self.answers[self.path]
        code, body = left.pop(0) if len(left) > 1 else left[0]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def operator(**answers: list[tuple[int, str]]) -> Iterator[str]:
    handler = type("Handler", (Operator,), {"answers": {f"/{path}": said for path, said in answers.items()}})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


HINT = "kubectl logs deployment/gapo-operator"


def check(seconds: float, *urls: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As the pod runs it, in an environment whose proxy must not be asked."""
    return subprocess.run(
        [sys.executable, "-c", (CHART / "files" / "check.py").read_text(), str(seconds), HINT, *urls],
        env={"http_proxy": "http://127.0.0.1:9", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
def test_the_check_waits_until_the_operator_is_ready() -> None:
    with operator(readyz=[(503, "no API server"), (200, "ok")]) as url:
        done = check(30, f"{url}/readyz")
    assert (done.returncode, done.stdout) == (0, f"{url}/readyz: well\n")


@pytest.mark.slow
def test_the_check_fails_with_the_operators_own_words() -> None:
    with operator(livez=[(200, "ok")], readyz=[(503, "storage location team: 403")]) as url:
        done = check(0, f"{url}/livez", f"{url}/readyz")
    assert done.returncode == 1
    assert f"{url}/readyz: 503 storage location team: 403" in done.stderr
    assert HINT in done.stderr


@pytest.mark.slow
def test_the_check_fails_where_nobody_answers() -> None:
    done = check(0, "http://127.0.0.1:9/readyz")
    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.slow
def test_the_check_takes_the_address_of_a_service_from_the_environment() -> None:
    with operator(readyz=[(200, "ok")]) as url:
        port = url.rpartition(":")[2]
        named = f"http://gapo-operator.gapo-system.svc:{port}/readyz"
        assert check(0, named, GAPO_OPERATOR_SERVICE_HOST="127.0.0.1").returncode == 0
        assert check(0, named, ANOTHER_SERVICE_HOST="127.0.0.1").returncode == 1


@pytest.mark.slow
def test_the_check_knows_the_operators_metrics_from_anything_else() -> None:
    with operator(metrics=[(200, "# TYPE gapo_build_info gauge\ngapo_build_info 1\n")]) as url:
        assert check(0, f"{url}/metrics").returncode == 0
    with operator(metrics=[(200, "# TYPE python_info gauge\n")]) as url:
        assert "no series of gapo" in check(0, f"{url}/metrics").stderr
