"""The CRD on a real API server: what it accepts and refuses, in which words, and what kubectl makes of it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import both_judges, by_rows
from tests.cluster.control_plane import ControlPlane
from tests.cluster.manifests import BAD, FOR_THE_OPERATOR, GOOD, ON_ONE_MACHINE
from tests.slow.gapo_command import SMOKE, merged

from gapo.api.load import LoadedRun, load_document, load_run
from gapo.api.run import GapoRunSpec
from gapo.api.yaml_reader import read_documents
from gapo.errors import SpecError

pytestmark = pytest.mark.cluster
WORDS = (
    "1e-4", "1.0e4", "1", "0x1F", "017", "1_000", "1:30", "2026-01-01", "1.", "-.5", "12e4", "0.5", "08", "+12", "1.5.2",
    "\"a\\u2028b\"", "'a\u2028b'", "'a\x85b'", "0o17", "<<", "=", "1e", "+.5e-3", "-0", "0.", "0b101",
    "yes", "on", "y", "off", "no", "N", "True", "none", "null", "~", "0123456789ab", "'1e-4'", '"1"', "5m", "500m",
)  # fmt: skip
"""Values as they may stand in a YAML file."""
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


def changed(change: dict[str, Any], name: str = "table") -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(SMOKE.read_text())
    document["metadata"]["name"] = name
    document["spec"] = merged(document["spec"], change)
    return document


def judged(cluster: ControlPlane, document: dict[str, Any]) -> str:
    """What the API server has against a manifest; empty where it would take it."""
    done = cluster.run(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(document)
    )
    return done.stderr if done.returncode else ""


@pytest.fixture
def applied(cluster: ControlPlane, request: pytest.FixtureRequest):
    """Applies a manifest under the test's own name and deletes it afterwards."""
    name = request.node.name.replace("_", "-")[:40].strip("-")

    def apply(change: dict[str, Any], **metadata: Any) -> str:
        document = changed(change, name)
        document["metadata"] |= metadata
        cluster.said("apply", "-f", "-", stdin=json.dumps(document))
        return name

    yield apply
    cluster.run("delete", "gaporun", name, "--ignore-not-found")


