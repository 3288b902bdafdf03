"""The layout of a response: bullets, title, highlights, sections, placeholders, JSON or prose."""

from __future__ import annotations

import json
import re
from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.attributes import attributes
from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng
from gapo_trainer.constraints.kinds import SAY, Count, Flag, Positive, Relation, around, holds, opposed
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
_STRUCTURED = frozenset({"json.schema", "format.json"})


@dataclass(config=STRICT)
class NumberSpec:
    n: Positive


class Bullets(Family[NumberSpec]):
    """An exact number of bullet lines ("* " or "- ")."""

    id = "format.bullets"
    ifeval_id = "detectable_format:number_bullet_lists"
    conflicts = _STRUCTURED | {
        "format.bullets",
        "format.highlights",
        "format.sections",
        "length.paragraphs",
        "startend.quotation",
        "startend.first_word",
        "startend.postscript",
        "length.sentences",
    }
    spec_type = NumberSpec
    phrasings = (
        "Use exactly {n} bullet points.",
        'The answer must have {n} bullet points, each on a line that starts with "* ".',
        "Give {n} points as a bulleted list.",
        "Number of bullet points: {n}.",
    )

    def sample(self, rng: Rng, ctx: Context) -> NumberSpec | None:
        return NumberSpec(rng.randint(1, 4))

    def check(self, spec: NumberSpec, response: str, ctx: Context) -> Result:
        count = len(BULLET.findall(response))
        return Result(count == spec.n, count, f"has {count} bullet points; must have {spec.n}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> NumberSpec | None:
        count = len(BULLET.findall(response))
        return NumberSpec(count) if count else None

    def modify(self, spec: NumberSpec, response: str, ctx: Context, rng: Rng) -> NumberSpec | None:
        count = len(BULLET.findall(response))
        return NumberSpec(rng.choice([n for n in range(1, spec.n + 3) if n not in (spec.n, count)]))

    def repair(self, spec: NumberSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        lines = response.strip().split("\n")
        marked = [i for i, line in enumerate(lines) if BULLET.match(line)]
        spare = [i for i in marked if lines[i].strip()[2:].rstrip(".") in POINTS]
        while len(marked) > spec.n:
            i = spare.pop() if spare else marked[-1]
            del lines[i]
            marked = [j for j, line in enumerate(lines) if BULLET.match(line)]
            spare = [j for j in marked if lines[j].strip()[2:].rstrip(".") in POINTS]
        fresh = [point for point in POINTS if point not in response]
        rng.shuffle(fresh)
        at = marked[-1] + 1 if marked else len(lines)
        # The last line of running text stays last, so that how the text ends is kept.
        at = at if marked or at < 2 else at - 1
        for _ in range(spec.n - len(marked)):
            lines.insert(at, f"* {fresh.pop() if fresh else 'good value'}.")
        text = "\n".join(lines)
        return text if self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class PresenceSpec:
    present: Flag


class Title(Family[PresenceSpec]):
    """A title in double angle brackets, or none."""

    id = "format.title"
    ifeval_id = "detectable_format:title"
    conflicts = _STRUCTURED | {"format.title", "style.slot", "startend.first_word"}
    spec_type = PresenceSpec
    phrasings = (
        "Add a title in double angle brackets, such as <<title>>.",
        "The answer must have a title, wrapped as <<title>>.",
        "Give it a title between << and >>.",
        "Include a title written as <<title>>.",
    )
    _plain = (
        "Add no title in double angle brackets.",
        "The answer must not have a <<title>>.",
        "Give it no title between << and >>.",
        "Leave out any title written as <<title>>.",
    )

    def templates(self, spec: PresenceSpec) -> tuple[str, ...]:
        return self.phrasings if spec.present else self._plain

    def sample(self, rng: Rng, ctx: Context) -> PresenceSpec | None:
        return PresenceSpec(rng.random() < 0.5)

    def check(self, spec: PresenceSpec, response: str, ctx: Context) -> Result:
        found = TITLE.findall(response)
        must = "must have one" if spec.present else "must have none"
        return Result(bool(found) == spec.present, len(found), f"has {len(found)} titles; {must}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> PresenceSpec | None:
        return PresenceSpec(bool(TITLE.search(response)))

    def modify(self, spec: PresenceSpec, response: str, ctx: Context, rng: Rng) -> PresenceSpec | None:
        new = PresenceSpec(not spec.present)
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: PresenceSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        if spec.present:
            quote = '"' if response.startswith('"') else ""
            return f"{quote}<<{rng.choice(('A closer look', 'For your home', 'New in our shop'))}>>\n{response[len(quote) :]}"
        text = re.sub(r"<<[^\n]+?>>[ \t]*\n?", "", response).strip()
        return text or None


@dataclass(config=STRICT)
class BoundSpec:
    relation: Relation
    n: Count


class Highlights(Family[BoundSpec]):
    """How many parts are *highlighted* by single asterisks."""

    id = "format.highlights"
    ifeval_id = "detectable_format:number_highlighted_sections"
    conflicts = _STRUCTURED | {"format.highlights", "format.bullets", "length.paragraphs"}
    spec_type = BoundSpec
    phrasings = (
        "Highlight {relation} {n} parts like *this*.",
        "{Relation} {n} parts must be highlighted with asterisks, as in *this*.",
        "Put {relation} {n} parts between single asterisks.",
        "Number of *highlighted* parts: {relation} {n}.",
    )

    def words(self, spec: BoundSpec) -> dict[str, object]:
        said = SAY[spec.relation]
        return {"relation": said, "Relation": said.capitalize(), "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> BoundSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return BoundSpec(relation, rng.randint(2, 3) - (relation == "at_most"))

    def check(self, spec: BoundSpec, response: str, ctx: Context) -> Result:
        count = len(HIGHLIGHT.findall(response))
        said = f"has {count} highlighted parts; must have {SAY[spec.relation]} {spec.n}"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> BoundSpec | None:
        return BoundSpec(*around(len(HIGHLIGHT.findall(response)), rng, margin=1, low=1))

    def modify(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> BoundSpec | None:
        found = opposed(spec.relation, spec.n, len(HIGHLIGHT.findall(response)), rng, spread=2)
        return None if found is None else BoundSpec(*found)

    def repair(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        while len(HIGHLIGHT.findall(text)) > spec.n and spec.relation != "at_least":
            text = HIGHLIGHT.sub(lambda match: match[0].strip("*"), text, count=1)
        while len(HIGHLIGHT.findall(text)) < spec.n and spec.relation != "at_most":
            taken = [match.span() for match in HIGHLIGHT.finditer(text)]
            free = [
                m
                for m in WORD.finditer(text)
                if not any(s <= m.start() < e for s, e in taken) and m[0].isalpha()
            ]
            if not free:
                return None
            match = rng.choice(free)
            text = f"{text[: match.start()]}*{match[0]}*{text[match.end() :]}"
        return text if self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class SectionsSpec:
    splitter: Literal["Section", "SECTION", "Part"]
    n: Positive


class Sections(Family[SectionsSpec]):
    """An exact number of lines "<splitter> <number>", numbered from 1."""

    id = "format.sections"
    ifeval_id = "detectable_format:multiple_sections"
    conflicts = _STRUCTURED | {
        "format.sections",
        "format.bullets",
        "length.paragraphs",
        "startend.first_word",
        "case.whole",
        "case.capital_word_frequency",
        "style.slot",
    }
    spec_type = SectionsSpec
    phrasings = (
        "Divide the answer into {n} sections, headed {splitter} 1, {splitter} 2 and so on.",
        'Use {n} sections; each starts with a line "{splitter} X".',
        'The answer must have exactly {n} sections, headed "{splitter} X".',
        'Write {n} sections under lines "{splitter} X", numbered from 1.',
    )

    def sample(self, rng: Rng, ctx: Context) -> SectionsSpec | None:
        return SectionsSpec(rng.choice(("Section", "SECTION", "Part")), rng.randint(1, 3))

    def check(self, spec: SectionsSpec, response: str, ctx: Context) -> Result:
        found = re.findall(rf"^{spec.splitter} (\d+)[ \t]*$", response, re.MULTILINE)
        ok = found == [str(i + 1) for i in range(spec.n)]
        return Result(ok, len(found), f"has sections {', '.join(found) or 'none'}; must have 1 to {spec.n}")

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
        options = [one for one in options if not self.check(one, response, ctx).ok]
        return rng.choice(options) if options else None

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


class Placeholders(Family[BoundSpec]):
    """How many [placeholders] in square brackets there are."""

    id = "format.placeholders"
    ifeval_id = "detectable_content:number_placeholders"
    conflicts = _STRUCTURED | {"format.placeholders"}
    spec_type = BoundSpec
    phrasings = (
        "Use {relation} {n} placeholders in square brackets, such as [name].",
        "{Relation} {n} placeholders like [date] must occur.",
        "Leave {relation} {n} gaps to fill in, written as [address].",
        "Number of placeholders such as [shop]: {relation} {n}.",
    )

    def words(self, spec: BoundSpec) -> dict[str, object]:
        said = SAY[spec.relation]
        return {"relation": said, "Relation": said.capitalize(), "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> BoundSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return BoundSpec(relation, rng.randint(2, 3) - (relation == "at_most"))

    def check(self, spec: BoundSpec, response: str, ctx: Context) -> Result:
        count = len(PLACEHOLDER.findall(response))
        said = f"has {count} placeholders; must have {SAY[spec.relation]} {spec.n}"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> BoundSpec | None:
        return BoundSpec(*around(len(PLACEHOLDER.findall(response)), rng, margin=1, low=1))

    def modify(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> BoundSpec | None:
        found = opposed(spec.relation, spec.n, len(PLACEHOLDER.findall(response)), rng, spread=2)
        return None if found is None else BoundSpec(*found)

    def repair(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        while len(PLACEHOLDER.findall(text)) > spec.n and spec.relation != "at_least":
            text = PLACEHOLDER.sub("you", text, count=1)
        while len(PLACEHOLDER.findall(text)) < spec.n and spec.relation != "at_most":
            text = insert_sentence(text, f"Ask for {rng.choice(SLOTS)}.", rng.randint(0, 2))
        return text if self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class FormSpec:
    form: Literal["json", "prose"]


class JsonFormat(Family[FormSpec]):
    """The whole response is one JSON object, or plain prose without braces."""

    id = "format.json"
    ifeval_id = "detectable_format:json_format"
    conflicts = frozenset({"format.json", "json.schema"})
    spec_type = FormSpec
    phrasings = (
        "Answer with one JSON object.",
        "The whole answer must be JSON.",
        "Put everything into a JSON object.",
        "Give JSON and nothing else.",
    )
    _prose = (
        "Answer in plain prose, without braces.",
        "The whole answer must be prose, not JSON.",
        "Write running text and no braces.",
        "Give prose without curly brackets.",
    )

    def templates(self, spec: FormSpec) -> tuple[str, ...]:
        return self.phrasings if spec.form == "json" else self._prose

    def sample(self, rng: Rng, ctx: Context) -> FormSpec | None:
        return FormSpec(rng.choice(("json", "prose")))

    def check(self, spec: FormSpec, response: str, ctx: Context) -> Result:
        found = (
            "json"
            if json_object(response) is not None
            else "braces"
            if re.search(r"[{}]", response)
            else "prose"
        )
        return Result(found == spec.form, found, f"is {found}; must be {spec.form}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> FormSpec | None:
        fits = [FormSpec("json"), FormSpec("prose")]
        return next((spec for spec in fits if self.check(spec, response, ctx).ok), None)

    def modify(self, spec: FormSpec, response: str, ctx: Context, rng: Rng) -> FormSpec | None:
        new = FormSpec("prose" if spec.form == "json" else "json")
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: FormSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        fields = json_object(response)
        if spec.form == "json":
            return json.dumps({"text": response.strip()}, ensure_ascii=False)
        if fields is None:
            return response.replace("{", "").replace("}", "").strip() or None
        known = attributes(ctx) if "attributes" in ctx else {}
        parts = [f"The {key} is {value}." if key in known else f"{value}" for key, value in fields.items()]
        return " ".join(parts).strip() or None
