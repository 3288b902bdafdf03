"""Sections on the generator: how stages have changed it, and how it changes while a task trains it."""

from __future__ import annotations

from charts.dashboards.board import Panels, Section
from charts.dashboards.expressions import of_run, of_stage, of_task
from charts.dashboards.panels import Query, by_stage, over_time


def over_stages() -> Section:
    return Section(
        "The generator",
        [
            *_policy(),
            *_updates(),
            *_responses(),
        ],
    )


def _policy() -> Panels:
    """What PPO wants of it, and how far it moved for that."""
    return [
        by_stage(
            "Reward",
            "Mean reward of the stage's rollouts, the KL penalty included. Each stage has another reward model, so "
            "levels of two stages do not compare; the trend within a stage is in the panels over time.",
            "none",
            [Query("reward", of_stage("reward_mean"))],
        ),
        by_stage(
            "KL",
            "How far the generator has moved, in nats a token: from the stage's reference, and from the supervised "
            "start. Above the limit of the KL guard it has drifted further than the run allows.",
            "none",
            [
                Query("to the reference", of_stage("kl_nats")),
                Query("to the start", of_stage("kl_start_nats")),
                Query(
                    "limit to the start",
                    f"0 * {of_stage('kl_start_nats')} + on (namespace, run) group_left () "
                    f"{of_run('kl_limit_nats')}",
                ),
            ],
        ),
        by_stage(
            "Entropy",
            "Entropy of the policy, nats a token. A fall to near 0 is collapse: one answer for every prompt.",
            "none",
            [Query("entropy", of_stage("entropy_nats"))],
        ),
    ]


def _updates() -> Panels:
    """Whether PPO's updates are sound."""
    return [
        by_stage(
            "Clip fraction",
            "Share of the probability ratios that PPO clipped. Much above 0.3 the updates are too large; at 0 nothing "
            "moves.",
            "percentunit",
            [Query("clipped", of_stage("clip_ratio"))],
        ),
        by_stage(
            "Explained variance",
            "Share of the returns' variance that the critic explains: 1 is perfect, at 0 (dashed) it is a constant, "
            "below it is worse than one, and advantages are noise.",
            "none",
            [Query("explained", of_stage("explained_variance_ratio"))],
            line_at=0,
        ),
    ]


def _responses() -> Panels:
    """What it writes, and how long a stage takes."""
    return [
        by_stage(
            "Diversity",
            "Share of sampled responses that are unlike every other. Together with entropy it shows collapse.",
            "percentunit",
            [Query("distinct", of_stage("distinct_responses_ratio"))],
            between=(0, 1),
        ),
        by_stage(
            "Response length",
            "Mean length of sampled validation responses. A length that runs away while satisfaction does not rise is "
            "the oldest way to cheat a reward model.",
            "none",
            [Query("tokens", of_stage("response_length_tokens"))],
            span=12,
        ),
        by_stage(
            "Time a stage took",
            "Time of the stage's committed tasks, one after another; failed attempts do not count.",
            "s",
            [Query("time", of_stage("duration_seconds"))],
            span=12,
            bars=True,
        ),
    ]


def while_it_trains() -> Section:
    return Section(
        "While a task runs",
        [
            *_rollouts(),
            *_losses(),
        ],
    )


def _rollouts() -> Panels:
    """Of each iteration: what it samples, and how far it strays."""
    return [
        over_time(
            "Rollouts: score and satisfaction",
            "Of each iteration's rollouts: the mean score, and the share that the verifier passes. Both should rise; "
            "a score that rises alone is the beginning of cheating. A new stage has a new reward model, so the score "
            "begins anew at the blue marks.",
            "percentunit",
            [
                Query("score", of_task("rollout_score_mean")),
                Query("satisfied", of_task("rollout_satisfaction_ratio")),
            ],
            span=6,
        ),
        over_time(
            "Reward and its spread",
            "Mean reward of rollouts with the KL penalty, and the standard deviation of their scores. A spread near 0 "
            "leaves PPO nothing to learn from.",
            "none",
            [
                Query("reward", of_task("reward_mean")),
                Query("spread of scores", of_task("rollout_score_stddev")),
            ],
            span=6,
            least=None,
        ),
        over_time(
            "KL and its weight",
            "Nats a token to the reference and to the supervised start, and the weight of the penalty.",
            "none",
            [
                Query("to the reference", of_task("kl_nats")),
                Query("to the start", of_task("rollout_kl_start_nats")),
                Query("weight of the penalty", of_task("kl_coefficient")),
            ],
            span=6,
            least=None,
        ),
        over_time(
            "Entropy while training",
            "Entropy of the policy, nats a token. A steady fall towards 0 within a stage is collapse.",
            "none",
            [Query("entropy", of_task("entropy_nats"))],
            span=6,
        ),
    ]


def _losses() -> Panels:
    """Whether what is trained learns."""
    return [
        over_time(
            "Losses of PPO",
            "The clipped losses of policy and critic. The critic's should fall within a stage; the policy's stays "
            "near 0 and says little by itself.",
            "none",
            [Query("policy", of_task("policy_loss")), Query("critic", of_task("value_loss"))],
            span=6,
            least=None,
        ),
        over_time(
            "Critic",
            "Share of the returns' variance that the critic explains. Below 0 it is worse than a constant; it should "
            "leave that region within the first iterations of a stage.",
            "none",
            [Query("explained variance", of_task("explained_variance_ratio"))],
            span=6,
            least=None,
        ),
        over_time(
            "Size of updates",
            "Share of clipped ratios, and how far one iteration moved the policy, nats a token. A jump of either is a "
            "step that was too large.",
            "none",
            [Query("clipped", of_task("clip_ratio")), Query("moved", of_task("update_kl_nats"))],
            span=6,
        ),
        over_time(
            "Supervised losses",
            "Of the reward model, and of supervised training with its held-out rows. A held-out loss that turns up "
            "while the other falls is learning by heart.",
            "none",
            [
                Query("reward model", of_task("rm_loss")),
                Query("supervised", of_task("sft_loss")),
                Query("supervised, held out", of_task("sft_validation_loss")),
            ],
            span=6,
        ),
    ]
