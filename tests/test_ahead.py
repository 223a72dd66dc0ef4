"""Masks behind drafts are those that there would be, were the drafts sampled."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generated import request as generated_request
from kit import Kit, make_kit
from test_forced import example

from f1.calling.family import Family, families
from f1.calling.turn import Turn
from f1.types import GenerateRequest, Message, ResponseFormat, Tool, ToolCall, ToolChoice

NOTE = Tool(
    "write_note",
    "",
    {
        "properties": {"title": {"type": "string"}, "stars": {"type": "integer"}},
        "required": ["title", "stars"],
    },
)
ASK = GenerateRequest((Message("user", "?"),), (NOTE,))
TITLE = "Rivers, lakes and other waters of the north"


@pytest.fixture(scope="module", params=[True, False], ids=["forced", "sampled"])
def kit(smollm_path: Path, request: pytest.FixtureRequest) -> Kit:
    return make_kit(smollm_path, forced=request.param)


def check(kit: Kit, make: Iterator[Turn], text: str) -> int:
    """Plays `text`, and at each token asks what is legal behind drafts: the right ones, and those
    with a wrong one among them. A twin that takes them says what it must be. Returns the number
    of rows that were told ahead."""
    token_ids = kit.tokenizer.encode_prompt(text)
    draw = random.Random(1)
    turn, twin, told, at = next(make), next(make), 0, 0
    while at < len(token_ids) and not turn.ended:
        if turn.draft_match:
            drafts = token_ids[at : at + 4]
            wrong = [*drafts[: draw.randrange(4)], draw.randrange(kit.tokenizer.vocab_size)]
            for draft in (wrong, drafts):
                rows = turn.masks(draft)
                assert 1 <= len(rows) <= 1 + len(draft)
                assert np.array_equal(rows[0], turn.mask())
                told += len(rows) - 1
            for row, token_id in zip(rows[1:], drafts, strict=False):
                twin.accept(token_id)
                assert not twin.ended
                assert twin.force() == ([], [])
                assert np.array_equal(row, twin.mask())
            twin = next(make)  # the drafts may have been further than the turn
            for token_id in token_ids[:at]:
                twin.accept(token_id)
        for taken in (turn, twin):
            taken.accept(token_ids[at])
        at += 1
        forced, _ = turn.force()
        twin.force()
        assert forced == token_ids[at : at + len(forced)]
        at += len(forced)
    return told


def turns(kit: Kit, request: GenerateRequest, family: Family, budget: int = 400) -> Iterator[Turn]:
    while True:
        yield kit.turn(request, family, max_tokens=budget)


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_text_and_then_calls(kit: Kit, family: Family) -> None:
    made = [
        ToolCall("1", "write_note", json.dumps({"title": TITLE, "stars": 3})),
        ToolCall("2", "write_note", json.dumps({"title": TITLE[:12], "stars": 12})),
    ]
    lead = "" if family.form.only_at_start else f"I note <that> down: {TITLE}.\n"
    written = lead + family.write_calls(made)
    assert check(kit, turns(kit, ASK, family), written) > 15
    assert check(kit, turns(kit, ASK, family, budget=40), written) > 0  # strings must be closed


def test_content(kit: Kit) -> None:
    family = families()[0]
    for format, text in (
        (ResponseFormat("json_object"), json.dumps({"a": [TITLE, {"b": TITLE}]})),
        (ResponseFormat("regex", "[a-zA-Z, ]+"), TITLE),
        (ResponseFormat(), f"{TITLE} {TITLE}"),
    ):
        request = GenerateRequest((Message("user", "?"),), response_format=format)
        assert check(kit, turns(kit, request, family), text) > 15


def test_of_many_schemas(kit: Kit) -> None:
    family = families()[0]
    told = 0
    for seed in range(40):
        tool, _ = generated_request(seed)
        arguments = json.dumps(example(tool.parameters), ensure_ascii=False)
        request = replace(ASK, tools=(tool,), tool_choice=ToolChoice())
        text = family.write_calls([ToolCall("1", tool.name, arguments)])
        told += check(kit, turns(kit, request, family), text)
    assert told > 100
