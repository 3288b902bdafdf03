"""Good and bad manifests: what changes in the smoke run, and a part of the message that a user must read.

Both judges are held to this table: the client, as `gapo validate` reads a manifest, and a real API server with nothing
but the CRD. ON_ONE_MACHINE is what only the client takes, FOR_THE_OPERATOR what only the server takes.
"""

from __future__ import annotations

from typing import Any

SCORER_OFF: dict[str, Any] = {
    "evaluation": {"scorer": "none"},
    "guards": {"hacking": {"action": "off"}},
    "convergence": {"enabled": False},
}
OWN_DATA: dict[str, Any] = {
    "generate": None,
    "sources": [{"uri": "s3://data/mine.jsonl", "sha256": "a" * 64}],
}


def model(address: str) -> dict[str, Any]:
    """In the place of one from scratch."""
    return {"fromScratch": None, "model": address}


HF = model("hf://org/name")


def pod(**fields: Any) -> dict[str, Any]:
    """For the generator's pods."""
    return {"roles": {"generator": {"pod": fields}}}


SMALL: dict[str, Any] = {"ppo": {"miniBatch": 64}}
"""For profile 7b, whose minibatch is larger than the smoke run's 64 rollouts."""

GOOD: dict[str, dict[str, Any]] = {
    "the smoke run": {},
    "ppo": {"method": "PPO"},
    "sft without a reward model": {"method": "SFT", "rewardModel": None},
    "the verifier as reward": {"method": "PPO", "rewardModel": {"fromScratch": None, "lr": None, "source": "verifier"}},
    "models from the hub": {"generator": HF, "rewardModel": HF, **SMALL},
    "models from buckets and volumes": {
        "generator": model("s3://models/qwen/0.5b"), "rewardModel": model("pvc://encoders.team-1/bert/base/"),
        "critic": {"model": "az://models"}, **SMALL,
    },
    "models at a commit and in the image": {
        "generator": model("hf://org/name@refs/pr/1"), "rewardModel": model("/models/bert"), **SMALL,
    },
    "own data": {"data": OWN_DATA, "generator": HF, "rewardModel": HF, **SMALL},
    "no verifier": SCORER_OFF,
    "no verifier and no stages": {
        "evaluation": {"scorer": "none"}, "guards": {"hacking": {"action": "off"}}, "stages": {"max": 0},
    },
    "a profile": {"profile": "7b", **SMALL},
    "the longest prompt's room": {"generation": {"maxNewTokens": 47}},
    "several samples a prompt": {"generation": {"samplesPerPrompt": 4}},
    "resume from the best stage": {"resumeFrom": {"run": "other", "runID": "abc123", "stage": "best"}},
    "resume from a number": {"resumeFrom": {"run": "other", "runID": "abc123", "stage": 3}},
    "a run ID": {"runID": "second-try"},
    "a folder in storage": {"storage": {"location": "team", "path": "drafts/v2.1"}},
    "durations": {"checkpoint": {"interval": "1h30m"}, "scheduling": {"pendingTimeout": 600}},
    "resources": {"roles": {"generator": {"resources": {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi", "cpu": "500m"}}}}},
    "suspended": {"suspend": True},
    "a budget": {"budget": {"rollouts": 1000, "gpuHours": 2.5}},
    "betas": {"ppo": {"betas": [0.9, 0.999]}},
    "longformer": {"rewardModel": {"fromScratch": {"arch": "longformer"}}},
    "whole numbers for fractions": {"ppo": {"betas": [0, 0.5], "clipLow": 0.5, "valueClip": 0}},
    "a fraction of a second": {"checkpoint": {"interval": "0.5s"}},
    "requests up to the limits": {
        "roles": {"data": {"resources": {
            "requests": {"cpu": "1500m", "memory": "1Gi", "ephemeral-storage": 7},
            "limits": {"cpu": "1.5", "memory": "1025Mi"}}}},
    },
    "placement": {
        "scheduling": {
            "priorityClassName": "batch", "activeDeadlineSeconds": 3600, "ttlSecondsAfterFinished": 0,
            "managedBy": "kueue.x-k8s.io/multikueue",
        },
    },
    "a pod with all that it may have": pod(
        nodeSelector={"topology.kubernetes.io/zone": "a", "gpu": ""},
        tolerations=[{"operator": "Exists"}, {"key": "gpu", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 30}],
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["a", "b"]}]}]}}},
        topologySpreadConstraints=[{"topologyKey": "kubernetes.io/hostname", "maxSkew": 2}],
        priorityClassName="high", runtimeClassName="nvidia", schedulerName="volcano",
        labels={"example.com/team": "nlp"}, annotations={"example.com/note": "two words"},
        env=[{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "EMPTY"}],
        envFromSecrets=["hub"], imagePullSecrets=["registry"], fsGroup=2000,
        persistentVolumeClaims=[{"name": "models", "mountPath": "/models", "readOnly": True}],
        serviceAccountName="trainer", profile="rdma",
    ),
    "a queue of Volcano's": {"scheduling": {"scheduler": "volcano", "queueName": "gpus"}},
    "devices by claims": pod(resourceClaims=[
        {"name": "gpu", "resourceClaimTemplateName": "two-gpus"}, {"name": "fabric", "resourceClaimName": "shared"},
    ]),
    "a cache of models": {"roles": {"rewardModel": {"cache": {"persistentVolumeClaim": "models"}}}},
    "amounts in every form that pods take": {
        "roles": {
            "data": {"resources": {"limits": {"cpu": 0.5, "memory": 1e9, "ephemeral-storage": "1E"}}},
            "generator": {"resources": {"limits": {"cpu": "1.", "memory": "1.5Gi", "ephemeral-storage": "12e6"}}},
            "rewardModel": {"resources": {"limits": {"cpu": "+.5", "memory": "1E3", "ephemeral-storage": "2E+9"}}},
            "evaluation": {"resources": {"limits": {"cpu": "500000000n", "memory": 0}}},
        },
    },
    "as many devices requested as allowed": {
        "roles": {"generator": {"resources": {"requests": {"nvidia.com/gpu": 2}, "limits": {"nvidia.com/gpu": "2"}}}},
    },
}  # fmt: skip

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no generator": ({"generator": None}, "generator"),
    "no data": ({"data": None}, "data"),
    "no reward model": ({"rewardModel": None}, "only SFT does without"),
    "an unknown method": ({"method": "DPO"}, "method"),
    "a misspelt field": ({"genrator": {}}, "genrator"),
    "a misspelt nested field": ({"ppo": {"actorLR": 1e-4}}, "actorLR"),
    "text for a number": ({"seed": "one"}, "seed"),
    "a fraction for a whole number": ({"stages": {"iterations": 2.5}}, "iterations"),
    "a number for truth": ({"suspend": 3}, "suspend"),
    "text for truth": ({"suspend": "yes"}, "suspend"),
    "one for truth": ({"data": {"dedup": 1}}, "dedup"),
    "truth for a number": ({"seed": True}, "seed"),
    "digits as text": ({"seed": "1"}, "seed"),
    "digits as text where there may be none": ({"budget": {"rollouts": "1000"}}, "rollouts"),
    "a fraction as text": ({"ppo": {"actorLr": "1e-4"}}, "actorLr"),
    "truth for a fraction": ({"ppo": {"clipLow": True}}, "clipLow"),
    "text in a list of fractions": ({"ppo": {"betas": [0.9, "0.95"]}}, "betas"),
    "a number for text": ({"runID": 12}, "runID"),
    "a stage's number as text": ({"resumeFrom": {"run": "o", "runID": "a", "stage": "3"}}, "stage"),
    "a negative seed": ({"seed": -1}, "seed"),
    "a learning rate of zero": ({"ppo": {"actorLr": 0}}, "actorLr"),
    "a share above one": ({"evaluation": {"temperature": -1}}, "temperature"),
    "too large a share": ({"adversarial": {"generatedShareOfNegatives": 0.9}}, "generatedShareOfNegatives"),
    "a batch that is no multiple of four": ({"rewardModel": {"batch": 30}}, "batch"),
    "both kinds of generator": ({"generator": {"model": "hf://org/name"}}, "exactly one of model and fromScratch"),
    "neither kind of generator": ({"generator": {"fromScratch": None}}, "exactly one of model and fromScratch"),
    "both kinds of reward model": ({"rewardModel": {"model": "hf://org/name"}}, "exactly one of model and fromScratch"),
    "a model from nowhere": ({"generator": model("http://models/qwen"), **SMALL}, "unknown kind of address; write hf://org/name"),
    "a model beside its bucket": ({"rewardModel": model("s3://models/../other"), **SMALL}, "no part is . or .."),
    "a model beside its claim": ({"critic": {"model": "pvc://models/a/../../b"}}, "pvc://claim/folder"),
    "a claim that has no name": ({"generator": model("pvc:///models"), **SMALL}, "name of a volume claim"),
    "a repository that has no name": ({"rewardModel": model("hf://org/name/folder"), **SMALL}, "write hf://org/name"),
    "keys in an address": (
        {"generator": model("s3://key:secret@models/qwen"), **SMALL}, "credentials come from the environment",
    ),
    "a file of data from nowhere": (
        {"data": {**OWN_DATA, "sources": [{"uri": "https://data/x", "sha256": "a" * 64}]},
         "generator": HF, "rewardModel": HF, **SMALL}, "gs://",
    ),
    "a folder as a file of data": (
        {"data": {**OWN_DATA, "sources": [{"uri": "s3://data/folder/", "sha256": "a" * 64}]},
         "generator": HF, "rewardModel": HF, **SMALL}, "write s3://bucket/folder/file",
    ),
    "a generator that reads both ways": ({"generator": {"fromScratch": {"arch": "encoder"}}}, "writes left to right"),
    "a reward model that reads one way": ({"rewardModel": {"fromScratch": {"arch": "decoder"}}}, "reads both ways"),
    "an odd width": ({"generator": {"fromScratch": {"hidden": 66}}}, "multiple of heads"),
    "lora": ({"generator": {"lora": {"r": 8}}}, "lora is not supported"),
    "lora of the critic": ({"critic": {"lora": {"r": 8}}}, "lora is not supported"),
    "steps and epochs": ({"rewardModel": {"epochs": 2}}, "steps or epochs, not both"),
    "mean pooling of windows": (
        {"rewardModel": {"pooling": "mean", "globalAttention": "cls"}}, "reads each window alone",
    ),
    "generated and own data": ({"data": {"sources": OWN_DATA["sources"]}}, "exactly one of generate and sources"),
    "neither kind of data": ({"data": {"generate": None}}, "exactly one of generate and sources"),
    "own data for a generator from scratch": ({"data": OWN_DATA, "rewardModel": HF}, "takes its tokenizer"),
    "own data for a reward model from scratch": ({"data": OWN_DATA, "generator": HF}, "takes its tokenizer"),
    "an unknown grammar": ({"data": {"generate": {"grammar": "poems"}}}, "grammar"),
    "too little data": ({"data": {"generate": {"size": 10}}}, "size"),
    "a wrong digest": ({"data": {**OWN_DATA, "sources": [{"uri": "s3://d/x", "sha256": "zz"}]},
                        "generator": HF, "rewardModel": HF}, "sha256"),
    "gapo with the verifier": (
        {"rewardModel": {"fromScratch": None, "source": "verifier"}}, "nothing to retrain",
    ),
    "labels without a verifier": ({**SCORER_OFF, "adversarial": {"passingLabel": "drop"}}, "passingLabel"),
    "hard samples that are all labelled 0": ({"adversarial": {"selection": "hard"}}, "selection hard"),
    "near misses above all": ({"adversarial": {"promptSwaps": 1.5}}, "promptSwaps"),
    "the hacking guard without a verifier": ({**SCORER_OFF, "guards": {"hacking": {"action": "warn"}}}, "guards.hacking"),
    "convergence without a verifier": ({**SCORER_OFF, "convergence": {"enabled": True}}, "convergence"),
    "the verifier as reward without a verifier": (
        {**SCORER_OFF, "method": "PPO", "rewardModel": {"fromScratch": None, "source": "verifier"}},
        "needs evaluation.scorer: verifier",
    ),
    "no room for the prompt": ({"generation": {"maxNewTokens": 48}}, "the prompt needs room"),
    "more minimum than maximum": ({"stages": {"min": 4}}, "stages.min"),
    "the minimum above the default maximum": ({"stages": {"max": None, "min": 13}}, "stages.min"),
    "too large a minibatch": ({"ppo": {"miniBatch": 65}}, "ppo.miniBatch"),
    "too large a minibatch for the default": (
        {"stages": {"rolloutsPerIteration": None}, "ppo": {"miniBatch": 129}}, "ppo.miniBatch",
    ),
    "rollouts that cannot be shared out": ({"generation": {"samplesPerPrompt": 5}}, "samplesPerPrompt"),
    "a stage that is no stage": ({"resumeFrom": {"run": "o", "runID": "a", "stage": "middle"}}, "stage"),
    "a stage before the first": ({"resumeFrom": {"run": "o", "runID": "a", "stage": -1}}, "stage"),
    "resuming without saying whose run": ({"resumeFrom": {"run": "other"}}, "runID"),
    "a duration without a unit": ({"checkpoint": {"interval": "5 minutes"}}, "duration"),
    "a fraction of a second as a number": ({"checkpoint": {"interval": 0.5}}, "interval"),
    "truth for a duration": ({"checkpoint": {"interval": True}}, "interval"),
    "no time at all": ({"scheduling": {"pendingTimeout": "0s"}}, "pendingTimeout"),
    "an amount that is none": (
        {"roles": {"generator": {"resources": {"limits": {"memory": "lots"}}}}}, "memory",
    ),
    "an amount with a unit that is none": (
        {"roles": {"generator": {"resources": {"limits": {"memory": "16K"}}}}}, "memory",
    ),
    "a negative amount": ({"roles": {"data": {"resources": {"limits": {"cpu": -0.5}}}}}, "cpu"),
    "truth for an amount": ({"roles": {"data": {"resources": {"limits": {"cpu": True}}}}}, "cpu"),
    "a list for an amount": ({"roles": {"data": {"resources": {"limits": {"cpu": ["1"]}}}}}, "cpu"),
    "an object for an amount": ({"roles": {"data": {"resources": {"limits": {"cpu": {"value": 1}}}}}}, "cpu"),
    "servers for an engine that has none": ({"rollout": {"replicas": 2}}, "replicas and hold are of the servers"),
    "no servers, held for the run": ({"rollout": {"hold": "run"}}, "replicas and hold are of the servers"),
    "a remote file without its digest": (
        {"data": {**OWN_DATA, "sources": [{"uri": "s3://d/x"}]}, "generator": HF, "rewardModel": HF, **SMALL}, "sha256",
    ),
    "no time to run": ({"scheduling": {"activeDeadlineSeconds": 0}}, "activeDeadlineSeconds"),
    "an end before the end": ({"scheduling": {"ttlSecondsAfterFinished": -1}}, "ttlSecondsAfterFinished"),
    "a manager without a domain": ({"scheduling": {"managedBy": "me"}}, "managedBy"),
    "a field of pods that is not offered": (pod(hostNetwork=True), "hostNetwork"),
    "an affinity that is none": (pod(affinity={"gpuAffinity": {}}), "gpuAffinity"),
    "a toleration of everything that says Equal": (pod(tolerations=[{"value": "x"}]), "without a key"),
    "a toleration of any value that has one": (
        pod(tolerations=[{"key": "a", "operator": "Exists", "value": "x"}]), "Exists takes no value",
    ),
    "a label's value with a space": (pod(labels={"example.com/a": "b c"}), "labels"),
    "a variable with a dash": (pod(env=[{"name": "A-B", "value": "1"}]), "env"),
    "a variable of gapo's own": (pod(env=[{"name": "POD_UID", "value": "1"}]), "set by gapo"),
    "a variable twice": (pod(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), "Duplicate value"),
    "a number as a variable's value": (pod(env=[{"name": "A", "value": 1}]), "value"),
    "two claims in one place": (
        pod(persistentVolumeClaims=[{"name": "a", "mountPath": "/m"}, {"name": "b", "mountPath": "/m"}]), "Duplicate value",
    ),
    "a scheduler that is not offered": ({"scheduling": {"scheduler": "yunikorn"}}, "scheduler"),
    "a device claim from nowhere": (pod(resourceClaims=[{"name": "gpu"}]), "exactly one of resourceClaimName"),
    "a device claim from two places": (
        pod(resourceClaims=[{"name": "gpu", "resourceClaimName": "a", "resourceClaimTemplateName": "b"}]),
        "exactly one of resourceClaimName",
    ),
    "a device claim twice": (
        pod(resourceClaims=[{"name": "a", "resourceClaimName": "b"}, {"name": "a", "resourceClaimName": "c"}]),
        "Duplicate value",
    ),
    "a claim over the system": (pod(persistentVolumeClaims=[{"name": "a", "mountPath": "/etc/ssl"}]), "gapo's own"),
    "a claim that leads elsewhere": (pod(persistentVolumeClaims=[{"name": "a", "mountPath": "/m/../etc"}]), "mountPath"),
    "a relative path for a claim": (pod(persistentVolumeClaims=[{"name": "a", "mountPath": "models"}]), "mountPath"),
    "a claim over those of models": (pod(persistentVolumeClaims=[{"name": "a", "mountPath": "/volumes/a"}]), "gapo's own"),
    "the group of root": (pod(fsGroup=0), "fsGroup"),
    "a secret with capitals": (pod(envFromSecrets=["Hub"]), "envFromSecrets"),
    "more variables than there may be": (pod(env=[{"name": f"V{n}"} for n in range(65)]), "env"),
    "a guard that could never stop the run": (
        {**SCORER_OFF, "guards": {"hacking": {"action": "off"}, "fidelity": {"action": "stop"}}}, "guards.fidelity reads",
    ),
    "a guard that could never go back": (
        {**SCORER_OFF, "guards": {"hacking": {"action": "off"}, "labels": {"action": "rollback"}}}, "guards.labels reads",
    ),
    "a run ID with capitals": ({"runID": "Second"}, "runID"),
    "a path that leads elsewhere": ({"storage": {"path": "a/../../other"}}, "path"),
    "one beta": ({"ppo": {"betas": [0.9]}}, "betas"),
    "too many stages": ({"stages": {"max": 500}}, "max"),
}  # fmt: skip

