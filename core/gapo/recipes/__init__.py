"""One file an algorithm: which task follows which (docs/recipes.md)."""

from gapo.api.run import GapoRunSpec
from gapo.recipes.adversarial import GAPO, PPO
from gapo.recipes.base import Line, Recipe, Step
from gapo.recipes.sft import SFT

RECIPES: dict[str, Recipe] = {"GAPO": GAPO, "PPO": PPO, "SFT": SFT}


def recipe_for(spec: GapoRunSpec) -> Recipe:
    return RECIPES[spec.method]


__all__ = ["RECIPES", "Line", "Recipe", "Step", "recipe_for"]
