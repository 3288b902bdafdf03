from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gapo.api.base import STORED
from gapo.api.load import load_document, load_run
from gapo.api.run import GapoRunSpec
from gapo.api.yaml_reader import read_documents
from gapo.errors import DataError, SpecError

HEAD = "apiVersion: gapo.dev/v1alpha1\nkind: GapoRun\nmetadata: {name: tried}\nspec:\n"
MODELS = (
    "  data: {generate: {grammar: micro, size: 100}}\n  generator: {fromScratch: {}}\n  rewardModel: {fromScratch: "
    "{arch: encoder}}\n"
)


def loaded(folder: Path, lines: str):
    file = folder / "run.yaml"
    file.write_text(HEAD + MODELS + lines)
    return load_run(file)


def refused(folder: Path, lines: str) -> str:
    with pytest.raises(SpecError) as found:
        loaded(folder, lines)
    return str(found.value)


@pytest.mark.parametrize(
    ("word", "value"),
    [("1e-4", 0.0001), ("1.0e4", 10000.0), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("y", True), ("NO", False),
     ("017", 15), ("08", 8.0), ("1_000", 1000), ("'1e-4'", "1e-4"), ("1.5.2", "1.5.2"), ("-.5", -0.5), ("~", None)],
)  # fmt: skip
def test_an_unquoted_word_is_what_the_tools_of_kubernetes_make_of_it(word: str, value: object) -> None:
    (found,) = read_documents(f"a: {word}")
    assert found["a"] == value
    assert type(found["a"]) is type(value)


def test_a_number_with_an_exponent_is_a_number_and_in_quotes_it_is_text(tmp_path: Path) -> None:
    small = loaded(tmp_path, "  ppo: {actorLr: 1e-4, miniBatch: 1e2}\n")
    assert (small.spec.ppo.actor_lr, small.spec.ppo.mini_batch) == (1e-4, 100)
    assert small.run_id == loaded(tmp_path, "  ppo: {actorLr: 0.0001, miniBatch: 100}\n").run_id
    assert (
        "spec.ppo.actorLr: input should be a valid number, written without quotes (given: '1e-4')"
        in refused(tmp_path, "  ppo: {actorLr: '1e-4'}\n")
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed: '1'", "spec.seed: input should be a valid integer, written without quotes (given: '1')"),
        ("seed: true", "spec.seed: input should be a valid integer"),
        ("seed: 1.5", "spec.seed: input should be a valid integer, got a number with a fractional part"),
        ("suspend: 'yes'", "spec.suspend: write true or false, without quotes (given: 'yes')"),
        ("suspend: 1", "spec.suspend: write true or false"),
        ("budget: {tokens: '5'}", "spec.budget.tokens: input should be a valid integer"),
        ("ppo: {betas: [0.9, '0.95']}", "spec.ppo.betas: input should be a valid number"),
        ("runID: 12345678", "spec.runID: needs text; put it in quotes (given: 12345678)"),
        ("checkpoint: {interval: 0.5}", "write a fraction of a second as text, such as 0.5s"),
        ("checkpoint: {interval: true}", "write a duration such as 30s, 5m or 1h30m"),
        ("roles: {data: {resources: {limits: {cpu: true}}}}", "spec.roles.data.resources.limits.cpu: "),
        ("roles: {data: {resources: {limits: {cpu: -0.5}}}}", "cpu: string should match pattern"),
    ],
)  # fmt: skip
def test_one_kind_of_value_is_not_taken_for_another(tmp_path: Path, line: str, words: str) -> None:
    assert words in refused(tmp_path, f"  {line}\n")


def test_whole_numbers_do_for_fractions_and_a_fraction_of_nothing_for_whole_numbers(tmp_path: Path) -> None:
    spec = loaded(tmp_path, "  ppo: {clipHigh: 1, betas: [0, 0.9]}\n  stages: {max: 3.0}\n").spec
    assert (spec.ppo.clip_high, spec.ppo.betas, spec.stages.max) == (1.0, (0.0, 0.9), 3)


@pytest.mark.parametrize(
    ("written", "stored"), [("0.2s", "0.2s"), ("90s", 90), ("1h0.5s", "3600.5s"), (7, 7)]
)
def test_a_duration_is_shown_as_a_manifest_may_hold_it(tmp_path: Path, written: Any, stored: Any) -> None:
    spec = loaded(tmp_path, f"  checkpoint: {{interval: {written}}}\n").spec
    shown = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert shown["checkpoint"] == {"interval": stored}
    document = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "tried"}}
    assert load_document({**document, "spec": shown}, where="shown", base=tmp_path).spec == spec


