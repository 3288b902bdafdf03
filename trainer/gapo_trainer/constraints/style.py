"""How a description opens, closes and praises."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.attributes import category_of, value_of
from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.text import contains, insert_sentence, phrase_pattern, sentence_spans, words_of

CALLS_TO_ACTION = ("Order yours today.", "Try it now.", "Get yours while stock lasts.", "See it in our shop.")
SUPERLATIVES = ("best", "finest", "greatest", "perfect", "unbeatable", "ultimate")

Slot = Literal["opening", "closing", "superlatives"]
CHOICES: dict[Slot, tuple[str, str]] = {
    "opening": ("brand", "category"),
    "closing": ("call_to_action", "no_call_to_action"),
    "superlatives": ("none", "some"),
}


@dataclass(config=STRICT)
class SlotSpec:
    """`slot` names the place, `choice` what it must hold (CHOICES)."""

    slot: Slot
    choice: Literal["brand", "category", "call_to_action", "no_call_to_action", "none", "some"]

    def __post_init__(self) -> None:
        if self.choice not in CHOICES[self.slot]:
            raise ValueError(f"{self.slot} takes {' or '.join(CHOICES[self.slot])}, not {self.choice}")


PHRASINGS: dict[str, tuple[str, ...]] = {
    "brand": (
        "Start with the brand name.",
        "The first word must be the brand.",
        "Open with the brand.",
        "Begin the text with the brand name.",
    ),
    "category": (
        "Start with the kind of product.",
        "The first word must be the kind of product.",
        "Open with the product's kind.",
        "Begin the text with the kind of product.",
    ),
    "call_to_action": (
        "End with a call to action.",
        "The last sentence must be a call to action.",
        "Close with a call to action.",
        "Finish by inviting the reader to buy.",
    ),
    "no_call_to_action": (
        "Do not end with a call to action.",
        "The last sentence must not be a call to action.",
        "Close without a call to action.",
        "Finish without inviting the reader to buy.",
    ),
    "none": (
        "Use no superlatives.",
        "Avoid superlatives.",
        "The text must have no superlative.",
        "Do without words such as best or finest.",
    ),
    "some": (
        "Use at least one superlative.",
        "Praise it with a superlative.",
        "The text must have a superlative.",
        "Use a word such as best or finest.",
    ),
}


class StyleSlot(Family[SlotSpec]):
    """Opens with brand or category; ends with a call to action from a fixed list, or not; superlatives, or none."""

    id = "style.slot"
    phrasings = PHRASINGS["brand"]
    example = Example({"slot": "opening", "choice": "brand"}, "norvel makes it.", "By Norvel.")

    def templates(self, spec: SlotSpec) -> tuple[str, ...]:
        return PHRASINGS[spec.choice]

    def sample(self, rng: Rng, ctx: Context) -> SlotSpec | None:
        slots = [slot for slot in CHOICES if slot != "opening" or "brand" in ctx.get("attributes", {})]
        slot = rng.choice(slots)
        return SlotSpec(slot, rng.choice(CHOICES[slot]))  # type: ignore[arg-type]

    def check(self, spec: SlotSpec, response: str, ctx: Context) -> Result:
        if spec.slot == "opening":
            head = words_of(self._opening(spec, ctx))
            start = " ".join(words_of(response)[: len(head)])
            return Result(
                start == " ".join(head), start, f"opens with {start!r}; must open with the {spec.choice}"
            )
        if spec.slot == "closing":
            ends = self._call_at_end(response) is not None
            must = "must" if spec.choice == "call_to_action" else "must not"
            closing = "ends" if ends else "does not end"
            return Result(ends == (must == "must"), closing, f"{closing} with a call to action; {must} do so")
        superlatives = [word for word in SUPERLATIVES if contains(response, word)]
        must = "must use none" if spec.choice == "none" else "must use one"
        return Result(
            bool(superlatives) == (spec.choice == "some"),
            len(superlatives),
            f"superlatives: {', '.join(superlatives) or 'none'}; {must}",
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> SlotSpec | None:
        slots = list(CHOICES)
        rng.shuffle(slots)
        for slot in slots:
            if slot == "opening" and "brand" not in ctx.get("attributes", {}):
                continue
            for choice in CHOICES[slot]:
                spec = SlotSpec(slot, choice)  # type: ignore[arg-type]
                if self.check(spec, response, ctx).ok:
                    return spec
        return None

    def modify(self, spec: SlotSpec, response: str, ctx: Context, rng: Rng) -> SlotSpec | None:
        choice = next(one for one in CHOICES[spec.slot] if one != spec.choice)
        new = SlotSpec(spec.slot, choice)  # type: ignore[arg-type]
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: SlotSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        if self.check(spec, text, ctx).ok:
            return text
        if spec.choice in ("brand", "category"):
            text = f"{self._opening(spec, ctx).capitalize() if spec.choice == 'category' else self._opening(spec, ctx)}: {text}"
        elif spec.choice == "call_to_action":
            text = f"{text.rstrip()} {rng.choice(CALLS_TO_ACTION)}"
        elif spec.choice == "no_call_to_action":
            while (call := self._call_at_end(text)) is not None:
                text = text[: sentence_spans(text)[-len(sentence_spans(call))][0]].rstrip()
        elif spec.choice == "some":
            text = insert_sentence(
                text, f"It is the {rng.choice(SUPERLATIVES[:3])} of its kind.", rng.randint(0, 2)
            )
        else:
            for word in SUPERLATIVES:
                text = phrase_pattern(word).sub("choice", text)
        return text if text and self.check(spec, text, ctx).ok else None

    def _opening(self, spec: SlotSpec, ctx: Context) -> str:
        return value_of(ctx, "brand") if spec.choice == "brand" else category_of(ctx)

    def _call_at_end(self, text: str) -> str | None:
        tail = words_of(text)
        return next(
            (call for call in CALLS_TO_ACTION if tail[-len(words_of(call)) :] == words_of(call)), None
        )
