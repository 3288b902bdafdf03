"""The table: what must hold between fields of the spec. Limits of one field by itself stand with the field.

A row that both sides check is an expression, from which both get their check and their words. One that only one side can
check says why. The server's rules of a section stand in this order. What may change once a run has started follows from
the fields' classes (`gapo.crd.rules`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from gapo.api.addresses import DATA_FORMS, MODEL_FORMS, Form
from gapo.api.methods import RETRAINING, WITHOUT_REWARD, Method
from gapo.api.rules import by_hand
from gapo.api.rules.expressions import Expression, field, there
from gapo.api.rules.row import InCel, InPython, Row

ONE_MACHINE = "`gapo run` reads files and folders of its machine"
NO_UNION = "the field's type says it to the client; no type of the server's is text or a number"
ANY_VALUE = "amounts may be fractions, which are values of any kind to the server; its rules cannot see them"

BY_VERIFIER = field("rewardModel.source") == "verifier"
SCORED = field("evaluation.scorer") != "none"
PASSING_LABEL = field("adversarial.passingLabel")
OWN_DATA = there("data.sources")

OWN_ENV = ("HF_HOME", "HOME", "OMP_NUM_THREADS", "POD_UID")
"""Environment variables that gapo sets."""
OWN_PATHS = r"^/(cache|dev|etc|proc|run|scratch|sys|tmp|var/run|volumes)(/|$)"
"""Where nothing of the user's is mounted."""


def _method_of(names: Sequence[Method]) -> Expression:
    """Whether the method is one of these."""
    return reduce(or_, (field("method") == name for name in names))


def _formed(path: str, form: Form) -> Expression:
    return ~field(path).matches(form.applies) | field(path).matches(form.pattern)


def _model(section: str) -> tuple[Row, ...]:
    """Where a section's model may lie."""
    return (
        *(
            Row(section, ~there("model") | _formed("model", form), form.message, at="model")
            for form in MODEL_FORMS
        ),
        Row(
            section,
            ~there("model") | field("model").matches("^(/|[A-Za-z0-9+.-]+:)"),
            "a relative path is a folder of one machine; a cluster reads models from hf://, s3://, gs://, az://, "
            "pvc://, or an absolute path of its pods",
            only="server",
            because=ONE_MACHINE,
        ),
    )


def _stops_only_with_a_verifier(guard: str) -> Row:
    return Row(
        "GapoRunSpec",
        SCORED | ~field(f"guards.{guard}.action").among("stop", "rollback"),
        f"guards.{guard} reads the verifier's verdicts and can never act without them; set its action to warn or off",
    )


MODELS = (
    Row(
        "FromScratch",
        field("hidden") % field("heads") == 0,
        "{hidden} must be a multiple of {heads}",
    ),
    Row(
        "Generator",
        there("model") != there("fromScratch"),
        "give exactly one of model and fromScratch",
    ),
    Row(
        "Generator",
        ~there("lora"),
        "lora is not supported yet; leave it out to train all weights",
    ),
    Row(
        "Generator",
        field("fromScratch.arch") == "decoder",
        "fromScratch.arch must be decoder: the generator writes left to right",
    ),
    *_model("Generator"),
    Row(
        "RewardModel",
        (field("source") == "verifier") | (there("model") != there("fromScratch")),
        "give exactly one of model and fromScratch, or source: verifier",
    ),
    Row(
        "RewardModel",
        ~(there("steps") & there("epochs")),
        "give steps or epochs, not both",
    ),
    Row(
        "RewardModel",
        ~there("fromScratch") | (field("fromScratch.arch") != "decoder"),
        "fromScratch.arch must be encoder or longformer: the reward model reads both ways",
    ),
    Row(
        "RewardModel",
        ~((field("pooling") == "mean") & (field("globalAttention") == "cls")),
        "pooling mean with globalAttention cls reads each window alone; use prompt",
    ),
    *_model("RewardModel"),
    *_model("Critic"),
)