@pytest.mark.parametrize(
    ("requests", "limits", "words"),
    [
        ({"memory": "1Gi"}, {"memory": "1000M"}, "requests are above limits: memory 1Gi and 1000M"),
        ({"cpu": "1001m"}, {"cpu": 1}, "requests are above limits"),
        ({"cpu": "1"}, {"cpu": ".5"}, "requests are above limits"),
        ({"nvidia.com/gpu": 1}, {"nvidia.com/gpu": 2}, "requests of nvidia.com/gpu must equal its limits"),
        ({"rdma/hca": 1}, {}, "requests of rdma/hca must equal its limits"),
        ({"memory": "1K"}, {}, "should match pattern"),
        ({"memory": "1025Mi", "cpu": "1500m"}, {"memory": "1.1Gi", "cpu": "1.5"}, None),
        ({"memory": "1E"}, {"memory": "1Ei"}, None),
        ({"cpu": 0.5, "memory": 1e9}, {"cpu": "500m", "memory": "1G"}, None),
        ({"cpu": 0.501}, {"cpu": "500m"}, "requests are above limits: cpu 0.501 and 500m"),
        ({"memory": "1e3"}, {"memory": "1k"}, None),
        ({"memory": "1001"}, {"memory": "1E3"}, "requests are above limits"),
        ({"cpu": "500000001n"}, {"cpu": "500000u"}, "requests are above limits"),
        ({"cpu": "+.5"}, {"cpu": "1."}, None),
        ({"memory": "1e"}, {}, "should match pattern"),
        ({"memory": "1e999999999"}, {}, "should match pattern"),
        ({"nvidia.com/gpu": 2}, {"nvidia.com/gpu": "2"}, None),
        ({"memory": "1Gi"}, {"cpu": 1}, None),
    ],
)  # fmt: skip
def test_requests_stay_within_limits(tmp_path: Path, requests: Any, limits: Any, words: str | None) -> None:
    lines = f"  roles: {{data: {{resources: {{requests: {requests}, limits: {limits}}}}}}}\n"
    if words is None:
        assert loaded(tmp_path, lines).spec.roles.data.resources.requests
    else:
        assert words in refused(tmp_path, lines)


@pytest.mark.parametrize(
    ("written", "stored"),
    [("0.5", "0.5"), ("1e9", "1000000000"), ("1e-3", "0.001"), ("2.0", "2"), ("7", "7"), ("1.5Gi", "1.5Gi"), ("'1e9'", "1e9")],
)  # fmt: skip
def test_an_amount_is_kept_as_text_without_an_exponent(tmp_path: Path, written: str, stored: str) -> None:
    spec = loaded(tmp_path, f"  roles: {{data: {{resources: {{limits: {{cpu: {written}}}}}}}}}\n").spec
    assert spec.roles.data.resources.limits == {"cpu": stored}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ((HEAD + MODELS).encode("utf-16"), "it is UTF-16"),
        ((HEAD + MODELS).encode("utf-16-be"), "zero bytes"),
        (b"# caf\xe9\n" + (HEAD + MODELS).encode(), "line 1: it is not UTF-8 (byte 6)"),
        (b"spec:\n  a: 1\n# \xff\n", "line 3: it is not UTF-8"),
        (b"\0" * 40, "zero bytes"),
        (b"a: [1, 2", "not YAML"),
        (b"a: \x07", "not YAML"),
        (b"[" * 20_000, "nested too deeply"),
        (b"a: &a [*a]", "nested too deeply, or holds itself"),
        (b"a: !!int many", "does not fit its tag"),
        (b"a: !!timestamp soon", "does not fit its tag"),
        (b"a: !!bool perhaps", "does not fit its tag"),
        (b"a: !!binary aGk=", "type bytes means nothing to Kubernetes"),
        (b"a: !!set {b, c}", "type set means nothing"),
        (b"a: !!python/object:os.system x", "not YAML"),
        ("a: 1\n# b\u2028c\n".encode(), "line 2: it holds U+2028, which ends a line in YAML"),
        ("# b\x85c\na: 1\n".encode(), "line 1: it holds U+0085"),
        (b"a: .inf", "is no number that Kubernetes takes"),
        (b'a: "\\ud83d"', "half of a character"),
        (b"? [a]\n: b", "unhashable key"),
        (b"~: b", "cannot be the name of a field"),
        (b"a: 1\nb: 2\na: 3", "line 3: a is there already, in line 1; keep one"),
        (b"s:\n  x: {p: 1,\n  p: 2}", "line 3: p is there already, in line 2"),
        (b'{"a": 1,\n "a": 2}', "line 2: a is there already, in line 1"),
        (b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
            b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 10)) for i in range(8)
        ), "its aliases may multiply"),
        (b"a: 1\n---\nb: 2", "needs exactly one YAML document"),
        (b"kind: List\nitems: []", "this list has 0"),
        (b"kind: GapoRunList\nitems: [{a: 1}, {a: 2}]", "this list has 2"),
    ],
    ids=lambda value: value.decode("latin-1")[:30] if isinstance(value, bytes) else None,
)  # fmt: skip
def test_a_file_that_means_nothing_is_one_line_that_names_it(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(SpecError) as refused:
        load_run(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEAD + MODELS,
        (HEAD + MODELS).replace("\n", "\r\n"),
        "---\n" + HEAD + MODELS + "...\n",
        "---\n---\n" + HEAD + MODELS + "---\n",
    ],
    ids=[
        "a mark of byte order",
        "lines of Windows",
        "marks of a document",
        "empty documents",
    ],
)
def test_how_a_text_was_saved_changes_nothing(tmp_path: Path, text: str) -> None:
    plain = loaded(tmp_path, "").run_id
    (tmp_path / "run.yaml").write_bytes(text.encode())
    assert load_run(tmp_path / "run.yaml").run_id == plain


