"""Digests: what changes numbers changes them, what does not leaves them."""

from __future__ import annotations

import pytest
from tests.bench.method.keys import PRODUCTS, code_digest, meaning, settings_digest, uncommitted

SOURCE = '''"""A module."""
LR = 1e-3  # why
"""A constant."""


def f(x):
    """A function."""
    return x + LR
'''


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace("A function.", "Another text."),
        lambda s: s.replace("  # why", ""),
        lambda s: s.replace('"""A constant."""\n', ""),
        lambda s: s.replace("\n\n\n", "\n"),
    ],
)
def test_comments_docstrings_and_layout_are_no_code(change):
    assert change(SOURCE) != SOURCE
    assert meaning(change(SOURCE)) == meaning(SOURCE)


@pytest.mark.parametrize("change", [("1e-3", "2e-3"), ("x + LR", "x - LR"), ("f(x)", "f(x, y=1)")])
def test_a_changed_constant_or_expression_is_other_code(change):
    assert meaning(SOURCE.replace(*change)) != meaning(SOURCE)


def test_a_function_of_a_docstring_alone_stays_a_function():
    assert meaning('def f():\n    """Nothing."""\n') == "def f():\n    pass"


def test_the_code_digest_reads_what_makes_numbers_and_not_what_carries_them(tmp_path):
    room = tmp_path / "trainer" / "gapo_trainer"
    (room / "ppo").mkdir(parents=True)
    (room / "ppo" / "math.py").write_text(SOURCE)
    (room / "runner.py").write_text(SOURCE)
    before = code_digest(tmp_path)
    (room / "runner.py").write_text(SOURCE.replace("1e-3", "2e-3"))
    assert code_digest(tmp_path) == before
    (room / "ppo" / "math.py").write_text(SOURCE.replace("1e-3", "2e-3"))
    after = code_digest(tmp_path)
    assert after != before
    (room / "ppo" / "math.py").rename(room / "ppo" / "maths.py")
    assert code_digest(tmp_path) not in (before, after)


def test_settings_are_told_apart_by_every_spec_in_them():
    start, arm = {"seed": 1, "stages": {"max": 0}}, {"seed": 1, "method": "PPO"}
    same = {"stages": {"max": 0}, "seed": 1}
    assert settings_digest(start, arm) == settings_digest(same, arm)
    assert settings_digest(start, arm) != settings_digest(start, {**arm, "method": "GAPO"})
    assert settings_digest(start, arm) != settings_digest(arm, start)


def test_a_path_outside_the_sources_is_never_uncommitted():
    assert uncommitted(["no/such/path"]) == []


def test_the_words_of_a_product_grammar_are_settings_and_other_grammars_have_none(tmp_path):
    words = tmp_path / PRODUCTS
    words.parent.mkdir(parents=True)
    product, micro = ({"data": {"generate": {"grammar": name}}} for name in ("product-1", "micro"))
    words.write_text("colours: [red]")
    before = [settings_digest(spec, root=tmp_path) for spec in (product, micro)]
    words.write_text("colours: [blue]")
    after = [settings_digest(spec, root=tmp_path) for spec in (product, micro)]
    assert before[0] != after[0]
    assert before[1] == after[1]
