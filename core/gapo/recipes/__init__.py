"""One file a method: which task follows which (docs/recipes.md). Every Recipe in a file of this folder is one of
RECIPES."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

from gapo.api.methods import Method
from gapo.api.run import GapoRunSpec
from gapo.recipes.base import Lineage, Recipe, Step


def _recipes() -> Iterator[Recipe]:
    for module in iter_modules(__path__, f"{__name__}."):
        yield from (value for value in vars(import_module(module.name)).values() if isinstance(value, Recipe))


RECIPES: Mapping[Method, Recipe] = {recipe.method: recipe for recipe in _recipes()}


def recipe_for(spec: GapoRunSpec) -> Recipe:
    return RECIPES[spec.method]


__all__ = ["RECIPES", "Lineage", "Recipe", "Step", "recipe_for"]