def test_json_that_is_indented_by_tabs_is_a_manifest_too(tmp_path: Path) -> None:
    (document,) = read_documents(HEAD + MODELS)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(document, indent="\t"))
    assert load_run(file).run_id == loaded(tmp_path, "").run_id


def test_a_key_that_a_merge_brings_may_be_written_over(tmp_path: Path) -> None:
    text = "a: &a {x: 1, z: 2}\nb: &b\n  <<: *a\n  x: 3\nc:\n  <<: *b\n  z: 4\n"
    (found,) = read_documents(text)
    assert (found["b"], found["c"]) == ({"x": 3, "z": 2}, {"x": 3, "z": 4})


@pytest.mark.parametrize(
    "lines",
    [
        "  stages:\n  sft:\n  ppo: {}\n",
        "  ppo: {actorLr: null, kl: }\n",
        "  adversarial: {lr: null}\n  roles:\n    data:\n",
        "  runID: ~\n  retention: {lastStages: }\n  suspend:\n",
        "  roles: {data: {resources: {limits: {cpu: null}}}}\n",
    ],
)
def test_a_field_without_a_value_and_an_empty_section_are_as_if_they_were_not_there(
    tmp_path: Path, lines: str
) -> None:
    nothing, plain = loaded(tmp_path, lines), loaded(tmp_path, "")
    assert (nothing.spec, nothing.run_id) == (plain.spec, plain.run_id)


def test_what_a_server_says_of_an_object_is_passed_over_and_a_misspelt_field_is_not(tmp_path: Path) -> None:
    head = HEAD.replace(
        "{name: tried}",
        "{name: tried, creationTimestamp: '2026-01-01T00:00:00Z', resourceVersion: '7', uid: abc, generation: 2, "
        "managedFields: [{manager: kubectl}], ownerReferences: [], finalizers: [x], selfLink: /a}",
    )
    file = tmp_path / "run.yaml"
    file.write_text(head + MODELS + "status: {stage: 3}\n")
    assert load_run(file).run_id == loaded(tmp_path, "").run_id
    file.write_text(HEAD.replace("{name: tried}", "{name: tried, lables: {}}") + MODELS)
    with pytest.raises(SpecError, match=r"metadata\.lables: unknown field; did you mean labels"):
        load_run(file)


def test_the_only_run_of_a_list_is_a_manifest(tmp_path: Path) -> None:
    (document,) = read_documents(HEAD + MODELS)
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [document]}))
    assert load_run(file).run_id == loaded(tmp_path, "").run_id


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rollout: {replicas: 2}", "spec.rollout: replicas and hold are of the servers of engine vllm"),
        ("rollout: {hold: run}", "spec.rollout: replicas and hold are of the servers of engine vllm"),
    ],
)
def test_a_field_that_nothing_honours_is_refused(tmp_path: Path, line: str, words: str) -> None:
    assert words in refused(tmp_path, f"  {line}\n")
    assert loaded(tmp_path, "  rollout: {engine: transformers, replicas: 1}\n")


def test_a_run_that_was_begun_with_a_field_without_effect_goes_on(tmp_path: Path) -> None:
    resolved = loaded(tmp_path, "").spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    resolved["rollout"] = {"engine": "transformers", "replicas": 4}
    assert GapoRunSpec.model_validate(resolved, context=STORED).rollout.replicas == 4


def test_a_home_folder_is_found_in_every_path_of_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "gen").mkdir(parents=True)
    (home / "rows.jsonl").write_text("{}\n")
    monkeypatch.setenv("HOME", str(home))
    file = tmp_path / "run.yaml"
    file.write_text(
        HEAD
        + "  data: {sources: [{uri: ~/rows.jsonl}, {uri: 'file://~/rows.jsonl'}]}\n  generator: {model: ~/gen}\n"
        "  rewardModel: {model: ~/rm}\n  critic: {model: ~/critic}\n"
    )
    spec = load_run(file).spec
    assert [source.uri for source in spec.data.sources] == [str(home / "rows.jsonl")] * 2
    assert spec.generator.model == str(home / "gen")
    assert spec.critic.model == str(home / "critic")


def test_every_data_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").write_text("{}\n")
    (tmp_path / "folder").mkdir()
    file = tmp_path / "run.yaml"
    sources = "[{uri: none.jsonl}, {uri: there.jsonl}, {uri: folder}, {uri: there.jsonl, sha256: %s}]" % (
        "a" * 64
    )
    file.write_text(
        HEAD + f"  data: {{sources: {sources}}}\n  generator: {{model: g}}\n  rewardModel: {{model: r}}\n"
    )
    with pytest.raises(DataError) as refused:
        load_run(file)
    told = str(refused.value).split("\n")
    assert [line.split(":")[0] for line in told] == ["data.sources.0", "data.sources.2", "data.sources.3"]
    assert "Is a directory" in told[1]
