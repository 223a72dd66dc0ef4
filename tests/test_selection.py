"""Tools found for questions, by words and by meaning, over a small labelled set of our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from f1.errors import EngineStopped, F1Error, ModelNotFound
from f1.settings import Settings
from f1.tools.embedder import Embedder
from f1.tools.ranking import Ranker
from f1.tools.search import SEARCH_TOOL
from f1.tools.selection import Selection, Selector
from f1.tools.spec import CallLimits, Runner, ToolFailure, ToolSpec
from f1.tools.vectors import ToolVectors
from f1.tools.words import clauses, words
from f1.types import Message, Tool, ToolCall

SET = json.loads((Path(__file__).parent / "data" / "selection.json").read_text("utf-8"))
SPECS = tuple(ToolSpec(Tool(**tool)) for tool in SET["tools"])
QUESTIONS = [(entry["question"], set(entry["tools"])) for entry in SET["questions"]]


def names(selection: Selection) -> list[str]:
    return [spec.name for spec in selection.tools]


def ask(text: str) -> Message:
    return Message("user", text)


def call(name: str, id: str, **arguments: object) -> Message:
    return Message("assistant", tool_calls=(ToolCall(id, name, json.dumps(arguments)),))


async def recall(selector: Selector, k: int) -> float:
    found = [
        wanted <= set(names(await selector.select(SPECS, [ask(text)], k)))
        for text, wanted in QUESTIONS
    ]
    return sum(found) / len(found)


def test_words_of_names_and_forms_of_words() -> None:
    assert words("getUserID_v2") == words("get user id v 2")
    assert words("calculate") == words("calculation") == words("Calculators")
    assert words("cities") == words("city")
    assert words("tide") != words("tied up")
    assert words("天気予報") == ["天気", "気予", "予報"]


def test_clauses() -> None:
    asked = "Find flights to Rome, then book it and tell me 3.5 times 2. Why? Sandy knows"
    assert clauses(asked) == [
        *("Find flights to Rome", "book it", "tell me 3.5 times 2", "Why", "Sandy knows"),
    ]


async def test_words_find_the_tools() -> None:
    assert len(SPECS) >= 60
    assert len(QUESTIONS) >= 40
    assert await recall(Selector(), 8) >= 0.95
    assert await recall(Selector(), 3) >= 0.9


async def test_meaning_finds_what_words_do_not(tmp_path: Path) -> None:
    asked = [ask("Text +47 99 88 77 66 that I am late.")]
    selector = Selector()
    assert "send_sms" not in names(await selector.select(SPECS, asked))
    embedder = Embedder(Settings.from_env())
    vectors = ToolVectors(embedder, tmp_path / "vectors.sqlite")
    ranker = Ranker(vectors)
    try:
        await until_embedded(ranker)
        selection = await Selector(ranker).select(SPECS, asked)
        assert "send_sms" in names(selection)
        assert not selection.notes
        assert await recall(Selector(ranker), 8) >= 0.98
    finally:
        vectors.close()
        embedder.close()


async def until_embedded(ranker: Ranker) -> None:
    index = ranker.index(SPECS)
    async with asyncio.timeout(120):
        while ranker.meanings(index) is None:
            await asyncio.sleep(0.01)


class Counting(Embedder):
    """Two numbers a text: about money, or not. Waits until it is let."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.made: list[str] = []
        self.held: list[tuple[Sequence[str], Future[np.ndarray]]] = []

    @staticmethod
    def vector(text: str) -> np.ndarray:
        return np.array([1.0, 0.0] if "money" in text or "cash" in text else [0.0, 1.0], np.float32)

    async def sense(self, text: str) -> np.ndarray:
        return self.vector(text)

    def sense_all(self, texts: Sequence[str]) -> Future[np.ndarray]:
        self.made += texts
        future: Future[np.ndarray] = Future()
        future.set_result(np.stack([self.vector(text) for text in texts]))
        return future


@pytest.fixture
def counting() -> Iterator[Counting]:
    embedder = Counting()
    yield embedder
    embedder.close()


async def test_embeddings_are_made_once_and_read_by_the_next_process(
    counting: Counting, tmp_path: Path
) -> None:
    file = tmp_path / "vectors.sqlite"
    for _ in range(2):
        vectors = ToolVectors(counting, file)
        ranker = Ranker(vectors)
        await until_embedded(ranker)
        selection = await Selector(ranker).select(SPECS, [ask("cash")])
        assert names(selection)[0] in ("transfer_money", "cancel_booking")
        vectors.close()
        assert sorted(counting.made) == sorted(set(ranker.index(SPECS).texts))
    file.write_bytes(b"no database")  # and is then as good as none
    ranker = Ranker(vectors := ToolVectors(counting, file))
    await until_embedded(ranker)
    vectors.close()
    assert len(counting.made) == 2 * len(SPECS)