def started(cluster: ControlPlane, name: str) -> None:
    """As the operator marks it."""
    patch = json.dumps({"status": {"runID": "0123456789ab"}})
    cluster.said("patch", "gaporun", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.mark.parametrize("case", GOOD)
def test_a_good_manifest_is_taken_by_both_judges(cluster: ControlPlane, case: str) -> None:
    document = changed(GOOD[case])
    load_document(document, where="table", base=Path())
    assert judged(cluster, document) == ""


@pytest.mark.parametrize("case", BAD)
def test_a_bad_manifest_is_refused_by_both_judges_in_words_that_help(
    cluster: ControlPlane, case: str
) -> None:
    change, words = BAD[case]
    document = changed(change)
    with pytest.raises(SpecError) as refused:
        load_document(document, where="table", base=Path())
    assert words in str(refused.value)
    assert words in judged(cluster, document)


ROLLOUT_RULES = (
    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/rollout/x-kubernetes-validations"
)


@pytest.fixture
def begun_before(cluster: ControlPlane, applied):
    """A run with fields that the earlier release's definition still took, once today's is in force again."""
    definition = json.loads(cluster.said("get", "crd", "gaporuns.gapo.dev", "-o", "json"))
    rules: Any = definition
    for part in ROLLOUT_RULES.strip("/").split("/"):
        rules = rules[int(part) if part.isdigit() else part]
    patch = ["patch", "crd", "gaporuns.gapo.dev", "--type=json", "-p"]
    old = {"rollout": {"engine": "vllm", "replicas": 2}}
    cluster.said(*patch, json.dumps([{"op": "remove", "path": ROLLOUT_RULES}]))
    try:
        until(lambda: judged(cluster, changed(old)) == "")
        name = applied(old)
        started(cluster, name)
    finally:
        cluster.said(*patch, json.dumps([{"op": "add", "path": ROLLOUT_RULES, "value": rules}]))
        until(lambda: "runs on one machine alone" in judged(cluster, changed(old)))
    return name, old


def until(so: Callable[[], bool]) -> None:
    """A definition is in force a moment after it was taken; each question asks the server anew."""
    assert any(so() for _ in range(50))


def test_a_run_that_began_with_what_is_refused_now_goes_on_and_may_be_changed_elsewhere(
    cluster: ControlPlane, applied, begun_before: tuple[str, dict[str, Any]]
) -> None:
    name, old = begun_before
    status = {"status": {"runID": "0123456789ab", "state": "Running", "stage": 1}}
    cluster.said("patch", "gaporun", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    applied({**old, "suspend": True})
    document = changed({"rollout": {"engine": "vllm", "replicas": 3}}, name)
    refused = cluster.run("apply", "-f", "-", stdin=json.dumps(document))
    assert "runs on one machine alone" in refused.stderr


@pytest.mark.parametrize("case", ON_ONE_MACHINE)
def test_a_file_that_only_this_machine_has_is_refused_by_the_cluster_alone(
    cluster: ControlPlane, tmp_path: Path, case: str
) -> None:
    change, words = ON_ONE_MACHINE[case]
    (tmp_path / "mine.jsonl").write_text("{}\n")
    document = changed(change)
    load_document(document, where="table", base=tmp_path)
    assert words in judged(cluster, document)


@pytest.mark.parametrize("case", FOR_THE_OPERATOR)
def test_what_no_rule_of_the_server_can_see_is_refused_by_the_client(
    cluster: ControlPlane, case: str
) -> None:
    change, words = FOR_THE_OPERATOR[case]
    document = changed(change)
    with pytest.raises(SpecError, match=re.escape(words)):
        load_document(document, where="table", base=Path())
    assert judged(cluster, document) == ""


@pytest.mark.slow
def test_client_and_server_judge_alike_whatever_is_left_empty_and_however_an_amount_is_written(
    cluster: ControlPlane,
) -> None:
    specs = both_judges.specs(changed({})["spec"], both_judges.all_of_them())
    documents = [{**changed({}, f"case-{n}"), "spec": spec} for n, spec in enumerate(specs.values())]
    apart = {}
    for case, document, theirs in zip(specs, documents, both_judges.servers(cluster, documents), strict=True):
        mine = refusal(document)
        if bool(mine) != bool(theirs) or by_rows.apart(document["spec"], theirs):
            apart[case] = (mine, theirs)
    assert apart == {}


def refusal(document: dict[str, Any]) -> str:
    """The client's; empty where it takes the manifest."""
    try:
        load_document(document, where="table", base=Path())
    except SpecError as error:
        return str(error)
    return ""


def test_what_kubectl_shows_of_a_run_is_a_manifest_again(cluster: ControlPlane, applied) -> None:
    name = applied({}, labels={"team": "nlp"})
    cluster.said(
        "patch", "gr", name, "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": {"runID": "0123456789ab", "state": "Running"}}),
    )  # fmt: skip
    written = load_document(changed({}, name), where="written", base=Path())
    for shown in (
        cluster.said("get", "gr", name, "-o", "yaml", "--show-managed-fields"),
        cluster.said("get", "gr", "-o", "yaml", "--field-selector", f"metadata.name={name}"),
        cluster.said("get", "gr", name, "-o", "json"),
    ):
        again = read_run(shown)
        assert again.run_id == written.run_id
        assert again.run.metadata.labels == {"team": "nlp"}


def read_run(text: str) -> LoadedRun:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return load_run(Path(file.name))