DATA = (
    Row(
        "Data",
        there("generate") != there("sources"),
        "give exactly one of generate and sources",
    ),
    Row(
        "Source",
        field("uri").matches("^(s3|gs|az)://"),
        "a cluster reads data from s3://, gs:// or az:// only; upload the file and write its address here",
        only="server",
        because=ONE_MACHINE,
    ),
    Row(
        "Source",
        _formed("uri", DATA_FORMS[0]),
        DATA_FORMS[0].message,
        only="client",
        because="the server's rule of buckets leaves nothing of it",
        at="uri",
    ),
    Row(
        "Source",
        _formed("uri", DATA_FORMS[1]),
        DATA_FORMS[1].message,
        at="uri",
    ),
    Row(
        "Source",
        there("sha256"),
        "sha256 is needed on a cluster: it identifies the run; `sha256sum FILE` prints it",
        only="server",
        because=f"{ONE_MACHINE}, and fills in their digests",
    ),
)

RUN = (
    Row(
        "GapoRunSpec",
        _method_of(WITHOUT_REWARD) | there("rewardModel"),
        f"rewardModel is needed by this method; only {' and '.join(WITHOUT_REWARD)} "
        f"{'does' if len(WITHOUT_REWARD) == 1 else 'do'} without",
    ),
    Row(
        "GapoRunSpec",
        ~(_method_of(RETRAINING) & BY_VERIFIER),
        "rewardModel.source verifier has nothing to retrain; use method PPO",
    ),
    Row(
        "GapoRunSpec",
        SCORED | (PASSING_LABEL == "zero"),
        "adversarial.passingLabel other than zero needs evaluation.scorer: verifier",
    ),
    Row(
        "GapoRunSpec",
        (field("adversarial.selection") != "hard") | (PASSING_LABEL != "zero"),
        "adversarial.selection hard tells passing from failing samples, and passingLabel zero labels both 0; "
        "set passingLabel to drop, half or one",
    ),
    Row(
        "GapoRunSpec",
        SCORED | (field("guards.hacking.action") == "off"),
        "guards.hacking needs evaluation.scorer: verifier; set its action to off",
    ),
    _stops_only_with_a_verifier("fidelity"),
    _stops_only_with_a_verifier("labels"),
    Row(
        "GapoRunSpec",
        SCORED | ~BY_VERIFIER,
        "rewardModel.source verifier needs evaluation.scorer: verifier",
    ),
    Row(
        "GapoRunSpec",
        SCORED | (field("stages.max") == 0) | ~field("convergence.enabled"),
        "convergence needs evaluation.scorer: verifier; set convergence.enabled to false",
    ),
    Row(
        "GapoRunSpec",
        ~there("generator.fromScratch")
        | (field("generation.maxNewTokens") < field("generator.fromScratch.maxPositions")),
        "{generation.maxNewTokens} must be below {generator.fromScratch.maxPositions}: the prompt needs room too",
    ),
    Row(
        "GapoRunSpec",
        ~there("critic") | ~there("critic.lora"),
        "critic.lora is not supported yet; leave it out",
    ),
    Row(
        "GapoRunSpec",
        field("stages.min") <= field("stages.max"),
        "{stages.min} is above {stages.max}",
    ),
    Row(
        "GapoRunSpec",
        field("ppo.miniBatch") <= field("stages.rolloutsPerIteration"),
        "{ppo.miniBatch} is above {stages.rolloutsPerIteration}",
    ),
    Row(
        "GapoRunSpec",
        field("stages.rolloutsPerIteration") % field("generation.samplesPerPrompt") == 0,
        "{stages.rolloutsPerIteration} must be a multiple of {generation.samplesPerPrompt}",
    ),
    Row(
        "GapoRunSpec",
        ~(OWN_DATA & there("generator.fromScratch")),
        "generator.fromScratch takes its tokenizer from data.generate; with data.sources give generator.model",
    ),
    Row(
        "GapoRunSpec",
        ~(OWN_DATA & there("rewardModel.fromScratch")),
        "rewardModel.fromScratch takes its tokenizer from data.generate; with data.sources give rewardModel.model",
    ),
)

