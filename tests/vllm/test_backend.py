"""The trainer's side of rollout servers, against two real ones: what they compute, and whatever can go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from aiohttp import web
from tests.unit.ppo.tiny_ppo import BOS, EOS, forward_logprobs
from tests.vllm.conftest import Connect, ServersOfARun, weights
from tests.vllm.proxy import FaultProxy, Forward, break_off, error_500, hang, pretend
from transformers import PreTrainedModel

from gapo.errors import DataError, FencedError
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.servers import RolloutServersError
from gapo_trainer.rollout.vllm_backend import VllmBackend

pytestmark = pytest.mark.vllm
PROMPTS = [[BOS, 4, 5], [BOS, 6], [BOS, 7, 8, 9, 10], [BOS, 11, 12]] * 6
LIMIT = 12
GENERATE = "/inference/v1/generate"


def sample(
    backend: VllmBackend, prompts: list[list[int]] | None = None, seed: int = 0, **more: object
) -> Completions:
    arguments = {"max_new_tokens": LIMIT, "temperature": 1.0} | more
    return backend.generate(
        PROMPTS if prompts is None else prompts, rng=torch.Generator().manual_seed(seed), **arguments
    )  # type: ignore[arg-type]


def mismatch(out: Completions, model: PreTrainedModel, prompts: list[list[int]] | None = None) -> float:
    """Largest difference between the servers' log-probabilities and those of the definition, in nats."""
    rows = zip(PROMPTS if prompts is None else prompts, out.token_ids, out.logprobs, strict=True)
    return max(
        abs(theirs - ours)
        for prompt, tokens, logprobs in rows
        for theirs, ours in zip(logprobs, forward_logprobs(model, prompt, tokens), strict=True)
    )


# --- what they compute ---


def test_servers_compute_what_the_trainer_does_after_every_publish(connect: Connect) -> None:
    model = weights(1)
    backend = connect(model)
    for version, seed in (("1.0", 1), ("1.1", 2), ("1.2", 1)):
        model.load_state_dict(weights(seed).state_dict())
        backend.publish(version)
        out = sample(backend)
        assert mismatch(out, weights(seed)) < 1e-5
        assert out.weight_versions == [version] * len(PROMPTS)


def test_samples_follow_the_policy_and_not_the_models_own_generation_config(connect: Connect) -> None:
    """Chi-square over the first token of 3,000 samples of one prompt; 19 degrees of freedom, p = 0.001 at 43.8. The
    servers' folder has a generation_config.json with top_k 1, under which all would be one token."""
    n, model = 3000, weights(2)
    backend = connect(model)
    backend.publish("v")
    out = sample(backend, [PROMPTS[0]] * n, max_new_tokens=1)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([PROMPTS[0]])).logits[0, -1], dim=-1) * n
    counts = torch.bincount(torch.tensor([tokens[0] for tokens in out.token_ids]), minlength=len(expected))
    frequent = expected > 5
    assert float(((counts - expected).square() / expected)[frequent].sum()) < 43.8
    assert int(frequent.sum()) > 3


def test_the_same_seed_gives_the_same_samples_and_another_one_others(
    connect: Connect, servers: ServersOfARun
) -> None:
    backend = connect(weights(3), servers.urls[:1])
    backend.publish("v")
    first, again, other = sample(backend, seed=7), sample(backend, seed=7), sample(backend, seed=8)
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids


def test_logprobs_are_those_at_the_sampling_temperature(connect: Connect) -> None:
    model = weights(2)
    backend = connect(model)
    backend.publish("v")
    out = sample(backend, temperature=0.7)
    for prompt, tokens, logprobs in zip(PROMPTS, out.token_ids, out.logprobs, strict=True):
        assert logprobs == pytest.approx(forward_logprobs(model, prompt, tokens, 0.7), abs=1e-5)