async def test_as_long_as_there_are_no_embeddings_it_says_so(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (waiting := Future[np.ndarray]()).set_running_or_notify_cancel()
    monkeypatch.setattr(counting, "sense_all", lambda texts: waiting)
    vectors = ToolVectors(counting, tmp_path / "vectors.sqlite")
    selector = Selector(Ranker(vectors))
    selection = await selector.select(SPECS, [ask("Convert 250 USD to EUR.")])
    assert names(selection)[0] == "convert_currency"
    assert selection.notes == ("tools were selected by words alone: 80 of 80 are not embedded yet",)
    vectors.close_soon()
    waiting.set_result(np.zeros((16, 2), np.float32))
    vectors.close()


@pytest.mark.parametrize(
    ("error", "passes"), [(EngineStopped("no vectors"), True), (ModelNotFound("no files"), False)]
)
async def test_an_embedder_that_failed_is_asked_again_after_a_rest(
    counting: Counting,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: F1Error,
    passes: bool,
) -> None:
    failing: Future[np.ndarray] = Future()
    failing.set_exception(error)
    now = [100.0]
    vectors = ToolVectors(counting, tmp_path / "vectors.sqlite", clock=lambda: now[0])
    ranker = Ranker(vectors)
    with monkeypatch.context() as broken:
        broken.setattr(counting, "sense_all", lambda texts: failing)
        index = ranker.index(SPECS)
        async with asyncio.timeout(60):
            while vectors._works:
                await asyncio.sleep(0.01)
    assert vectors.failure == str(error)
    now[0] += 1
    assert ranker.meanings(index) is None
    assert not vectors._works
    now[0] += 1000
    if passes:
        await until_embedded(ranker)
        assert vectors.failure is None
    else:
        assert ranker.meanings(index) is None
        assert not vectors._works
    vectors.close()


# --- conversations -------------------------------------------------------------------------------


async def test_what_was_shown_stays_where_it_was() -> None:
    """The selection for a conversation begins with the selection for its beginning."""
    selector = Selector()
    messages: list[Message] = []
    before: dict[int, tuple[str, ...]] = {}
    for number, (text, wanted) in enumerate(QUESTIONS[:20]):
        messages.append(ask(text))
        selection = await selector.select(SPECS, messages)
        shown = dict(selection.shown_at)
        assert {place: shown[place] for place in before} == before
        assert len(shown.get(len(messages) - 1, ())) <= (4 if number else 8)
        assert sorted(names(selection)) == sorted(n for at in shown.values() for n in at)
        before = shown
        tool = sorted(wanted)[0]
        messages += [call(tool, f"c{number}"), Message("tool", "ok", tool_call_id=f"c{number}")]
        again = await Selector().select(SPECS, messages)
        assert tool in names(again)
        messages.append(Message("assistant", "Done."))
        before = dict((await selector.select(SPECS, messages)).shown_at)


async def test_what_is_called_forced_or_found_may_be_called() -> None:
    asked = [ask("Play some Miles Davis in the kitchen."), call("tide_table", "a")]
    selection = await Selector().select(SPECS, asked, forced="prime_factors")
    why = {selected.name: selected.why for selected in selection.selected}
    assert why["play_music"] == "matched"
    assert (why["tide_table"], why["prime_factors"]) == ("used", "forced")
    assert {"tide_table", "prime_factors"} <= set(selection.shown_at[0])

    result = json.dumps([{"name": "run_sql"}, {"name": "unknown"}, 3])
    found = [asked[0], call(SEARCH_TOOL, "b", query="database"), Message("tool", result, (), "b")]
    selection = await Selector().select(SPECS, found)
    assert [s.why for s in selection.selected if s.name == "run_sql"] == ["searched"]
    assert all("run_sql" not in at for at in selection.shown_at.values())  # the result shows it


async def test_few_tools_are_all_shown() -> None:
    selection = await Selector().select(SPECS[:8], [ask("Hello")])
    assert names(selection) == [spec.name for spec in SPECS[:8]]
    assert not selection.shown_at
    assert {selected.why for selected in selection.selected} == {"all"}


async def test_a_search_tells_of_tools() -> None:
    selector = Selector()
    search = selector.search_tool(SPECS)
    selection = (await selector.select(SPECS, [ask("Hello")])).with_search(search)
    assert names(selection)[-1] == SEARCH_TOOL == selection.shown_at[0][-1]
    runner: Runner | None = search.runner
    assert runner is not None
    output = await runner.call({"query": "roll out a new version"}, CallLimits())
    assert output.value[0] == {
        "name": "deploy_service",
        "description": "Roll a new version out to production.",
        "parameters": SPECS[[spec.name for spec in SPECS].index("deploy_service")].tool.parameters,
    }
    with pytest.raises(ToolFailure, match="no function fits"):
        await runner.call({"query": "xyzzy"}, CallLimits())
    few = await selector.select(SPECS[:3], [ask("Hello")])
    assert few.with_search(search) == few


# --- the index -----------------------------------------------------------------------------------


async def test_equal_tools_share_an_index_and_another_tool_makes_another() -> None:
    ranker = Ranker()
    again = [ToolSpec(Tool(**tool)) for tool in SET["tools"]]
    assert ranker.index(again) is ranker.index(SPECS) is ranker.find(SPECS)
    other = replace(SPECS[0], tool=replace(SPECS[0].tool, description="Something about zebras."))
    more = (*SPECS[1:], other)
    assert ranker.find(more) is None
    asked = [ask("zebras")]
    assert names(await Selector(ranker).select(more, asked)) == [other.name]
    assert await Selector(ranker).select(more, asked) == await Selector().select(more, asked)


async def test_odd_requests_and_odd_tools_are_taken() -> None:
    odd = [
        ToolSpec(Tool("x" * 64, "", {"properties": {"a": True, "b": {"enum": [1, None, "z"]}}})),
        ToolSpec(Tool("nested", "\ud800", {"items": {"properties": {"deep": {"items": 3}}}})),
        ToolSpec(Tool("empty", "", {}), examples=({"city": ["Oslo", 3]},)),
    ]
    for text in ("", "?!.,", "Oslo", "\ud800", "\uff0c", "and " * 5000, "a" * 100_000):
        selection = await Selector().select(odd, [ask(text)], 2)
        assert 1 <= len(selection.tools) <= 2
    assert names(await Selector().select(odd, [ask("Oslo")], 1)) == ["empty"]
    unasked = await Selector().select(odd, [Message("system", "x")], 2, forced="empty")
    assert names(unasked) == ["empty", "x" * 64]
