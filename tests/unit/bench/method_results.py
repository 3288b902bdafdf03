"""Results as an arm would leave them, with figures chosen by hand."""

from tests.bench.method.result import Key, Result


def result(
    arm,
    seed,
    best,
    *,
    last=None,
    start_satisfaction=0.5,
    start="aaaaaaaaaaaa",
    code="c0de",
    stages=(0.5, 0.6),
    auc=0.9,
    flops=(0.0, 2e12),
    gate=1.0,
    informed=False,
    pieces=1,
):
    last = best if last is None else last
    return Result(
        setting="micro",
        arm=arm,
        seed=seed,
        key=Key("5e77", code),
        start=start,
        informed=informed,
        stages=[{"stage": k, "satisfaction": s, "n": 2000, "auc": auc} for k, s in enumerate(stages)],
        reward_model=[{"stage": 0, "pairs": 0.99, "gate": gate}],
        test={
            "start_satisfaction": start_satisfaction,
            "best_satisfaction": best,
            "last_satisfaction": last,
        },
        cross_play=[[0, 0, 0.9], [0, 1, 0.7]],
        scores=[{"stage": 1, "accepted": [0] * 9 + [10], "rejected": [10] + [0] * 9, "generated": [1] * 10}],
        ledger={
            "completions": 1000,
            "uniquePrompts": 900,
            "generatedTokens": 10_000,
            "trainedTokens": {"generator": 20_000, "critic": 20_000, "rewardModel": 3_000},
            "flopsByStage": list(flops),
            "parameters": {"generator": 300_000, "rewardModel": 250_000},
        },
        clocks={"wall": 10.0, "cpu": 9.0, "elapsed": 11.0, "pieces": pieces, "wallByKind": {}},
        made={"machine": "a machine", "threads": 1, "commit": "abcdef"},
    )