PODS = (
    Row(
        "Rollout",
        field("engine") == "transformers",
        "engine vllm runs on one machine alone for now: use `gapo run`, or leave it out",
        only="server",
        because="`gapo run` starts the servers itself",
    ),
    Row(
        "Rollout",
        (field("engine") == "vllm") | ((field("replicas") == 1) & (field("hold") == "stage")),
        "replicas and hold are of the servers of engine vllm; leave them out with {engine}",
        begun_passes=True,
    ),
    Row(
        "Resources",
        InPython(by_hand.devices_beside_limits),
        "requests of {name} must equal its limits; leave the requests out",
        only="client",
        because=ANY_VALUE,
    ),
    Row(
        "Resources",
        InPython(by_hand.requests_above_limits),
        "requests are above limits: {name} {requested} and {limit}",
        only="client",
        because=ANY_VALUE,
    ),
    Row(
        "Toleration",
        ~there("value") | (field("operator", unset="Equal") == "Equal") | (field("value") == ""),
        "operator Exists takes no value",
    ),
    Row(
        "Toleration",
        there("key") | (field("operator", unset="Equal") == "Exists"),
        "without a key the operator must be Exists",
    ),
    Row(
        "Affinity",
        InPython(by_hand.bytes_of_affinity),
        f"affinity takes {{bytes}} bytes as JSON; at most {by_hand.MAX_AFFINITY} are allowed",
        only="client",
        because="CEL cannot write JSON; its terms are values of any kind to the server",
    ),
    Row(
        "EnvVar",
        ~field("name").among(*OWN_ENV),
        f"{', '.join(OWN_ENV)} are set by gapo",
    ),
    Row(
        "ClaimMount",
        ~field("mountPath").matches(OWN_PATHS),
        "mountPath lies in a folder of the system's or of gapo's own; choose another",
    ),
    Row(
        "ResourceClaim",
        there("resourceClaimName") != there("resourceClaimTemplateName"),
        "give exactly one of resourceClaimName and resourceClaimTemplateName",
    ),
    Row(
        "Pod",
        InPython(by_hand.repeated_keys),
        "{list}: Duplicate value: {names}",
        only="client",
        because="to the server these are maps by a key, which it tells by itself, in the same words",
    ),
)

DURATION = Row(
    "Duration",
    InCel(
        "type(self) == int ? self > 0 : self.matches('^([0-9]+([.][0-9]+)?[smh])+$') && self.matches('[1-9]')"
    ),
    "write a duration such as 30s, 5m or 1h30m",
    only="server",
    because=f"{NO_UNION}, in the same words",
)
VALUES = (
    Row(
        "GapoRun",
        InCel("self.metadata.name.matches('^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$')"),
        "metadata.name has at most 40 characters: lower-case letters, digits and -",
        only="server",
        because="the field's type says it to the client; a definition has no schema of metadata",
    ),
    Row(
        "resumeFrom.stage",
        InCel("type(self) == int ? self >= 0 : self in ['best', 'last']"),
        "stage is best, last or a stage's number",
        only="server",
        because=NO_UNION,
    ),
    DURATION,
)

TABLE = (*MODELS, *DATA, *RUN, *PODS, *VALUES)


def _by_section() -> Mapping[str, tuple[Row, ...]]:
    sections = {row.section for row in TABLE}
    return {section: tuple(row for row in TABLE if row.section == section) for section in sections}


BY_SECTION = _by_section()


def rows_of(section: str) -> tuple[Row, ...]:
    """The rows of a section, in the table's order."""
    return BY_SECTION.get(section, ())
