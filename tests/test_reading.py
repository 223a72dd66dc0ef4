"""What models write, read in any pieces: always the same, nothing lost, in linear time (G12).

Outputs are made with what they mean; the turn gets them byte by byte, and in random tokens.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from kit import Kit, make_kit

from f1.calling.family import Family, Form, families
from f1.calling.turn import Turn, TurnEvent
from f1.errors import ConstraintError
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    GenerateRequest,
    Message,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
)

NAMES = ("get_time", "get_timezone", "write", "a-b")
TOOLS = tuple(Tool(name, "", {"additionalProperties": True}) for name in NAMES)
ASK = GenerateRequest((Message("user", "?"),), TOOLS, eager_arguments=True)

WORDS = (
    *("Sure", " I", " will", " 漢字", " é", "🎉", ".", "\n", "\n\n", "  ", "\t", "a < b", " {x}"),
    *("`code`.", " `` ", "[1]", ' "name"', ": ", "get_time", "</tool", "\\n", "}}", "]", "<"),
)
# Begin like a call, and are none: the second half is not what a call goes on with.
NEAR_MISSES = (
    '```json\n{"port": 8080}\n```',
    '```json\n{"name": "Ann", "age": 3}\n```',
    '```json\n{"name": "get_tim',
    '```json\n{"names": ["get_time"]}\n```',
    "```json\n[1, 2]\n```",
    '```json\n[{"id": 1}]\n```',
    '```python\nprint({"name": "get_times"})\n```',
    "```json\n{" + " " * 30 + '"name": "get_time"',
    "<tool_cal",
    "<tool_response>",
    "<tool>",
    "``````json",
    '{"name": "Ann"}',
    '[{"id": "get_time"}]',
    '["name"]',
)


@dataclass(frozen=True)
class Output:
    """What is written, and what it means."""

    written: str
    thought: str = ""
    text: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass
class Read:
    """What was understood."""

    thought: str = ""
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    begun: tuple[tuple[str, str], ...] = ()

    def take(self, events: Sequence[TurnEvent]) -> None:
        for event in events:
            match event:
                case TextDelta():
                    assert event.text
                    assert not self.begun
                    self.text += event.text
                case ReasoningDelta():
                    assert event.text
                    assert not self.text
                    self.thought += event.text
                case CallBegun():
                    assert event.index == len(self.begun) == len(self.calls)
                    self.begun = (*self.begun, (event.name, ""))
                case ArgumentsDelta():
                    name, joined = self.begun[-1]
                    self.begun = (*self.begun[:-1], (name, joined + event.text))
                case CallDelta():
                    self.calls = (*self.calls, (event.call.name, event.call.arguments))
                    assert self.calls == self.begun


def value(draw: random.Random, depth: int = 0) -> object:
    kinds = ["text", "text", "number", "word"] + (["list", "object"] if depth < 3 else [])
    match draw.choice(kinds):
        case "text":
            parts = [
                '"',
                "\\",
                "{",
                "}",
                "[",
                "]",
                "漢",
                "é",
                "🎉",
                "\n",
                "</tool_call>",
                "```",
                "a",
            ]
            return "".join(draw.choices(parts, k=draw.randrange(6)))
        case "number":
            return draw.choice([0, -1, 3.5, 1e-7, 123456])
        case "word":
            return draw.choice([None, True, False])
        case "list":
            return [value(draw, depth + 1) for _ in range(draw.randrange(3))]
        case _:
            return arguments(draw, depth + 1)


def arguments(draw: random.Random, depth: int = 0) -> dict[str, object]:
    names = draw.sample(["x", "a b", 'q"', "näme", "{", "\\"], draw.randrange(3))
    return {name: value(draw, depth) for name in names}


def calls(draw: random.Random) -> tuple[ToolCall, ...]:
    """Some that differ."""
    made = {}
    for _ in range(draw.randrange(1, 4)):
        name, given = draw.choice(NAMES), arguments(draw)
        made[name, json.dumps(given, sort_keys=True)] = ToolCall(
            "", name, json.dumps(given, ensure_ascii=draw.random() < 0.3)
        )
    return tuple(made.values())


def output(family: Family, draw: random.Random) -> Output:
    thought, lead = "", ""
    if family.reasoning is not None and draw.random() < 0.6:
        said = draw.choices([*WORDS, *NEAR_MISSES, "<tool_call>", "</thin"], k=draw.randrange(6))
        thought = "".join(said).strip()
        lead = f"{family.reasoning.open}\n{thought}\n{family.reasoning.close}\n\n"
    form = draw.choice([None, *family.forms])
    words = draw.choices(WORDS, k=draw.randrange(8)) if draw.random() < 0.7 else []
    if draw.random() < 0.3:
        words.insert(draw.randrange(len(words) + 1), draw.choice(NEAR_MISSES) + ".\n")
    text = "".join(words)
    if form is None:
        return Output(lead + text, thought, text.lstrip() if lead else text)
    if form.only_at_start:
        text = draw.choice(["", "\n", " "])
    made = calls(draw)
    return Output(
        lead + text + write(form, made, draw),
        thought,
        text.strip() if lead else text.rstrip(),
        made,
    )


def write(form: Form, made: Sequence[ToolCall], draw: random.Random) -> str:
    """As `Family.write_calls` does, but that white space in the beginning varies."""
    beginning = form.open
    if form.commits_at == "name" and draw.random() < 0.3:
        beginning = beginning.replace("\n", draw.choice(["", "\n\n", "\n  "]))
    text = ""
    for index, call in enumerate(made):
        text += beginning if index == 0 else form.next
        text += f' "{call.name}"{form.arguments} {call.arguments}'
    return text + form.close


@pytest.fixture(scope="module")
def kit(smollm_path: Path) -> Kit:
    return make_kit(smollm_path)


@pytest.fixture(scope="module")
def tokens(kit: Kit) -> dict[bytes, int]:
    """Tokens by their bytes, but for control tokens."""
    vocabulary = kit.tokenizer.vocabulary()
    return {data: token_id for token_id, data in enumerate(vocabulary) if data}


def cut(data: bytes, tokens: dict[bytes, int], draw: random.Random | None) -> Iterator[int]:
    """`data` as tokens: of one byte each, or of some bytes as it happens."""
    at = 0
    while at < len(data):
        fitting = [1]
        if draw is not None:
            fitting = [
                n for n in range(1, 12) if at + n <= len(data) and data[at : at + n] in tokens
            ]
        size = draw.choice(fitting) if draw is not None else 1
        yield tokens[data[at : at + size]]
        at += size


def read(turn: Turn, token_ids: Iterator[int], limit: int | None = None) -> Read:
    """Of the first `limit` tokens; None: of all, and the turn ends by itself or is ended."""
    found = Read()
    for index, token_id in enumerate(token_ids):
        if index == limit:
            found.take(turn.finish(cut=True))
            return found
        found.take(turn.accept(token_id))
        if turn.ended:
            return found
    found.take(turn.finish())
    return found


def check(
    kit: Kit, tokens: dict[bytes, int], family: Family, seed: int, *, every_cut: bool
) -> None:
    draw = random.Random(seed)
    made = output(family, draw)
    data = made.written.encode()
    expected = Read(made.thought, made.text, tuple((c.name, c.arguments) for c in made.calls))
    expected.begun = expected.calls

    def turn() -> Turn:
        return kit.turn(ASK, family, max_tokens=10_000)

    for pieces in (None, draw):
        assert read(turn(), cut(data, tokens, pieces)) == expected, (seed, made.written)
    limits = range(len(data)) if every_cut else [draw.randrange(len(data) + 1)]
    for limit in limits:
        part = read(turn(), cut(data, tokens, None), limit)
        assert expected.thought.startswith(part.thought.rstrip()) or not part.calls
        assert part.calls == expected.calls[: len(part.calls)]
        if part.begun:
            assert part.text == expected.text
            name, told = part.begun[-1]
            whole_name, whole = expected.calls[len(part.begun) - 1]
            assert name == whole_name
            assert whole.startswith(told)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_any_output_in_any_pieces(kit: Kit, tokens: dict[bytes, int], family: Family) -> None:
    for seed in range(400):
        check(kit, tokens, family, seed, every_cut=False)


@pytest.mark.full
@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_100000_outputs(kit: Kit, tokens: dict[bytes, int], family: Family) -> None:
    for seed in range(100_000 // len(families())):
        check(kit, tokens, family, seed, every_cut=seed % 50 == 0)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_soup_is_read_or_refused(kit: Kit, tokens: dict[bytes, int], family: Family) -> None:
    """Syntax in any order: nothing but typed errors, and never half a character."""
    parts = [
        *WORDS,
        *NEAR_MISSES,
        "<tool_call>",
        '"arguments": {',
        '{"name": "get_time"',
        "<think>",
    ]
    read_whole = 0
    for seed in range(150):
        draw = random.Random(seed)
        data = "".join(draw.choices(parts, k=draw.randrange(1, 9))).encode()
        try:
            found = read(kit.turn(ASK, family), cut(data, tokens, draw))
        except ConstraintError:
            continue  # the mask would not have allowed it
        read_whole += 1
        assert "\ufffd" not in found.text + found.thought
    assert read_whole > 20


ADVERSARIES = {
    "white space": lambda n: b" " * n,
    "lines": lambda n: b"\n" * n,
    "angles": lambda n: b"<" * n,
    "fences": lambda n: b"`" * n,
    "beginnings": lambda n: b"<tool_cal" * (n // 9),
    "braces": lambda n: b"{" * n,
    "lists": lambda n: b'[{"name": "get_tim' * (n // 18),
    "half names": lambda n: b'```json\n{"name": "get_tim' * (n // 24),
    "white space in a beginning": lambda n: b"```json\n" + b" " * n,
    "thought": lambda n: b"<think>" + b"</thin" * (n // 6),
    "string": lambda n: b'<tool_call>\n{"name": "write", "arguments": {"x": "' + b"a" * n,
    "escapes": lambda n: b'<tool_call>\n{"name": "write", "arguments": {"x": "' + b'\\"' * (n // 2),
    "stop strings": lambda n: b"ab" * (n // 2),
}


@pytest.mark.full
@pytest.mark.parametrize("name", ADVERSARIES)
def test_twice_the_length_takes_twice_the_time(
    kit: Kit, tokens: dict[bytes, int], name: str
) -> None:
    """CPU time, the least of three, at a length where what is fixed does not count."""
    family = next(family for family in families() if family.name == "qwen3")
    if name in ("string", "escapes"):
        family = replace(family, forms=family.forms[:1])
    stops = ("ab" * 500 + "c",) if name == "stop strings" else ()

    def seconds(size: int) -> float:
        token_ids = list(cut(ADVERSARIES[name](size), tokens, None))
        best = float("inf")
        for _ in range(3):
            turn = kit.turn(replace(ASK, stop=stops), family, max_tokens=1_000_000)
            begin = time.process_time()
            for token_id in token_ids:
                turn.accept(token_id)
            turn.finish(cut=True)
            best = min(best, time.process_time() - begin)
        return best

    once, twice = seconds(20_000), seconds(40_000)
    assert twice <= 2.5 * once, (once, twice)