FOR_THE_OPERATOR: dict[str, tuple[dict[str, Any], str]] = {
    "requests above limits": (
        {"roles": {"generator": {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1000M"}}}}},
        "requests are above limits",
    ),
    "fewer devices requested than allowed": (
        {"roles": {"generator": {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}}}},
        "must equal its limits",
    ),
    "devices requested without limits": (
        {"roles": {"rewardModel": {"resources": {"requests": {"nvidia.com/gpu": 1}}}}}, "must equal its limits",
    ),
    "an affinity longer than a page": (
        pod(affinity={"nodeAffinity": {"note": "x" * 17_000}}), "bytes as JSON; at most 16384 are allowed",
    ),
}  # fmt: skip
"""What the client refuses, and the operator with the same words, but no API server: amounts that may be fractions, and
terms of an affinity, are values of any kind to it, which its rules cannot see."""

ON_ONE_MACHINE: dict[str, tuple[dict[str, Any], str]] = {
    case: (
        {"data": {**OWN_DATA, "sources": [source]}, "generator": HF, "rewardModel": HF, **SMALL},
        words,
    )
    for case, source, words in (
        ("a file beside the manifest", {"uri": "mine.jsonl"}, "upload the file"),
        ("a file by its address", {"uri": "file://mine.jsonl"}, "upload the file"),
        ("a file without its digest", {"uri": "mine.jsonl"}, "sha256 is needed on a cluster"),
    )
} | {
    "a model beside the manifest": (
        {"generator": model("models/qwen"), **SMALL},
        "a relative path is a folder of one machine",
    ),
    "a critic's model beside the manifest": (
        {"critic": {"model": "../qwen"}},
        "a relative path is a folder of one machine",
    ),
    "rollout servers": (
        {"rollout": {"engine": "vllm", "replicas": 2}},
        "engine vllm runs on one machine alone",
    ),
}
"""What `gapo run` takes, with the words in which a cluster refuses it. The file is there."""