def test_a_temperature_near_nothing_is_greedy(connect: Connect) -> None:
    model = weights(2)
    backend = connect(model)
    backend.publish("v")
    out = sample(backend, [PROMPTS[0]], temperature=1e-6)
    ids = list(PROMPTS[0])
    for token in out.token_ids[0]:
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_a_response_ends_with_its_eos_or_is_cut_off_at_the_limit(connect: Connect) -> None:
    backend = connect(weights(1))
    backend.publish("v")
    out = sample(backend, PROMPTS * 8)
    assert any(out.ended)
    assert not all(out.ended)
    for tokens, ended in zip(out.token_ids, out.ended, strict=True):
        assert EOS not in tokens[:-1]
        assert (tokens[-1] == EOS) is ended
        assert ended or len(tokens) == LIMIT


def test_what_a_resume_point_holds_is_not_sampled_again(connect: Connect) -> None:
    backend = connect(weights(1))
    backend.publish("v")
    done: list[Completions] = []

    class StopError(Exception):
        pass

    def stop(out: Completions) -> None:
        done.append(out)
        raise StopError

    with pytest.raises(StopError):
        sample(backend, after_batch=stop)
    (kept,) = done
    had = {i: list(tokens) for i, tokens in enumerate(kept.token_ids) if tokens}
    assert 0 < len(had) < len(PROMPTS)
    whole = sample(backend, done=kept)
    assert all(whole.token_ids)
    assert {i: whole.token_ids[i] for i in had} == had


def test_more_prompts_at_once_than_a_server_takes_in_one_step_are_sampled(
    connect: Connect, servers: ServersOfARun
) -> None:
    """Some 8,000 tokens of prompts, of which a step takes 2,048."""
    backend = connect(weights(1), servers.urls[:1])
    backend.publish("v")
    out = sample(backend, [[BOS, *([5, 9] * 16)]] * 240, max_new_tokens=4)
    assert all(out.token_ids)


def test_a_prompt_without_room_for_its_response_is_refused_by_name(connect: Connect) -> None:
    backend = connect(weights(1))
    backend.publish("v")
    with pytest.raises(DataError, match=r"45 tokens.*maxNewTokens 12.*48 positions"):
        sample(backend, [[BOS] * 45])


# --- whatever can go wrong ---


@pytest.mark.parametrize("fault", [error_500, hang, break_off], ids=["error 500", "hangs", "dies"])
def test_what_a_failing_server_was_asked_is_sampled_by_the_other(
    connect: Connect, proxies: list[FaultProxy], fault: Callable
) -> None:
    model = weights(4)
    backend = connect(model, [proxy.url for proxy in proxies], completion=5.0)
    backend.publish("v")
    proxies[0].fail(GENERATE, fault)
    out = sample(backend)
    assert mismatch(out, model) < 1e-5
    assert GENERATE in proxies[0].paths


def test_a_server_that_failed_for_a_moment_gets_the_weights_anew_before_it_samples(
    connect: Connect, proxies: list[FaultProxy]
) -> None:
    model = weights(4)
    backend = connect(model, [proxies[0].url])
    backend.publish("v")
    proxies[0].fail(GENERATE, error_500, times=1)
    proxies[0].paths.clear()
    assert mismatch(sample(backend), model) < 1e-5
    assert proxies[0].paths.index("/update_weights") > proxies[0].paths.index(GENERATE)


def test_samples_under_another_version_are_not_taken(connect: Connect, proxies: list[FaultProxy]) -> None:
    async def mislabel(_request: web.Request, forward: Forward) -> web.StreamResponse:
        answer = json.loads((await forward()).body)  # type: ignore[arg-type]
        for choice in answer.get("choices", []):
            choice["weight_versions"][0]["version"] = "0.9@somebody"
        return web.json_response(answer)

    backend = connect(weights(4), [proxies[0].url])
    backend.publish("v")
    proxies[0].fail(GENERATE, mislabel)
    with pytest.raises(RolloutServersError, match=r"sampled with weights .*0\.9@somebody"):
        sample(backend)


