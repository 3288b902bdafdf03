"""The layout of a response: bullets, title, highlights, sections, placeholders, JSON or prose."""

from __future__ import annotations

import json
import re
from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.counted import BoundSpec, ExactFamily, StepwiseFamily
from gapo_trainer.constraints.shared_params import Flag, Positive
from gapo_trainer.constraints.sides import TwoSidedFamily
from gapo_trainer.constraints.text import WORD, insert_sentence, json_object

BULLET = re.compile(r"^[ \t]*(?:\*[ \t]+|-[ \t]+)(?=\S)", re.MULTILINE)
TITLE = re.compile(r"<<[^\n]+?>>")
HIGHLIGHT = re.compile(r"(?<!\*)\*(?![\s*])[^\n*]*[^\s*]\*(?!\*)|(?<!\*)\*(?![\s*])[^\s*]\*(?!\*)")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
POINTS = (
    "easy to use",
    "made to last",
    "simple to clean",
    "a good gift",
    "quick to set up",
    "quiet and safe",
)
SLOTS = ("[name]", "[date]", "[address]", "[shop]", "[phone number]")


@dataclass(config=STRICT)
class NumberSpec:
    n: Positive


class Bullets(ExactFamily[NumberSpec]):
    """An exact number of bullet lines (`* ` or `- `)."""

    id = "format.bullets"
    ifeval_id = "detectable_format:number_bullet_lists"
    conflicts = frozenset({"format.bullets"})
    phrasings = (
        "Use exactly {n} bullet points.",
        'The answer must have {n} bullet points, each on a line that starts with "* ".',
        "Give {n} points as a bulleted list.",
        "Number of bullet points: {n}.",
    )
    feedback = "has {count} bullet points; must have {n}"
    example = Example({"n": 2}, "See:\n* one\n- two", "See:\n* one\n** two")

    def count(self, spec: NumberSpec, response: str, ctx: Context) -> int:
        return len(BULLET.findall(response))

    def sample(self, rng: Rng, ctx: Context) -> NumberSpec | None:
        return NumberSpec(rng.randint(1, 4))

    def witness(self, rng: Rng, response: str, ctx: Context) -> NumberSpec | None:
        count = len(BULLET.findall(response))
        return NumberSpec(count) if count else None

    def repair(self, spec: NumberSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        lines = response.strip().split("\n")
        bullets = [i for i, line in enumerate(lines) if BULLET.match(line)]
        spare = [i for i in bullets if lines[i].strip()[2:].rstrip(".") in POINTS]
        while len(bullets) > spec.n:
            i = spare.pop() if spare else bullets[-1]
            del lines[i]
            bullets = [j for j, line in enumerate(lines) if BULLET.match(line)]
            spare = [j for j in bullets if lines[j].strip()[2:].rstrip(".") in POINTS]
        fresh = [point for point in POINTS if point not in response]
        rng.shuffle(fresh)
        at = bullets[-1] + 1 if bullets else len(lines)
        # The last line of running text stays last, so that how the text ends is kept.
        at = at if bullets or at < 2 else at - 1
        for _ in range(spec.n - len(bullets)):
            lines.insert(at, f"* {fresh.pop() if fresh else 'good value'}.")
        text = "\n".join(lines)
        return text if self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class PresenceSpec:
    present: Flag


class Title(TwoSidedFamily[PresenceSpec]):
    """A title in double angle brackets, or none."""

    id = "format.title"
    ifeval_id = "detectable_format:title"
    conflicts = frozenset({"format.title", "style.slot"})
    sides = (PresenceSpec(True), PresenceSpec(False))
    phrasings = (
        "Add a title in double angle brackets, such as <<title>>.",
        "The answer must have a title, wrapped as <<title>>.",
        "Give it a title between << and >>.",
        "Include a title written as <<title>>.",
    )
    second_phrasings = (
        "Add no title in double angle brackets.",
        "The answer must not have a <<title>>.",
        "Give it no title between << and >>.",
        "Leave out any title written as <<title>>.",
    )
    example = Example({"present": True}, "<<New>>\nGood.", "<<>> Good.")

    def sample(self, rng: Rng, ctx: Context) -> PresenceSpec | None:
        return PresenceSpec(rng.random() < 0.5)

    def check(self, spec: PresenceSpec, response: str, ctx: Context) -> Result:
        count = len(TITLE.findall(response))
        must = "must have one" if spec.present else "must have none"
        return Result((count > 0) == spec.present, count, f"has {count} titles; {must}")

    def repair(self, spec: PresenceSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        if spec.present:
            quote = '"' if response.startswith('"') else ""
            return f"{quote}<<{rng.choice(('A closer look', 'For your home', 'New in our shop'))}>>\n{response[len(quote) :]}"
        text = re.sub(r"<<[^\n]+?>>[ \t]*\n?", "", response).strip()
        return text or None


class Highlights(StepwiseFamily[BoundSpec]):
    """How many parts are `*highlighted*` by single asterisks."""

    id = "format.highlights"
    ifeval_id = "detectable_format:number_highlighted_sections"
    conflicts = frozenset({"format.highlights", "format.bullets", "length.paragraphs"})
    phrasings = (
        "Highlight {relation} {n} parts like *this*.",
        "{Relation} {n} parts must be highlighted with asterisks, as in *this*.",
        "Put {relation} {n} parts between single asterisks.",
        "Number of *highlighted* parts: {relation} {n}.",
    )
    feedback = "has {count} highlighted parts; must have {relation} {n}"
    example = Example(
        {"relation": "at_least", "n": 2}, "A *new* one, *very good*.", "A *new* one, ** bold **."
    )

    def count(self, spec: BoundSpec, response: str, ctx: Context) -> int:
        return len(HIGHLIGHT.findall(response))

    def fewer(self, spec: BoundSpec, text: str, rng: Rng) -> str:
        return HIGHLIGHT.sub(lambda match: match[0].strip("*"), text, count=1)

    def more(self, spec: BoundSpec, text: str, rng: Rng) -> str | None:
        spans = [match.span() for match in HIGHLIGHT.finditer(text)]
        free = [
            m for m in WORD.finditer(text) if not any(s <= m.start() < e for s, e in spans) and m[0].isalpha()
        ]
        if not free:
            return None
        match = rng.choice(free)
        return f"{text[: match.start()]}*{match[0]}*{text[match.end() :]}"


@dataclass(config=STRICT)
class SectionsSpec:
    splitter: Literal["Section", "SECTION", "Part"]
    n: Positive


class Sections(Family[SectionsSpec]):
    """An exact number of lines `<splitter> <number>`, numbered from 1."""

    id = "format.sections"
    ifeval_id = "detectable_format:multiple_sections"
    conflicts = frozenset({"format.sections", "format.bullets", "length.paragraphs", "style.slot"})
    phrasings = (
        "Divide the answer into {n} sections, headed {splitter} 1, {splitter} 2 and so on.",
        'Use {n} sections; each starts with a line "{splitter} X".',
        'The answer must have exactly {n} sections, headed "{splitter} X".',
        'Write {n} sections under lines "{splitter} X", numbered from 1.',
    )
    example = Example({"splitter": "Part", "n": 2}, "Part 1\nA.\nPart 2\nB.", "Part 1\nA.\nPart 3\nB.")

    def sample(self, rng: Rng, ctx: Context) -> SectionsSpec | None:
        return SectionsSpec(rng.choice(("Section", "SECTION", "Part")), rng.randint(1, 3))

    def check(self, spec: SectionsSpec, response: str, ctx: Context) -> Result:
        numbers = re.findall(rf"^{spec.splitter} (\d+)[ \t]*$", response, re.MULTILINE)
        ok = numbers == [str(i + 1) for i in range(spec.n)]
        has = ", ".join(numbers) or "none"
        return Result(ok, len(numbers), f"has sections {has}; must have 1 to {spec.n}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> SectionsSpec | None:
        for splitter in ("Section", "SECTION", "Part"):
            count = len(re.findall(rf"^{splitter} \d+[ \t]*$", response, re.MULTILINE))
            if count:
                spec = SectionsSpec(splitter, count)
                if self.check(spec, response, ctx).ok:
                    return spec
        return None

    def modify(self, spec: SectionsSpec, response: str, ctx: Context, rng: Rng) -> SectionsSpec | None:
        options = [SectionsSpec(spec.splitter, n) for n in range(1, spec.n + 3) if n != spec.n]
        options += [SectionsSpec(s, spec.n) for s in ("Section", "SECTION", "Part") if s != spec.splitter]
        return self.choose_violated(options, response, ctx, rng)

    def repair(self, spec: SectionsSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        head = re.compile(r"^(?:Section|SECTION|Part) \d+[ \t]*$")
        lines = [line for line in response.strip().split("\n") if not head.match(line)]
        while len(lines) < spec.n:
            cut = next((i for i, line in enumerate(lines) if ". " in line), None)
            if cut is None:
                lines.append("It is made with care.")
            else:
                first, rest = lines[cut].split(". ", 1)
                lines[cut : cut + 1] = [f"{first}.", rest]
        starts = [i * len(lines) // spec.n for i in range(spec.n)]
        for number, at in reversed(list(enumerate(starts, 1))):
            lines.insert(at, f"{spec.splitter} {number}")
        text = "\n".join(lines)
        return text if self.check(spec, text, ctx).ok else None


class Placeholders(StepwiseFamily[BoundSpec]):
    """How many `[placeholders]` in square brackets there are."""

    id = "format.placeholders"
    ifeval_id = "detectable_content:number_placeholders"
    conflicts = frozenset({"format.placeholders"})
    phrasings = (
        "Use {relation} {n} placeholders in square brackets, such as [name].",
        "{Relation} {n} placeholders like [date] must occur.",
        "Leave {relation} {n} gaps to fill in, written as [address].",
        "Number of placeholders such as [shop]: {relation} {n}.",
    )
    feedback = "has {count} placeholders; must have {relation} {n}"
    example = Example({"relation": "exactly", "n": 1}, "Call [name].", "Call [name] at [shop].")

    def count(self, spec: BoundSpec, response: str, ctx: Context) -> int:
        return len(PLACEHOLDER.findall(response))

    def fewer(self, spec: BoundSpec, text: str, rng: Rng) -> str:
        return PLACEHOLDER.sub("you", text, count=1)

    def more(self, spec: BoundSpec, text: str, rng: Rng) -> str:
        return insert_sentence(text, f"Ask for {rng.choice(SLOTS)}.", rng.randint(0, 2))


@dataclass(config=STRICT)
class FormSpec:
    form: Literal["json", "prose"]


class JsonFormat(TwoSidedFamily[FormSpec]):
    """The whole response is one JSON object, or plain prose without braces."""

    id = "format.json"
    ifeval_id = "detectable_format:json_format"
    on_json = True
    sides = (FormSpec("json"), FormSpec("prose"))
    phrasings = (
        "Answer with one JSON object.",
        "The whole answer must be JSON.",
        "Put everything into a JSON object.",
        "Give JSON and nothing else.",
    )
    second_phrasings = (
        "Answer in plain prose, without braces.",
        "The whole answer must be prose, not JSON.",
        "Write running text and no braces.",
        "Give prose without curly brackets.",
    )
    example = Example({"form": "json"}, '{"a": 1}', "[1]")

    def check(self, spec: FormSpec, response: str, ctx: Context) -> Result:
        form = "braces" if re.search(r"[{}]", response) else "prose"
        form = form if json_object(response) is None else "json"
        return Result(form == spec.form, form, f"is {form}; must be {spec.form}")

    def repair(self, spec: FormSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        fields = json_object(response)
        if spec.form == "json":
            return json.dumps({"text": response.strip()}, ensure_ascii=False)
        if fields is None:
            return response.replace("{", "").replace("}", "").strip() or None
        record = ctx.get("attributes", {})
        parts = [f"The {key} is {value}." if key in record else f"{value}" for key, value in fields.items()]
        return " ".join(parts).strip() or None
