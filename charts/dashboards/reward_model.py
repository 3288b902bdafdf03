"""Sections on the reward model: is it any good, what does it think of real and of generated text, and of each stage?"""

from __future__ import annotations

from charts.dashboards.board import Section
from charts.dashboards.expressions import of_run, of_stage
from charts.dashboards.panels import (
    HEIGHT,
    Query,
    by_stage,
    heat_of_stages,
    heat_of_stages_and,
    over_time,
    single,
)

from gapo.metrics.catalogue import SCORE_BOUNDS


def accuracy() -> Section:
    return Section(
        "The reward model",
        [
            by_stage(
                "Accuracy on held-out pairs",
                "Share of held-out original pairs whose accepted member scores higher. 50 % (dashed) is chance: PPO "
                "against such a model follows noise. It should stay where the warm-up left it, or rise.",
                "percentunit",
                [Query("pair accuracy", of_stage("rm_pair_accuracy_ratio"))],
                between=(0.4, 1),
                line_at=0.5,
            ),
            by_stage(
                "AUC: fidelity, and against the generator",
                "Fidelity: does the model that trained a stage rank the stage's own samples as the verifier does? When "
                "it falls towards 0.5 (dashed), the reward has lost touch with the goal. Generated against accepted, by "
                "the retrained model: here 0.5 is the goal, for then generated text cannot be told from accepted text.",
                "none",
                [
                    Query("fidelity", of_stage("fidelity_auc_ratio")),
                    Query("generated against accepted", of_stage("rm_adversarial_auc_ratio")),
                ],
                between=(0, 1),
                line_at=0.5,
            ),
            by_stage(
                "Calibration",
                "Expected calibration error of the scores against the verifier: 0 means that a score of 0.7 is right in "
                "70 % of cases. Memorisation: how much higher accepted training rows score than held-out ones; above "
                "0.1 the model knows its rows by heart. Prompt swap: how much a response loses under another's prompt; "
                "near 0 the model does not read the prompt.",
                "none",
                [
                    Query("calibration error", of_stage("fidelity_calibration_error_ratio")),
                    Query("memorisation", of_stage("rm_memorisation_gap")),
                    Query("prompt swap", of_stage("rm_prompt_swap_gap")),
                ],
                line_at=0,
            ),
        ],
    )


def scores() -> Section:
    reading = (
        "A column a stage, a row a class of scores, the colour the share of responses in it. The method's paper sees its "
        "model's scores spread from 0.2 to 0.95. "
    )
    of_class = {
        "accepted": "Held-out accepted responses, under the stage's retrained model: they belong at the top.",
        "rejected": "Held-out rejected responses, under the stage's retrained model: they belong at the bottom.",
        "generated": "The stage's samples, under the model that trained the stage: from the bottom they should climb. "
        "All in one row, the model no longer tells one from another.",
    }
    return Section(
        "Scores",
        [
            heat_of_stages(
                f"Scores of {name} responses", reading + text, "percentunit", _classes_of_scores(name)
            )
            for name, text in of_class.items()
        ],
    )


def _classes_of_scores(name: str) -> list[Query]:
    """Shares between two bounds; what is exported is cumulative."""
    rows = []
    for below, bound in zip((None, *SCORE_BOUNDS), SCORE_BOUNDS, strict=False):
        share = of_stage("score_share_ratio", where=f'class="{name}", le="{bound}"')
        if below is not None:
            lower = of_stage("score_share_ratio", where=f'class="{name}", le="{below}"')
            share = f"{share} - on (namespace, run, stage) {lower}"
        rows.append(Query(f"≤ {bound}" if below is None else f"{below} – {bound}", share))
    return rows


def crossplay() -> Section:
    return Section(
        "Old against new",
        [
            heat_of_stages_and(
                "rm_stage",
                "RM",
                "Cross-play",
                "AUC, against the verifier, of the reward model of each stage (rows) on the generator of each stage "
                "(columns). Read a row to the right: a model that keeps its colour judges later generators as well. "
                "Only the diagonal bright: each model knows its own opponent alone.",
                "none",
                of_stage("crossplay_auc_ratio", "rm_stage"),
                span=12,
            ),
            over_time(
                "Guards",
                "Stages in a row at which a guard's condition held. At 2 a guard that may act stops the run or goes back.",
                "none",
                [Query("{{kind}}", of_run("guard_hits", "kind"))],
                span=8,
                reaches=3,
            ),
            single(
                "Stages shown in part",
                "The oldest stages of a long run have no families, scores and cross-play here, so that one run has at most "
                "400 series. The report has all of them.",
                "none",
                [Query("stages", of_run("withheld_stages"))],
                span=4,
                height=HEIGHT,
            ),
        ],
    )