def test_a_file_means_the_same_to_gapo_and_to_kubectl(cluster: ControlPlane) -> None:
    lines = "".join(f"  k{number}: {word}\n" for number, word in enumerate(WORDS))
    text = f"apiVersion: gapo.dev/v1alpha1\nkind: GapoRun\nmetadata: {{name: words}}\nspec:\n{lines}"
    said = cluster.said("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=text)
    theirs, ours = json.loads(said)["spec"], read_documents(text)[0]["spec"]
    found = {word: (ours[f"k{n}"], theirs[f"k{n}"]) for n, word in enumerate(WORDS)}
    assert {word: pair for word, pair in found.items() if pair[0] != pair[1]} == {}
    assert found["1e-4"][0] == 0.0001


def test_the_table_is_as_large_as_it_is_meant_to_be() -> None:
    assert len(GOOD) + len(BAD) >= 40


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_applied(cluster: ControlPlane, example: Path) -> None:
    cluster.said("apply", "--dry-run=server", "--validate=strict", "-f", str(example))


def test_what_the_server_fills_in_is_what_the_models_fill_in(cluster: ControlPlane, applied) -> None:
    name = applied({"checkpoint": None, "roles": None})
    stored = json.loads(cluster.said("get", "gaporun", name, "-o", "json"))["spec"]
    written = changed({"checkpoint": None, "roles": None})["spec"]
    assert stored != written  # something was filled in
    resolved = load_document(changed({"checkpoint": None, "roles": None}), where="w", base=Path()).spec
    assert load_document({**changed({}), "spec": stored}, where="stored", base=Path()).spec == resolved


def test_nothing_is_filled_into_what_makes_up_the_runs_identity(cluster: ControlPlane, applied) -> None:
    from gapo.api.identity import run_id

    name = applied({})
    stored = json.loads(cluster.said("get", "gaporun", name, "-o", "json"))["spec"]
    assert run_id(stored) == run_id(changed({})["spec"])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("spec.seed", {"seed": 1}),
        ("spec.method", {"method": "PPO"}),
        ("spec.data", {"data": {"generate": {"size": 2001}}}),
        ("spec.generator", {"generator": {"fromScratch": {"layers": 2}}}),
        ("spec.ppo", {"ppo": {"actorLr": 0.5}}),
        ("spec.critic", {"critic": {"warmupPasses": 1}}),
        ("spec.stages.iterations", {"stages": {"iterations": 4}}),
        ("spec.runID", {"runID": "another"}),
        ("spec.storage", {"storage": {"path": "elsewhere"}}),
        ("spec.scheduling.managedBy", {"scheduling": {"managedBy": "kueue.x-k8s.io/multikueue"}}),
    ],
)
def test_what_a_run_is_cannot_change_once_it_has_started(
    cluster: ControlPlane, applied, field: str, change: dict[str, Any]
) -> None:
    name = applied({})
    applied(change)  # before it has started, all may change
    applied({})
    started(cluster, name)
    document = changed(change, name)
    done = cluster.run("apply", "-f", "-", stdin=json.dumps(document))
    assert done.returncode == 1
    assert f"{field} " in done.stderr
    assert "cannot change once it has started" in done.stderr


