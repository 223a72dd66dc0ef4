"""Conversations of any shape, in the words of every family: nothing is lost, and every result
stands with its call."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import pytest

from f1.calling.family import Family, families, family_for
from f1.models.load import load_checkpoint
from f1.types import Message, Tool, ToolCall

TOOLS = (Tool("look_up", "Finds the WORD-OF-TOOLS.", {"properties": {"key": {"type": "string"}}}),)


def conversation(draw: random.Random) -> list[Message]:
    """Whatever OpenAI takes: several system messages, anywhere; the same role twice; calls with and
    without text, their results in any order; ids that are used again; empty contents."""
    names = (f"<{number:03}>" for number in count(1))
    messages: list[Message] = []
    while len(messages) < 12 and (draw.random() < 0.9 or not messages):
        said = draw.choice(["", next(names), next(names)])
        match draw.choice(["system", "user", "user", "assistant", "calls", "calls"]):
            case "calls":
                ids = [f"call_{i}" for i in range(draw.randrange(1, 4))]
                made = [ToolCall(i, "look_up", f'{{"key": "{next(names)}"}}') for i in ids]
                messages.append(Message("assistant", said, tuple(made)))
                results = [Message("tool", f"for {c.arguments}", tool_call_id=c.id) for c in made]
                messages += draw.sample(results, len(results))
            case "system":
                messages.append(Message("system", said))
            case "user":
                messages.append(Message("user", said))
            case _:
                messages.append(Message("assistant", said))
    return messages


def words(messages: list[Message]) -> list[str]:
    """What is to be found in this order: contents, calls, and results in the order of the calls."""
    found: list[str] = []
    results: dict[str, str] = {}
    for message in [*messages, Message("user", "")]:
        if message.role == "tool":
            results[message.tool_call_id or ""] = message.content
            continue
        found += [results[call_id] for call_id in sorted(results)]
        results = {}
        found += [message.content] if message.content else []
        found += [call.arguments for call in message.tool_calls]
    return found


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["no tools", "tools"])
def test_nothing_is_lost(family: Family, tools: tuple[Tool, ...]) -> None:
    for seed in range(300):
        messages = conversation(random.Random(seed))
        plain = family.plain_messages(messages, tools)
        text = "\n".join(message.content for message in plain)
        at = 0
        for word in words(messages):
            # A result may show its call again.
            assert text.count(word) - text.count(f"for {word}") >= 1, seed
            at = text.index(word, at) + 1
        assert text.count("WORD-OF-TOOLS") == len(tools)
        assert {message.role for message in plain} <= {"system", "user", "assistant", "tool"}
        assert not any(message.tool_calls or message.reasoning for message in plain)


def test_results_stand_beside_their_calls() -> None:
    """In a family that names them: the call of this step, though its id was used before."""
    family = family_for("qwen2.5-coder")
    for seed in range(300):
        messages = conversation(random.Random(seed))
        for message in family.plain_messages(messages, TOOLS):
            for line in message.content.splitlines():
                if line.startswith("look_up("):
                    call, result = line.removeprefix("look_up(").split(") = for ")
                    assert call == result


@pytest.mark.parametrize("fixture", ["smollm_path", "qwen_path"])
def test_templates_take_them(request: pytest.FixtureRequest, fixture: str) -> None:
    path: Path = request.getfixturevalue(fixture)
    checkpoint = load_checkpoint(str(path))
    family = family_for(checkpoint.name)
    for seed in range(40):
        messages = conversation(random.Random(seed))
        for tools in ((), TOOLS):
            plain = family.plain_messages(messages, tools)
            text = checkpoint.tokenizer.decode(checkpoint.template.render(plain)).decode()
            for word in words(messages):
                assert word in text


def test_leading_system_messages_are_one() -> None:
    talk = [Message("system", "A."), Message("system", "B."), Message("user", "?")]
    for tools in ((), TOOLS):
        system, *rest = family_for("hermes").plain_messages(talk, tools)
        assert system.content.startswith("A.\n\nB.")
        assert [message.role for message in rest] == ["user"]


def test_tools_are_shown_where_nobody_has_asked() -> None:
    for family in families():
        for talk in ([Message("system", "Go on.")], [Message("assistant", "So?")]):
            plain = family.plain_messages(talk, TOOLS)
            assert "WORD-OF-TOOLS" in "".join(message.content for message in plain)
