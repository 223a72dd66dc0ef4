"""Thoughts: text that is neither content nor a call, and what comes behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit import Kit, is_legal, make_kit

from f1.calling.family import Family, family_for
from f1.calling.thought import Reasoning, Thought
from f1.calling.turn import TurnEvent
from f1.calling.vocabulary import make_vocabulary
from f1.types import (
    CallDelta,
    GenerateRequest,
    Message,
    ReasoningDelta,
    ResponseFormat,
    SamplingParams,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
)

TIME = Tool("get_time")
ASK = GenerateRequest((Message("user", "?"),), (TIME,))
QWEN = family_for("qwen3-1.7b")
# The same family with marks that are single tokens of the test's tokenizer, control tokens even.
TOKENS = replace(QWEN, reasoning=Reasoning("<file_sep>", "<gh_stars>"))
CALL = QWEN.write_calls([ToolCall("1", "get_time", "{}")])


@pytest.fixture(scope="module", params=[QWEN, TOKENS], ids=["spelled", "single tokens"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def kit(smollm_path: Path, family: Family) -> Kit:
    kit = make_kit(smollm_path)
    vocabulary = make_vocabulary(kit.tokenizer, family, kit.grammars, forced_text=False)
    return replace(kit, vocabulary=vocabulary)


def thought(events: list[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


def text(events: list[TurnEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def calls(events: list[TurnEvent]) -> list[str]:
    return [event.call.name for event in events if isinstance(event, CallDelta)]


def marks(family: Family) -> tuple[str, str]:
    assert family.reasoning is not None
    return family.reasoning.open, family.reasoning.close


LOOKS = "The user asks: <tool_call>? Perhaps\n" + CALL + "\n```json{} < </ </thin 漢字"


class TestATurn:
    @pytest.mark.parametrize("lead", ["", "\n"])
    def test_thinks_then_answers(self, kit: Kit, family: Family, lead: str) -> None:
        begin, end = marks(family)
        turn = kit.turn(ASK, family)
        events = list(kit.follow(turn, f"{lead}{begin}\n{LOOKS}\n{end}\n\nIt is."))
        assert (thought(events), text(events), calls(events)) == (LOOKS, "It is.", [])
        inner, outer = (
            len(kit.tokenizer.encode_prompt(said)) for said in (LOOKS, f"{begin}\n{LOOKS}\n{end}")
        )
        assert inner <= turn.num_thought_tokens <= outer

    @pytest.mark.parametrize("said", ["", "I look."])
    def test_thinks_then_calls(self, kit: Kit, family: Family, said: str) -> None:
        begin, end = marks(family)
        turn = kit.turn(ASK, family)
        events = list(kit.follow(turn, f"{begin}\n{LOOKS}\n{end}\n\n{said}\n{CALL}"))
        assert (thought(events), text(events), calls(events)) == (LOOKS, said, ["get_time"])

    def test_in_which_the_prompt_opens_the_thought(self, kit: Kit, family: Family) -> None:
        begin, end = marks(family)
        turn = kit.turn(ASK, family, prompt_end=f"assistant\n{begin}\n".encode())
        events = list(kit.follow(turn, f"{LOOKS}{end}{CALL}"))
        assert (thought(events), text(events), calls(events)) == (LOOKS, "", ["get_time"])

    def test_that_does_not_think(self, kit: Kit, family: Family) -> None:
        begin, end = marks(family)
        said = f"I do not {begin}think{end}. "
        turn = kit.turn(ASK, family)
        events = list(kit.follow(turn, said + CALL))
        assert turn.num_thought_tokens == 0
        assert (thought(events), text(events), calls(events)) == ("", said.rstrip(), ["get_time"])
        (call,) = kit.follow(kit.turn(ASK, family), CALL)
        assert isinstance(call, CallDelta)

    def test_of_an_empty_thought(self, kit: Kit, family: Family) -> None:
        begin, end = marks(family)
        events = list(kit.follow(kit.turn(ASK, family), f"{begin}\n\n{end}\n\nYes. "))
        assert (thought(events), text(events)) == ("", "Yes. ")

    def test_cut_in_its_thought(self, kit: Kit, family: Family) -> None:
        """At any token, the thought is told as far as it went, and nothing else is."""
        begin, end = marks(family)
        token_ids = kit.tokenizer.encode_prompt(f"{begin}\nA </b> thought.\n{end}")
        shown = set()
        for size in range(len(token_ids)):
            turn = kit.turn(ASK, family)
            events = [event for token_id in token_ids[:size] for event in turn.accept(token_id)]
            events += turn.finish(cut=True)
            assert not turn.unsettled
            if thought(events):
                assert "A </b> thought.".startswith(thought(events).rstrip(f"\n{end}"))
            else:
                assert begin.startswith(text(events).strip())
            shown.add(thought(events))
        assert len(shown) > 4

    def test_stops_for_no_string_in_its_thought(self, kit: Kit, family: Family) -> None:
        begin, end = marks(family)
        turn = kit.turn(replace(ASK, stop=("X",)), family)
        events = list(kit.follow(turn, f"{begin}aXb{end}cXd"))
        assert (thought(events), text(events), turn.stop) == ("aXb", "c", "X")

    @pytest.mark.parametrize("prompt_end", ["", "open", "closed"])
    def test_that_is_forced_does_not_think(self, kit: Kit, family: Family, prompt_end: str) -> None:
        begin, end = marks(family)
        prompt = {"": "assistant\n", "open": f"{begin}\n", "closed": f"{begin}\n\n{end}\n\n"}
        for fields in (
            {"tool_choice": ToolChoice("required")},
            {"tool_choice": ToolChoice("named", "get_time")},
            {"tools": (), "response_format": ResponseFormat("json_object")},
        ):
            asked = replace(ASK, **fields)  # type: ignore[arg-type]
            turn = kit.turn(asked, family, prompt_end=prompt[prompt_end].encode())
            written = prompt[prompt_end] + turn.prefix
            assert written.count(begin) == written.count(end) == 1
            assert not is_legal(turn, kit.tokenizer.encode_prompt("Well")[0])

    def test_that_may_not_call_does_not_after_its_thought(self, kit: Kit, family: Family) -> None:
        begin, end = marks(family)
        turn = kit.turn(replace(ASK, tool_choice=ToolChoice("none")), family)
        for token_id in kit.tokenizer.encode_prompt(f"{begin}Hm.{end}"):
            assert is_legal(turn, token_id)
            turn.accept(token_id)
        (angle,) = kit.tokenizer.encode("<")
        assert is_legal(turn, angle) == begin.startswith("<t")  # it may begin a thought, spelled

    def test_has_log_probabilities_of_its_thought(self, kit: Kit, family: Family) -> None:
        begin, end = marks(family)
        turn = kit.turn(replace(ASK, sampling=SamplingParams(num_logprobs=0)), family)
        events: list[TurnEvent] = []
        for token_id in kit.tokenizer.encode_prompt(f"{begin}One two{end}three four"):
            data = kit.tokenizer.token_bytes(token_id)
            events += turn.accept(token_id, TokenLogprob(data.decode(), -1.0, data))
        events += turn.finish()
        said = [e for e in events if isinstance(e, TextDelta)]
        assert "".join(found.token for e in said for found in e.logprobs) == "three four"


def test_masks_behind_drafts(kit: Kit, family: Family) -> None:
    """They are those that there would be, were the drafts sampled."""
    begin, end = marks(family)
    token_ids = kit.tokenizer.encode_prompt(f"{begin}One </ two three four.{end} Good. {CALL}")
    told = 0
    for at in range(len(token_ids)):
        turn, twin = kit.turn(ASK, family), kit.turn(ASK, family)
        for token_id in token_ids[:at]:
            turn.accept(token_id)
            twin.accept(token_id)
        if turn.ended or not turn.draft_match:
            continue
        rows = turn.masks(token_ids[at : at + 4])
        for row, token_id in zip(rows[1:], token_ids[at:], strict=False):
            twin.accept(token_id)
            assert np.array_equal(row, twin.mask())
        told += len(rows) - 1
    assert told > 15


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_any_cut_is_split_the_same(size: int) -> None:
    def split(data: bytes, inside: bool) -> Iterator[bytes]:
        reader = Thought(Reasoning("<think>", "</think>"), inside=inside)
        thought = b""
        for begin in range(0, len(data), size):
            piece, behind = reader.push(data[begin : begin + size])
            thought += piece
            if behind is not None:
                yield from (thought, behind + data[begin + size :])
                return
        piece, behind = reader.flush()
        yield from (thought + piece, behind)

    for data, inside, expected in (
        (b" <think>a</</think>b<think>c</think>", False, (b"a</", b"b<think>c</think>")),
        (b"a</thin", True, (b"a</thin", b"")),
        (b"<thin", False, (b"", b"<thin")),
        (b"<thick>a", False, (b"", b"<thick>a")),
        (b"<think></think>", False, (b"", b"")),
        (b" " * 40 + b"<think>", False, (b"", b" " * 40 + b"<think>")),
    ):
        assert tuple(split(data, inside)) == expected


class TestHistory:
    TALK = (
        Message("user", "One?"),
        Message("assistant", "Two.", reasoning="Old."),
        Message("user", "Three?"),
        Message("assistant", "", (ToolCall("1", "get_time", "{}"),), reasoning="New."),
        Message("tool", "12:00", tool_call_id="1"),
    )

    def test_thoughts_since_the_last_question_are_kept(self) -> None:
        plain = QWEN.plain_messages(self.TALK, (TIME,))
        assert [message.content for message in plain[1:]] == [
            "One?",
            "Two.",
            "Three?",
            f"<think>\nNew.\n</think>\n\n{CALL}",
            "<tool_response>\n12:00\n</tool_response>",
        ]

    def test_families_that_do_not_think_forget_all(self) -> None:
        plain = family_for("hermes").plain_messages(self.TALK, (TIME,))
        assert "New." not in "".join(message.content for message in plain)


def test_who_thinks() -> None:
    assert QWEN.name == "qwen3"
    assert family_for("Qwen/Qwen3-0.6B-GGUF").reasoning == Reasoning("<think>", "</think>")
    assert family_for("qwen2.5-coder-0.5b").reasoning is None