def test_what_may_change_while_a_run_goes_on_can_be_changed(cluster: ControlPlane, applied) -> None:
    name = applied({"budget": {"rollouts": 1000, "gpuHours": 2.5}})
    started(cluster, name)
    applied(
        {
            "suspend": True,
            "stages": {"max": 9},
            "budget": {"rollouts": 5000},
            "retention": {"lastStages": 3},
            "checkpoint": {"interval": "30s"},
            "scheduling": {"maxFailures": 5, "ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 60},
            "roles": {"generator": {"threads": 2, "pod": {"nodeSelector": {"gpu": "a"}}}},
        }
    )
    assert cluster.said("get", "gr", name, "-o", "jsonpath={.spec.stages.max}") == "9"


@pytest.mark.parametrize(
    ("before", "change", "field"),
    [
        ({}, {"stages": {"max": 2}}, "spec.stages.max"),
        ({"stages": {"max": 13}}, {"stages": {"max": None}}, "spec.stages.max"),
        ({"stages": None}, {"stages": {"max": 11}}, "spec.stages.max"),
        ({"budget": {"rollouts": 1000}}, {"budget": {"rollouts": 999}}, "spec.budget.rollouts"),
        ({"budget": {"gpuHours": 2.5}}, {"budget": {"gpuHours": 2.25}}, "spec.budget.gpuHours"),
        ({"budget": {"rollouts": 1000}}, {"budget": {"rollouts": 1000, "tokens": 10}}, "spec.budget.tokens"),
        ({}, {"budget": {"wallClock": 60}}, "spec.budget.wallClock"),
    ],
)
def test_what_may_only_grow_can_be_lowered_until_the_run_has_started(
    cluster: ControlPlane, applied, before: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    name = applied(before)
    applied(change)
    applied(before)
    started(cluster, name)
    done = cluster.run("apply", "-f", "-", stdin=json.dumps(changed(change, name)))
    assert done.returncode == 1
    assert f"{field} can only be raised" in done.stderr
    applied(before)


def test_a_field_that_is_unknown_vanishes_where_the_client_is_not_strict(cluster: ControlPlane) -> None:
    document = changed({"sead": 3})
    done = cluster.run(
        "create", "--dry-run=server", "--validate=ignore", "-o", "json", "-f", "-", stdin=json.dumps(document)
    )
    assert done.returncode == 0
    assert "sead" not in done.stdout


def test_a_field_without_a_value_is_as_if_it_were_not_there(cluster: ControlPlane) -> None:
    """As `steps:` in YAML with nothing after it."""
    document = changed({})
    document["spec"]["rewardModel"]["epochs"] = None
    document["spec"]["budget"] = {"rollouts": None}
    document["spec"]["scheduling"] = {"queueName": None}
    load_document(document, where="table", base=Path())
    assert judged(cluster, document) == ""


def test_a_name_that_is_too_long_for_the_names_of_its_children_is_refused(cluster: ControlPlane) -> None:
    assert "at most 40 characters" in judged(cluster, changed({}, "x" * 41))
    assert judged(cluster, changed({}, "x" * 40)) == ""


def test_status_is_written_apart_and_shown_in_columns(cluster: ControlPlane, applied) -> None:
    name = applied({})
    status = {
        "runID": "0123456789ab", "state": "Running", "stage": 3, "progress": "A3/12 ppo 45 %",
        "pairAccuracy": 0.97, "satisfaction": 0.64,
        "conditions": [{"type": "Succeeded", "status": "False", "reason": "Running", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }  # fmt: skip
    cluster.said(
        "patch", "gr", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    header, row = cluster.said("get", "gapo", name).splitlines()
    assert header.split() == ["NAME", "STAGE", "STATE", "PROGRESS", "RM-PAIR", "SATISFACTION", "AGE"]
    assert row.split()[:9] == [name, "3", "Running", "A3/12", "ppo", "45", "%", "0.97", "0.64"]
    wide = cluster.said("get", "gaporuns", name, "-o", "wide").splitlines()
    assert wide[0].split()[7:] == ["BEST", "REASON", "RUN-ID", "LOCATION"]
    assert "Running" in wide[1].split()[10:]
    applied({"suspend": True})  # a new spec leaves the status alone
    assert cluster.said("get", "gr", name, "-o", "jsonpath={.status.stage}") == "3"


def test_kubectl_wait_sees_the_run_succeed(cluster: ControlPlane, applied) -> None:
    name = applied({})
    condition = {
        "type": "Succeeded",
        "status": "True",
        "reason": "Exported",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster.said(
        "patch",
        "gr",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": {"conditions": [condition]}}),
    )
    cluster.said("wait", "--for=condition=Succeeded", f"gaporun/{name}", "--timeout=20s")


def test_kubectl_explains_every_field(cluster: ControlPlane) -> None:
    whole = cluster.said("explain", "gaporun.spec", "--recursive")
    for name, field in GapoRunSpec.model_fields.items():
        assert f"  {field.alias or name}\t" in whole
    said = cluster.said("explain", "gaporun.spec.ppo.clipLow")
    assert "The ratio of new to old probability is clipped below" in said
    assert "Default: 0.2." in said


def test_an_unchanged_manifest_has_no_difference_and_a_second_manager_keeps_to_its_own_field(
    cluster: ControlPlane, applied
) -> None:
    name = applied({})
    same = cluster.run("diff", "-f", "-", stdin=json.dumps(changed({}, name)))
    assert same.returncode == 0, same.stdout + same.stderr
    cluster.said("delete", "gr", name)
    mine = ["apply", "--server-side", "-f", "-"]
    cluster.said(*mine, stdin=json.dumps(changed({}, name)))
    queue = ["apply", "--server-side", "--field-manager=queue", "-f", "-"]
    head = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": name}}
    cluster.said(*queue, stdin=json.dumps({**head, "spec": {"suspend": True}}))
    conflict = cluster.run(*queue, stdin=json.dumps({**head, "spec": {"seed": 5}}))
    assert "conflict" in conflict.stderr
    cluster.said(*mine, stdin=json.dumps(changed({}, name)))
    assert cluster.said("get", "gr", name, "-o", "jsonpath={.spec.suspend}") == "true"
