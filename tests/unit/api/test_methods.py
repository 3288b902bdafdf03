"""What a spec must hold, method by method: it follows from what the method's row says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.api.test_loading import document

from gapo.api.load import load_document
from gapo.api.methods import METHODS, Method
from gapo.errors import SpecError
from gapo.recipes import RECIPES


def accepted(**spec: Any) -> bool:
    try:
        load_document(document(**spec), where="run.yaml", base=Path())
    except SpecError:
        return False
    return True


@pytest.mark.parametrize("method", METHODS)
def test_a_reward_model_is_asked_of_the_methods_that_learn_from_a_reward(method: Method) -> None:
    assert accepted(method=method, rewardModel=None) is not METHODS[method].has_reward


@pytest.mark.parametrize("method", METHODS)
def test_the_verifier_as_reward_is_refused_by_the_methods_that_retrain(method: Method) -> None:
    verifier = {"source": "verifier"}
    assert accepted(method=method, rewardModel=verifier) is not METHODS[method].retrains_reward_model


def test_every_method_has_its_recipe() -> None:
    assert set(RECIPES) == set(METHODS)
