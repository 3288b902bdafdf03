"""Which manifests the API server accepts and refuses, in which words, and that the client judges alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cluster import both_judges, by_rows
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd.gaporuns import changed, judged, refusal
from tests.cluster.manifests import BAD, FOR_THE_OPERATOR, GOOD, ON_ONE_MACHINE

from gapo.api.load import load_document
from gapo.errors import SpecError

pytestmark = pytest.mark.cluster
EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


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
        if not mine and by_rows.servers_alone(document["spec"], theirs):
            continue
        if bool(mine) != bool(theirs) or by_rows.apart(document["spec"], theirs):
            apart[case] = (mine, theirs)
    assert apart == {}


def test_the_table_is_as_large_as_it_is_meant_to_be() -> None:
    assert len(GOOD) + len(BAD) >= 40


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_applied(cluster: ControlPlane, example: Path) -> None:
    done = cluster.run("apply", "--dry-run=server", "--validate=strict", "-f", str(example))
    # One is for a single machine, and says so.
    words = "engine vllm runs on one machine alone" if "engine: vllm" in example.read_text() else ""
    assert (done.returncode == 0, words in done.stderr) == (words == "", True), done.stderr


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
