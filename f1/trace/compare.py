"""Where two runs part: side by side, step by step and call by call, in words.

request ─ models ─ shown at step 1 ─ turn 1 ─ $1 ─ … ─ $2 ─ … ─ ending
                                        ╰ what first differs explains most of what follows
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from f1.trace.entries import CODEC, Shown, Turned
from f1.trace.prompts import written
from f1.trace.story import Story, Told
from f1.types import GenerateRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class Difference:
    """`a` and `b`: what each of the runs has in that place."""

    where: str  # "step 2, $3 book_flight: flight"
    a: str
    b: str


def compare(a: Story, b: Story) -> Iterator[Difference]:
    """All differences, in the order in which they came about."""
    yield from _begun(a, b)
    steps = sorted({shown.step for story in (a, b) for _, shown in story.each(Shown)})
    steps += sorted({turn.step for story in (a, b) for turn in story.turns} - set(steps))
    for step in sorted(steps):
        yield from _differ(f"step {step}, tools shown", *(_shown(s, step) for s in (a, b)))
        turns = [[turn for turn in s.turns if turn.step == step] for s in (a, b)]
        for index, (one, other) in enumerate(zip_longest(*turns)):
            yield from _turns(f"step {step}, turn {index + 1}", one, other)
        calls = [[t for t in s.calls.values() if t.called.step == step] for s in (a, b)]
        for told, other_told in zip_longest(*calls):
            yield from _calls(f"step {step}", told, other_told)
    ends = [story.ended for story in (a, b)]
    yield from _differ("ending", *(story.row.status if e is None else e.ending
                                   for story, e in zip((a, b), ends, strict=True)))  # fmt: skip
    yield from _differ("answer", *("" if end is None else end.text for end in ends))


def _begun(a: Story, b: Story) -> Iterator[Difference]:
    began = [story.began for story in (a, b)]
    one, other = began
    if one is None or other is None:
        yield from _differ("beginning", *("none" if each is None else "there" for each in began))
        return
    yield from _differ("version", one.version, other.version)
    for role in sorted(one.models.keys() | other.models.keys()):
        yield from _differ(f"model of the {role}", one.models.get(role), other.models.get(role))
    pairs = zip_longest(one.request.messages, other.request.messages)
    for index, (said, other_said) in enumerate(pairs):
        said_by = getattr(said or other_said, "role", "")
        contents = (None if m is None else m.content for m in (said, other_said))
        yield from _differ(f"message {index} ({said_by})", *contents)
    names = ([tool.name for tool in each.request.tools] for each in (one, other))
    yield from _differ("the caller's tools", *names)
    samplings = [each.request.sampling for each in (one, other)]
    if all(each.temperature == 0 for each in samplings):  # nothing is drawn
        samplings = [replace(each, seed=0) for each in samplings]
    yield from _differ("sampling", *map(str, samplings))
    for name in ("max_tokens", "tool_choice", "response_format"):
        yield from _differ(name, *(str(getattr(each.request, name)) for each in (one, other)))
    yield from _options(one.request, other.request)


def _options(a: GenerateRequest, b: GenerateRequest) -> Iterator[Difference]:
    for name in ("strategy", "plan", "toolsets", "tools", "max_tools", "samples", "budget"):
        yield from _differ(name, *(str(getattr(each.run, name)) for each in (a, b)))


def _shown(story: Story, step: int) -> Any:
    return next((list(s.tools) for _, s in story.each(Shown) if s.step == step), None)


def _turns(where: str, a: Turned | None, b: Turned | None) -> Iterator[Difference]:
    if a is None or b is None:
        yield from _differ(where, *(None if turn is None else written(turn) for turn in (a, b)))
        return
    yield from _differ(f"{where}, what was asked of it", *_asked(a, b))
    yield from _differ(f"{where}, what it wrote", written(a), written(b))
    if written(a) == written(b):
        yield from _differ(f"{where}, its tokens", *(_ids(turn) for turn in (a, b)))


def _asked(*turns: Turned) -> list[dict[str, Any]]:
    """What stands there is what is not usual. Where nothing is drawn, seeds are left out."""
    samplings: list[dict[str, Any]] = [dict(turn.asked.get("sampling") or {}) for turn in turns]
    if not any(each.get("temperature") for each in samplings):
        for each in samplings:
            each.pop("seed", None)
    usual = CODEC.encode(SamplingParams())
    rest = [{k: v for k, v in turn.asked.items() if k != "sampling"} for turn in turns]
    return [
        others | ({"sampling": each} if each and each != usual else {})
        for others, each in zip(rest, samplings, strict=True)
    ]


def _ids(turn: Turned) -> str:
    return ", ".join(ids.hex() for ids in turn.token_ids)


def _calls(step: str, a: Told | None, b: Told | None) -> Iterator[Difference]:
    if a is None or b is None or a.node.tool != b.node.tool:
        names = (None if told is None else f"${told.node.id} {told.node.tool}" for told in (a, b))
        yield from _differ(f"{step}, call", *names)
        return
    where = f"{step}, ${a.node.id} {a.node.tool}"
    ours, theirs = a.node.arguments, b.node.arguments
    for name in dict.fromkeys((*ours, *theirs)):
        yield from _differ(f"{where}: {name}", ours.get(name), theirs.get(name))
    decided = (None if t.decided is None else t.decided.verdict.kind for t in (a, b))
    yield from _differ(f"{where}, a person", *decided)
    results = [told.result for told in (a, b)]
    yield from _differ(f"{where}, came to", *("no result" if r is None else r.failed or "a result"
                                             for r in results))  # fmt: skip
    yield from _differ(f"{where}, result", *("" if r is None else r.content for r in results))


def _differ(where: str, a: Any, b: Any) -> Iterator[Difference]:
    if a != b:
        yield Difference(where, *map(_told, (a, b)))


def _told(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
