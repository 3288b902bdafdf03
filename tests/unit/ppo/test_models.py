"""Building, loading and saving generators and critics: only safetensors, only complete folders, the same bits."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from tests.unit.ppo.tiny_ppo import BOS, EOS, tiny_folder, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, Qwen2Config

from gapo.api.models import FromScratch
from gapo.errors import DataError, InvariantError, SpecError
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.models.networks import (
    build_critic,
    build_generator,
    eos_ids,
    load_critic,
    load_generator,
    load_tokenizer,
    prompt_ids,
    response_ids,
    response_text,
    save_critic,
    save_generator,
)
from gapo_trainer.policy_model import Policy
from gapo_trainer.rng import generator

IDS = torch.tensor([[1, 5, 9, 4]])


def test_a_generator_from_scratch_has_the_asked_spread_and_is_the_same_for_the_same_stream():
    tokenizer = tiny_tokenizer()
    scratch = FromScratch(layers=1, hidden=64, heads=2, init_std=0.1)
    state = torch.get_rng_state()
    one, two = (build_generator(scratch, tokenizer, generator(0, 0, "init")) for _ in range(2))
    other = build_generator(scratch, tokenizer, generator(1, 0, "init"))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was drawn from"
    weight = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one.state_dict()[weight], two.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    assert float(one.state_dict()[weight].std()) == pytest.approx(0.1, rel=0.05)
    assert bool((one.state_dict()["model.norm.weight"] == 1).all())
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert not one.training


def test_a_saved_generator_loads_with_plain_transformers_and_gives_the_same_logits(tmp_path):
    tiny_folder(tmp_path)
    ours, tokenizer = load_generator(tmp_path / "generator")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "generator")
    assert torch.equal(ours(IDS).logits, plain(IDS).logits)
    assert eos_ids(tokenizer, ours) == [EOS]


def test_pickled_weights_are_refused_by_name(tmp_path):
    folder = tiny_folder(tmp_path) / "generator"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*safetensors"):
        load_generator(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: [path.unlink() for path in f.glob("tokenizer*")], "no tokenizer"),
        (lambda f: (f / "config.json").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!"), "cannot be loaded"),
    ],
)
def test_an_incomplete_or_broken_folder_is_refused_in_one_sentence(tmp_path, spoil, message):
    folder = tiny_folder(tmp_path) / "generator"
    spoil(folder)
    with pytest.raises(DataError, match=message):
        load_generator(folder)


def test_weights_that_belong_to_another_user_are_named_with_what_to_do():
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = tiny_folder(Path(parent)) / "generator"
        (folder / "model.safetensors").chmod(0o000)
        user = os.geteuid()
        os.seteuid(user or 65532)  # root reads everything
        try:
            with pytest.raises(DataError, match=r"model\.safetensors cannot be read by user .*chmod a\+r"):
                load_generator(folder)
        finally:
            os.seteuid(user)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tiny_folder(tmp_path) / "generator"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_generator(folder)


def test_a_critic_starts_at_zero_and_comes_back_from_disk_bit_for_bit(tmp_path):
    folder = tiny_folder(tmp_path)
    critic = build_critic(folder / "generator")
    positions = torch.arange(4)[None]
    with torch.no_grad():
        assert not critic(IDS, None, positions).any()
        critic.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        save_critic(critic, tmp_path / "critic")
        again = load_critic(tmp_path / "critic")
        values = critic(IDS, None, positions)
        assert values.shape == (1, 4)
        assert torch.equal(again(IDS, None, positions), values)
    with pytest.raises(DataError, match=r"head\.safetensors"):
        load_critic(folder / "generator")


def test_a_prompt_is_its_text_between_bos_and_separator_or_the_models_own_chat_template():
    tokenizer = tiny_tokenizer()
    assert prompt_ids(tokenizer, "a b") == [BOS, 4, 5]
    tokenizer.add_special_tokens({"sep_token": "p"})
    assert prompt_ids(tokenizer, "a b") == [BOS, 4, 5, 19]
    tokenizer.chat_template = "{% for m in messages %}c {{ m.content }} d{% endfor %}"
    assert prompt_ids(tokenizer, "a b") == [6, 4, 5, 7]


def test_a_response_round_trips_without_its_eos():
    tokenizer = tiny_tokenizer()
    assert response_ids(tokenizer, "c a") == [6, 4, EOS]
    assert response_text(tokenizer, [6, 4, EOS], ended=True) == "c a"
    assert response_text(tokenizer, [6, EOS], ended=False) == "c <eos>"


def test_a_model_that_alters_its_logits_is_refused():
    model = tiny_model(tiny_tokenizer())
    original = model.forward

    def capped(*args, **kwargs):
        out = original(*args, **kwargs)
        out.logits = out.logits.tanh()
        return out

    model.forward = capped
    with pytest.raises(SpecError, match="alters its logits"):
        Policy(model)


# --- the engine's state ---


def quadratic():
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(1.0)
    return model


def train(engine, steps, lr_factor=1.0):
    for step in range(steps):
        x = torch.arange(3.0) + step
        engine.backward(engine.model(x).square().sum())
        engine.step(lr_factor)


def test_an_engine_goes_on_from_its_saved_state_bit_for_bit(tmp_path):
    through = Engine(quadratic(), Optim(0.1), name="actor")
    train(through, 3)
    through.save(tmp_path)
    again = Engine(quadratic(), Optim(0.1), name="actor")
    again.module.load_state_dict(through.module.state_dict())
    again.load(tmp_path)
    fresh = Engine(quadratic(), Optim(0.1), name="actor")
    fresh.module.load_state_dict(through.module.state_dict())
    for engine in (through, again, fresh):
        train(engine, 2)
    assert again.steps == through.steps == 5
    assert torch.equal(again.module.weight, through.module.weight)
    assert not torch.equal(fresh.module.weight, through.module.weight), (
        "Adam's moments make no difference here"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor.json", "actor.safetensors"]


def test_an_engine_scales_clips_and_refuses_what_is_not_finite(tmp_path):
    engine = Engine(quadratic(), Optim(0.1, grad_clip=0.5), name="critic")
    engine.backward(engine.model(torch.ones(3)).sum() * 7)
    assert engine.step(0.0) == pytest.approx(14.0)  # the norm before clipping: 7 * sqrt(3 + 1)
    assert engine.module.weight.tolist() == [[1.0, 1.0, 1.0]]
    engine.backward(engine.model(torch.full((3,), float("nan"))).sum())
    with pytest.raises(InvariantError, match="critic"):
        engine.step()


def test_a_state_of_another_model_is_refused(tmp_path):
    engine = Engine(quadratic(), Optim(0.1), name="actor")
    train(engine, 1)
    engine.save(tmp_path)
    with pytest.raises(DataError, match=r"weight has shape \(1, 3\)"):
        Engine(torch.nn.Linear(4, 1), Optim(0.1), name="actor").load(tmp_path)


def test_saving_a_generator_twice_writes_the_same_bytes(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    for name in ("a", "b"):
        save_generator(model, tokenizer, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_tokenizer_beside_a_qwen2_is_the_one_that_was_saved_and_not_qwens(tmp_path):
    Qwen2Config(vocab_size=20, hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    tiny_tokenizer(words=["<pad>", "<bos>", "<eos>", "<unk>", "red", "lamp"]).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("lamp red", add_special_tokens=False)["input_ids"] == [5, 4]
