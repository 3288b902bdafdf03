"""Training: the loss, leaving ln 2, gates, early ends, resume points, and the two tasks from files to files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.reward.small_runs import RM, stage_params
from tests.unit.reward.tiny_reward import Resume, context, lines_of, write_samples

from gapo.errors import SpecError
from gapo.tasks import Kind
from gapo_trainer.reward import model as models
from gapo_trainer.reward.encode import Corpus
from gapo_trainer.reward.heldout import HeldOut
from gapo_trainer.reward.rows import Generated, read_rows
from gapo_trainer.reward.scorer import logits_of
from gapo_trainer.reward.trainer import Schedule, bce
from gapo_trainer.tasks import reward_model as tasks
from gapo_trainer.tasks.reward_model import run_stage, run_warmup, split_samples, stage_steps


def test_binary_cross_entropy_equals_hand_values():
    # σ(0) = 1/2; σ(ln 3) = 3/4: -ln(1/2), -ln(1/4) for target 0, and the mean of both sides for target 1/2
    logits = torch.tensor([0.0, math.log(3), math.log(3)])
    targets = torch.tensor([1.0, 0.0, 0.5])
    expected = math.log(2) + math.log(4) + 0.5 * (math.log(4 / 3) + math.log(4))
    assert float(bce(logits, targets)) == pytest.approx(expected, rel=1e-6)


def test_the_learning_rate_rises_and_then_falls_to_a_twentieth():
    schedule = Schedule(steps=100, look_every=10, early_stop="settled")
    factors = [schedule.lr_factor(step) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(factors) == pytest.approx(1.0)
    assert factors[99] == pytest.approx(0.05, abs=0.002)
    assert factors[52] == pytest.approx(0.525, abs=0.02)


def test_easy_negatives_are_annealed_away_over_the_first_half():
    schedule = Schedule(steps=100, look_every=10, early_stop="settled", mismatched_share=0.6)
    assert [schedule.mismatched(step) for step in (0, 25, 50, 99)] == pytest.approx([0.6, 0.3, 0.0, 0.0])


def test_a_warm_up_leaves_its_files_and_figures(warm, data):
    names = {path.name for path in (warm / "rm").iterdir()}
    assert {
        "config.json", "model.safetensors", "head.safetensors", "rm.json", "tokenizer.json"
    } <= names  # fmt: skip
    rows = lines_of(warm / "metrics.jsonl")
    assert rows[-1]["step"] == 12
    assert rows[-1]["rm/pair_accuracy_n"] == 40
    for row in rows:
        assert row["rm/grad_norm"] > 0
        assert row["rm/lr"] > 0
        assert row["rm/trained_tokens"] > 0
        assert row["wall/seconds"] > 0
    shown = json.loads((warm / "distributions.json").read_text())["rmScores"]
    assert sum(shown["accepted"]["counts"]) == sum(shown["rejected"]["counts"]) == 40


def test_a_warm_up_does_not_depend_on_held_out_rows(tmp_path, data):
    """Another validation set, the same weights: nothing of it is learnt from before the first look."""
    other = tmp_path / "data"
    other.mkdir()
    for path in data.iterdir():
        (other / path.name).symlink_to(path)
    (other / "rows-val.jsonl").unlink()
    (other / "rows-val.jsonl").write_text((data / "rows-test.jsonl").read_text())
    rm = RM | {"warmup": {"steps": 9, "gate": {"onFail": "warn"}}}  # looks at step 10 at the earliest
    weights = []
    for i, folder in enumerate((data, other)):
        ctx = context(tmp_path / str(i), Kind.RM_WARMUP, {"rewardModel": rm}, {"data": folder})
        run_warmup(ctx)
        weights.append(load_file(ctx.out / "rm" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_no_row_of_validation_or_test_is_among_the_rows_trained_on(data):
    train = {(row["prompt"], row["response"]) for row in lines_of(data / "rows-train.jsonl")}
    for split in ("val", "test"):
        assert not train & {
            (row["prompt"], row["response"]) for row in lines_of(data / f"rows-{split}.jsonl")
        }


@pytest.mark.parametrize(("stop_at", "count"), [(1, 1), (7, 1), (7, 2)])
def test_a_resumed_warm_up_ends_bit_for_bit_where_an_uninterrupted_one_does(
    tmp_path, data, stop_at, count, threads
):
    threads(count)

    def train(name, at):
        params = {
            "rewardModel": RM | {"warmup": {"steps": 14, "mismatchedShare": 0.5, "gate": {"onFail": "warn"}}}
        }
        ctx = context(tmp_path, Kind.RM_WARMUP, params, {"data": data}, name=name, stop_at=at)
        return ctx, run_warmup(ctx)

    whole, expected = train("whole", None)
    with pytest.raises(Resume.StopRequestedError):
        train("cut", stop_at)
    resumed, weights = train("cut", None)
    assert weights == expected
    for name in ("model.safetensors", "head.safetensors"):
        assert (resumed.out / "rm" / name).read_bytes() == (whole.out / "rm" / name).read_bytes()


def test_a_resumed_stage_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, data, warm):
    inputs = {
        "data": data,
        "rm": warm,
        "samples": write_samples(tmp_path / "s0", data, count=24),
        "samples-1": write_samples(tmp_path / "s1", data, count=24, seed=1),
    }

    def train(name, at):
        ctx = context(tmp_path, Kind.RM, stage_params(), inputs, stage=2, name=name, stop_at=at)
        return ctx, run_stage(ctx)

    whole, expected = train("whole", None)
    with pytest.raises(Resume.StopRequestedError):
        train("cut", 5)
    resumed, weights = train("cut", None)
    assert weights == expected
    assert (resumed.out / "rm" / "model.safetensors").read_bytes() == (
        whole.out / "rm" / "model.safetensors"
    ).read_bytes()


def test_a_stage_reports_its_share_its_label_noise_and_fresh_samples_it_never_trained_on(
    tmp_path, data, warm
):
    samples = write_samples(tmp_path / "samples", data, count=30, passing=0.5)
    inputs = {"data": data, "rm": warm, "samples": samples}
    ctx = context(tmp_path, Kind.RM, stage_params(), inputs, stage=1)
    metrics = run_stage(ctx)
    assert metrics["rm/generated_share"] == 0.5
    assert 0.3 < metrics["rm/label_noise"] < 0.7
    assert metrics["rm/steps"] == 8
    for name in (
        "loss",
        "auc",
        "accuracy",
        "adversarial_loss",
        "adversarial_auc",
        "score_generated",
        "memorisation_gap",
    ):
        assert f"rm/{name}" in metrics
    shown = json.loads((ctx.out / "distributions.json").read_text())["rmScores"]
    assert sum(shown["generated"]["counts"]) == 6  # a fifth of 30
    assert metrics["scores/accepted/le_1.0"] == metrics["scores/rejected/le_1.0"] == 1.0
    assert not [name for name in metrics if name.startswith("scores/generated")]


def test_shares_of_scores_are_those_of_each_sides_own_rows(data, warm):
    model, encoder = models.load(warm / "rm")
    train, rows = (read_rows(data / f"rows-{split}.jsonl") for split in ("train", "val"))
    corpus = Corpus(encoder, [(row.prompt, row.response) for row in train])
    held_out = HeldOut.of(rows, train, corpus, [], encoder, 0)
    with torch.no_grad():  # a tiny model's scores lie close together
        model.head.weight *= 200
        model.head.bias -= logits_of(model, held_out.encoded, held_out.pad).mean()
    metrics, shown = held_out.measure(model)
    expected = {}
    for side in ("accepted", "rejected"):
        counts = shown["rmScores"][side]["counts"]  # bins of 0.05
        for bound, bins in (("0.2", 4), ("0.4", 8), ("0.6", 12), ("0.8", 16), ("0.95", 19), ("1.0", 20)):
            expected[f"scores/{side}/le_{bound}"] = sum(counts[:bins]) / sum(counts)
    assert {name: x for name, x in metrics.items() if name.startswith("scores/")} == expected
    assert expected["scores/accepted/le_0.4"] != expected["scores/rejected/le_0.4"], (
        "the sides are told apart"
    )


def test_the_stages_have_a_learning_rate_of_their_own_where_one_is_given(tmp_path, data, warm):
    samples = write_samples(tmp_path / "samples", data, count=30)
    inputs = {"data": data, "rm": warm, "samples": samples}

    def moved(name, **adversarial):
        ctx = context(tmp_path, Kind.RM, stage_params(**adversarial), inputs, stage=1, name=name)
        run_stage(ctx)
        before, after = (load_file(folder / "rm" / "model.safetensors") for folder in (warm, ctx.out))
        return max(float((after[key] - before[key]).abs().max()) for key in before)

    assert moved("tiny", lr=1e-7) < 1e-5 < moved("unset")


def test_verifier_informed_labels_lower_the_achieved_share(tmp_path, data, warm):
    samples = write_samples(tmp_path / "samples", data, count=30, passing=0.5)
    inputs = {"data": data, "rm": warm, "samples": samples}
    ctx = context(tmp_path, Kind.RM, stage_params(passingLabel="drop"), inputs, stage=1)
    metrics = run_stage(ctx)
    assert metrics["rm/generated_share"] < 0.4
    assert metrics["rm/label_noise"] == 0.0


def test_the_control_arm_trains_on_original_pairs_alone_for_as_many_steps(tmp_path, data, warm):
    samples = write_samples(tmp_path / "samples", data, count=30)
    inputs = {"data": data, "rm": warm, "samples": samples}
    ctx = context(tmp_path, Kind.RM, stage_params(generatedShareOfNegatives=0), inputs, stage=1)
    metrics = run_stage(ctx)
    assert metrics["rm/generated_share"] == 0.0
    assert metrics["rm/steps"] == 8
    assert "rm/adversarial_auc" in metrics


def test_steps_follow_from_passes_over_the_newest_samples():
    params = tasks.Params.model_validate({"rewardModel": RM | {"steps": None}})
    spec, adversarial = params.reward_model, params.adversarial
    # 16 rows, half negative, half of those generated: 4 a step; 2 passes over 100 samples
    assert stage_steps(spec, adversarial, 100, with_older=False) == 50
    assert stage_steps(spec, adversarial, 100, with_older=True) == 100
    none = adversarial.model_copy(update={"generated_share_of_negatives": 0.0})
    assert stage_steps(spec, none, 100, with_older=False) == 50
    assert stage_steps(spec.model_copy(update={"steps": 7}), adversarial, 100, with_older=False) == 7


def test_samples_to_measure_with_share_no_prompt_with_those_to_train_on():
    samples = [Generated(f"p{i % 20}", f"g{i}", False) for i in range(60)]
    train, unseen = split_samples(samples, seed=1, stage=1)
    assert len(unseen) == 12
    assert len(train) == 48
    assert not {s.prompt for s in train} & {s.prompt for s in unseen}
    assert split_samples(samples, seed=1, stage=1) == (train, unseen)


def test_a_run_whose_reward_is_the_verifier_has_no_reward_model_to_train(tmp_path, data):
    ctx = context(tmp_path, Kind.RM_WARMUP, {"rewardModel": {"source": "verifier"}}, {"data": data})
    with pytest.raises(SpecError, match="there is no reward model to train"):
        run_warmup(ctx)


def test_masked_words_and_the_generators_embeddings_can_come_first(tmp_path, data):
    from tests.unit.ppo.tiny_ppo import tiny_model, tiny_tokenizer

    from gapo_trainer.models.networks import save_generator

    losses = {}
    for steps in (1, 40):
        rm = RM | {"warmup": {"steps": 1, "warmStart": "mlm", "mlmSteps": steps, "gate": {"onFail": "warn"}}}
        ctx = context(tmp_path / str(steps), Kind.RM_WARMUP, {"rewardModel": rm}, {"data": data})
        run_warmup(ctx)
        losses[steps] = load_file(ctx.out / "rm" / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert not torch.allclose(losses[1], losses[40], atol=1e-2)

    tokenizer = tiny_tokenizer(["<pad>", "<bos>", "<eos>", "<unk>", "kettle", "red", "unheard"])
    model = tiny_model(tokenizer, hidden=32)
    save_generator(model, tokenizer, tmp_path / "g" / "generator")
    rm = RM | {"lr": 1e-9, "warmup": {"steps": 1, "warmStart": "generator", "gate": {"onFail": "warn"}}}
    inputs = {"data": data, "generator": tmp_path / "g"}
    ctx = context(tmp_path / "e", Kind.RM_WARMUP, {"rewardModel": rm}, inputs)
    run_warmup(ctx)
    words = load_file(ctx.out / "rm" / "model.safetensors")["embeddings.word_embeddings.weight"]
    vocabulary = json.loads((ctx.out / "rm" / "tokenizer.json").read_text())["model"]["vocab"]
    mine, theirs = words[vocabulary["kettle"]], model.get_input_embeddings().weight[4].detach()
    assert float(torch.cosine_similarity(mine, theirs, dim=0)) == pytest.approx(1.0, abs=1e-5)
    other = words[vocabulary["lamp"]]
    assert abs(float(torch.cosine_similarity(other, theirs, dim=0))) < 0.7


def test_a_step_does_not_depend_on_how_a_batch_is_cut_into_micro_batches(tmp_path, data, monkeypatch):
    weights = []
    for tokens in (16_384, 60):
        monkeypatch.setattr("gapo_trainer.reward.trainer.TOKENS_PER_MICRO_BATCH", tokens)
        ctx = context(tmp_path / str(tokens), Kind.RM_WARMUP, {"rewardModel": RM}, {"data": data})
        run_warmup(replace(ctx))
        weights.append(load_file(ctx.out / "rm" / "model.safetensors"))
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-4), name
