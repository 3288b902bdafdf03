"""Rules of the API in CEL, where a schema cannot say them (https://kubernetes.io/docs/reference/using-api/cel/).

Each stands for a check that the models make too (`gapo.api`); a test on a real API server holds both to the same
table of manifests. `self.?a.?b.orValue(x)` reads an optional field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from gapo.api.addresses import DATA_FORMS, MODEL_FORMS, Form
from gapo.api.base import ApiModel, FieldClass
from gapo.api.evaluation import Budget
from gapo.api.identity import class_of, model_in
from gapo.api.models import Critic, FromScratch, Generator, RewardModel
from gapo.api.placement import NOT_BUILT, Rollout
from gapo.api.pods import OWN_ENV, OWN_PATHS, ClaimMount, EnvVar, ResourceClaim, Toleration
from gapo.api.profiles import TINY
from gapo.api.run import NEVER_ACTS, VERIFIED_GUARDS, GapoRunSpec
from gapo.api.training import Data, Generation, Ppo, Source, Stages

Rule = Mapping[str, str]


def rule(expression: str, message: str) -> Rule:
    return {"rule": expression, "message": message}


def _default(model: type[ApiModel], name: str) -> object:
    return model.model_fields[name].default


def _tiny_or(section: str, key: str, model: type[ApiModel], name: str) -> str:
    """The default of a field that the tiny profile sets, chosen as the profile is."""
    return f"({IS_TINY} ? {TINY[section][key]} : {_default(model, name)})"


def _formed(form: Form, field: str) -> Rule:
    return rule(
        f"!self.{field}.matches('{form.applies}') || self.{field}.matches('{form.pattern}')", form.message
    )


def _if_there(field: str, found: Rule) -> Rule:
    return rule(f"!has(self.{field}) || {found['rule']}", found["message"])


MODEL = tuple(
    _if_there("model", one)
    for one in (
        *(_formed(form, "model") for form in MODEL_FORMS),
        rule(
            "self.model.matches('^(/|[A-Za-z0-9+.-]+:)')",
            "a relative path is a folder of one machine; a cluster reads models from hf://, s3://, gs://, az://, "
            "pvc://, or an absolute path of its pods",
        ),
    )
)
"""Where a model may lie."""

IS_TINY = "(self.?profile.orValue(has(self.generator.fromScratch) ? 'tiny' : '7b') == 'tiny')"
SCORED = "self.?evaluation.?scorer.orValue('verifier') != 'none'"
METHOD = f"self.?method.orValue('{_default(GapoRunSpec, 'method')}')"
BY_VERIFIER = "self.?rewardModel.?source.orValue('rewardModel') == 'verifier'"
STAGES_MAX = f"self.?stages.?max.orValue({_default(Stages, 'max')})"
_MINI_BATCH = f"self.?ppo.?miniBatch.orValue({_tiny_or('ppo', 'miniBatch', Ppo, 'mini_batch')})"
_ROLLOUTS = (
    "self.?stages.?rolloutsPerIteration.orValue("
    f"{_tiny_or('stages', 'rolloutsPerIteration', Stages, 'rollouts_per_iteration')})"
)

OF_MODEL: Mapping[type[BaseModel], tuple[Rule, ...]] = {
    FromScratch: (
        rule(
            f"self.?hidden.orValue({_default(FromScratch, 'hidden')})"
            f" % self.?heads.orValue({_default(FromScratch, 'heads')}) == 0",
            "hidden must be a multiple of heads",
        ),
    ),
    Generator: (
        rule("has(self.model) != has(self.fromScratch)", "give exactly one of model and fromScratch"),
        rule("!has(self.lora)", "lora is not supported yet; leave it out to train all weights"),
        rule(
            "self.?fromScratch.?arch.orValue('decoder') == 'decoder'",
            "fromScratch.arch must be decoder: the generator writes left to right",
        ),
        *MODEL,
    ),
    RewardModel: (
        rule(
            "self.?source.orValue('rewardModel') == 'verifier' || has(self.model) != has(self.fromScratch)",
            "give exactly one of model and fromScratch, or source: verifier",
        ),
        rule("!(has(self.steps) && has(self.epochs))", "give steps or epochs, not both"),
        rule(
            "!has(self.fromScratch) || self.fromScratch.?arch.orValue('decoder') != 'decoder'",
            "fromScratch.arch must be encoder or longformer: the reward model reads both ways",
        ),
        rule(
            "!(self.?pooling.orValue('cls') == 'mean' && self.?globalAttention.orValue('prompt') == 'cls')",
            "pooling mean with globalAttention cls reads each window alone; use prompt",
        ),
        *MODEL,
    ),
    Critic: MODEL,
    Data: (
        rule(
            "has(self.generate) != (has(self.sources) && size(self.sources) > 0)",
            "give exactly one of generate and sources",
        ),
    ),
    Source: (
        rule(
            "self.uri.matches('^(s3|gs|az)://')",
            "a cluster reads data from s3://, gs:// or az:// only; upload the file and write its address here",
        ),
        _formed(DATA_FORMS[-1], "uri"),
        rule(
            "has(self.sha256)",
            "sha256 is needed on a cluster: it identifies the run; `sha256sum FILE` prints it",
        ),
    ),
    Rollout: (
        rule("self.?engine.orValue('transformers') == 'transformers'", f"engine vllm {NOT_BUILT}"),
        rule("self.?replicas.orValue(1) == 1", f"replicas other than 1 {NOT_BUILT}"),
    ),
    Toleration: (
        rule(
            "!has(self.value) || self.?operator.orValue('Equal') == 'Equal' || self.value == ''",
            "operator Exists takes no value",
        ),
        rule(
            "has(self.key) || self.?operator.orValue('Equal') == 'Exists'",
            "without a key the operator must be Exists",
        ),
    ),
    EnvVar: (rule(f"!(self.name in {list(OWN_ENV)})", f"{', '.join(OWN_ENV)} are set by gapo"),),
    ClaimMount: (
        rule(
            f"!self.mountPath.matches('{OWN_PATHS}')",
            "mountPath lies in a folder of the system's or of gapo's own; choose another",
        ),
    ),
    ResourceClaim: (
        rule(
            "has(self.resourceClaimName) != has(self.resourceClaimTemplateName)",
            "give exactly one of resourceClaimName and resourceClaimTemplateName",
        ),
    ),
    GapoRunSpec: (
        rule(
            f"{METHOD} == 'SFT' || has(self.rewardModel)",
            "rewardModel is needed by this method; only SFT does without",
        ),
        rule(
            f"!({METHOD} == 'GAPO' && {BY_VERIFIER})",
            "rewardModel.source verifier has nothing to retrain; use method PPO",
        ),
        rule(
            f"{SCORED} || self.?adversarial.?passingLabel.orValue('zero') == 'zero'",
            "adversarial.passingLabel other than zero needs evaluation.scorer: verifier",
        ),
        rule(
            "self.?adversarial.?selection.orValue('all') != 'hard' || "
            "self.?adversarial.?passingLabel.orValue('zero') != 'zero'",
            "adversarial.selection hard needs passingLabel drop, half or one",
        ),
        rule(
            f"{SCORED} || self.?guards.?hacking.?action.orValue('warn') == 'off'",
            "guards.hacking needs evaluation.scorer: verifier; set its action to off",
        ),
        *(
            rule(
                f"{SCORED} || !(self.?guards.?{name}.?action.orValue('warn') in ['stop', 'rollback'])",
                f"guards.{name} {NEVER_ACTS}",
            )
            for name in VERIFIED_GUARDS
        ),
        rule(
            f"{SCORED} || !({BY_VERIFIER})",
            "rewardModel.source verifier needs evaluation.scorer: verifier",
        ),
        rule(
            f"{SCORED} || {STAGES_MAX} == 0 || !self.?convergence.?enabled.orValue(true)",
            "convergence needs evaluation.scorer: verifier; set convergence.enabled to false",
        ),
        rule(
            "!has(self.generator.fromScratch) || "
            f"self.?generation.?maxNewTokens.orValue({_tiny_or('generation', 'maxNewTokens', Generation, 'max_new_tokens')}) < "
            f"self.generator.fromScratch.?maxPositions.orValue({_default(FromScratch, 'max_positions')})",
            "generation.maxNewTokens must be below generator.fromScratch.maxPositions: the prompt needs room too",
        ),
        rule("!has(self.critic) || !has(self.critic.lora)", "critic.lora is not supported yet; leave it out"),
        rule(
            f"self.?stages.?min.orValue({_default(Stages, 'min')}) <= {STAGES_MAX}",
            "stages.min is above stages.max",
        ),
        rule(
            f"{_MINI_BATCH} <= {_ROLLOUTS}",
            "ppo.miniBatch is above stages.rolloutsPerIteration",
        ),
        rule(
            f"{_ROLLOUTS} % self.?generation.?samplesPerPrompt.orValue(1) == 0",
            "stages.rolloutsPerIteration must be a multiple of generation.samplesPerPrompt",
        ),
        rule(
            "!(has(self.data.sources) && size(self.data.sources) > 0 && has(self.generator.fromScratch))",
            "generator.fromScratch takes its tokenizer from data.generate; with data.sources give generator.model",
        ),
        rule(
            "!(has(self.data.sources) && size(self.data.sources) > 0 && "
            "has(self.rewardModel) && has(self.rewardModel.fromScratch))",
            "rewardModel.fromScratch takes its tokenizer from data.generate; with data.sources give rewardModel.model",
        ),
    ),
}
"""By the model in whose schema they stand."""

STARTED = "has(oldSelf.status) && has(oldSelf.status.runID)"
"""The operator writes status.runID with the first thing that it does for a run."""

OF_FIELD: Mapping[str, tuple[Rule, ...]] = {
    "resumeFrom.stage": (
        rule(
            "type(self) == int ? self >= 0 : self in ['best', 'last']",
            "stage is best, last or a stage's number",
        ),
    ),
    **{
        where: (
            rule(
                "type(self) == int ? self > 0 : self.matches('^([0-9]+([.][0-9]+)?[smh])+$') && self.matches('[1-9]')",
                "write a duration such as 30s, 5m or 1h30m",
            ),
        )
        for where in ("checkpoint.interval", "scheduling.pendingTimeout")
    },
}
"""By dotted path in the spec."""


def of_root() -> Iterator[Rule]:
    """Rules over the whole object: what may change once a run has started."""
    yield rule(
        "self.metadata.name.matches('^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$')",
        "metadata.name has at most 40 characters: lower-case letters, digits and -",
    )
    yield from _unchanging(GapoRunSpec, "spec", None)
    yield rule(
        f"!({STARTED}) || {_stages_max('self')} >= {_stages_max('oldSelf')}",
        "spec.stages.max can only be raised once the run has started",
    )
    for field in Budget.model_fields.values():
        where = f"spec.budget.{field.alias}"
        now, before = _has("self", where), _has("oldSelf", where)
        yield rule(
            f"!({STARTED}) || !({now}) || (({before}) && self.{where} >= oldSelf.{where})",
            f"{where} can only be raised or left out once the run has started; left out, there is no limit",
        )


def _stages_max(who: str) -> str:
    where = "spec.stages.max"
    return f"({_has(who, where)} ? {who}.{where} : {_default(Stages, 'max')})"


def _has(who: str, where: str) -> str:
    """CEL: the field is there, and every section above it."""
    parts = where.split(".")
    return " && ".join(f"has({'.'.join([who, *parts[:n]])})" for n in range(2, len(parts) + 1))


WORDS = {
    FieldClass.IDENTITY: "is part of what the run is and cannot change once it has started; give another name to another run",
    FieldClass.FIXED: "says where the run lies and cannot change once it has started",
}


def _unchanging(model: type[ApiModel], path: str, inherited: FieldClass | None) -> Iterator[Rule]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        own, nested = class_of(field, inherited), model_in(field)
        where = f"{path}.{key}"
        if own in WORDS and (nested is None or not _mixed(nested, own)):
            yield rule(f"!({STARTED}) || {_same(where)}", f"{where} {WORDS[own]}")
        elif nested is not None:
            yield from _unchanging(nested, where, own)


def _same(where: str) -> str:
    """CEL: the field is in both or in neither, and equal. Spelt out, because the API server cannot bound the cost of
    comparing optional values (`self.?a == oldSelf.?a`) of text and objects, and refuses the CRD."""
    there = [_has(who, where) for who in ("self", "oldSelf")]
    return f"({there[0]}) == ({there[1]}) && (!({there[0]}) || self.{where} == oldSelf.{where})"


def _mixed(model: type[ApiModel], inherited: FieldClass | None) -> bool:
    """Whether a section has fields of several classes."""
    for field in model.model_fields.values():
        own, nested = class_of(field, inherited), model_in(field)
        if own != inherited or (nested is not None and _mixed(nested, own)):
            return True
    return False