def test_old_weights_under_the_new_name_are_caught_by_what_they_compute(
    connect: Connect, proxies: list[FaultProxy]
) -> None:
    model = weights(4)
    backend = connect(model, [proxies[0].url])
    backend.publish("1.0")
    proxies[0].fail("/update_weights", pretend)
    model.load_state_dict(weights(5).state_dict())
    with pytest.raises(
        RolloutServersError, match=r"says that it serves weights '1\.1@.* computes with others"
    ):
        backend.publish("1.1")


def test_a_small_step_that_is_not_taken_is_caught_as_well(
    connect: Connect, proxies: list[FaultProxy]
) -> None:
    """One optimiser step moves log-probabilities by some thousandths."""
    model = weights(4)
    backend = connect(model, [proxies[0].url])
    backend.publish("1.0")
    proxies[0].fail("/update_weights", pretend)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(RolloutServersError, match="computes with others"):
        backend.publish("1.1")


def test_a_server_that_dies_during_an_update_is_given_all_of_it_again(
    connect: Connect, proxies: list[FaultProxy]
) -> None:
    model = weights(4)
    backend = connect(model, [proxies[0].url])
    proxies[0].fail("/update_weights", break_off, times=1)
    backend.publish("v")
    assert mismatch(sample(backend), model) < 1e-5


def test_a_truncated_file_changes_nothing_and_is_named(
    connect: Connect, proxies: list[FaultProxy], tmp_path: Path
) -> None:
    async def truncate(_request: web.Request, forward: Forward) -> web.StreamResponse:
        for file in tmp_path.rglob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:-1])
        return await forward()

    old = weights(4)
    before = connect(old, [proxies[0].url])
    before.publish("old")
    proxies[0].fail("/update_weights", truncate)
    with pytest.raises(RolloutServersError, match=r"/update_weights answered 500: .* bytes, not "):
        connect(weights(5), [proxies[0].url]).publish("new")
    # The old weights are whole: a trainer that only looks finds them computing as they did.
    proxies[0].fault = None
    after = connect(old, [proxies[0].url])
    after.publish("old again")
    assert mismatch(sample(after), old) < 1e-5


def test_of_two_trainers_the_one_with_the_older_claim_loses(connect: Connect, servers: ServersOfARun) -> None:
    url = servers.urls[:1]
    older, newer = connect(weights(4), url), connect(weights(5), url)
    older.publish("1.0")
    newer.publish("1.0")
    with pytest.raises(FencedError, match="another executor drives this run"):
        sample(older)
    assert mismatch(sample(newer), weights(5)) < 1e-5


# --- who may ask for what ---


def test_every_route_of_a_live_server_asks_for_the_token(servers: ServersOfARun) -> None:
    import re
    import urllib.error
    import urllib.request

    from gapo_trainer.rollout_server.access import FENCED, OPEN, READS

    log = servers.local.log_of(0).read_text()
    routes = {
        (method, re.sub(r"\{.*?\}", "x", path))
        for path, methods in re.findall(r"Route: (\S+), Methods: (.+)", log)
        for method in methods.split(", ")
    }
    assert len(routes) > 40
    assert {("POST", "/collective_rpc"), ("POST", "/update_weights"), ("POST", GENERATE)} <= routes

    def status(method: str, path: str, **headers: str) -> int:
        request = urllib.request.Request(servers.urls[0] + path, method=method, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    for method, path in sorted(routes - OPEN):
        assert (method, path, status(method, path)) == (method, path, 401)
        assert status(method, path, Authorization="Bearer no") == 401
    allowed = OPEN | READS | FENCED
    for method, path in sorted(routes - allowed):
        given = status(method, path, Authorization=f"Bearer {servers.token}", **{"X-Gapo-Claim": "999999"})
        assert (method, path, given) == (method, path, 403)
    assert {(method, path) for method, path in OPEN if status(method, path) == 200} == OPEN
