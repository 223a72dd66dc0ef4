"""Runs looked at: as a whole, one call, one prompt, two beside each other; by `f1 trace`, too, in
processes of its own, on a store that real runs were written into."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from memory_runs import MemoryRuns
from recorded import QUESTION, book, open_store, record, wrong_turns
from rich.console import Console
from scripted import ScriptedEngine, call

from f1.errors import F1Error, InvalidRequest, NotFound
from f1.models.pull import pull
from f1.planning.orchestrator import Orchestrator, System
from f1.retelling import Retold, explained, retell
from f1.settings import Settings
from f1.store.runs import EntryRow, RunRow
from f1.tools.policy import Rule, Rules
from f1.tools.spec import ToolSpec
from f1.trace.compare import compare
from f1.trace.entries import CODEC, Launched, Origin, Turned
from f1.trace.export import lines, read_entry, read_run
from f1.trace.prompts import prompts_of
from f1.trace.recorder import Recorder
from f1.trace.show import _origin, show, why
from f1.trace.story import Story, tell
from f1.types import GenerateRequest, Message, SamplingParams, StrategyName, Tool, Usage, Verdict


def printed(story: Story, node: str | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=110, highlight=False)
    if node is None:
        show(story, console)
    else:
        why(story, node, console)
    return out.getvalue()


async def told(run_id: str = "run_a", turns: object = None, **options: object) -> Story:
    store = MemoryRuns()
    await record(store, run_id, turns or wrong_turns(), **options)  # type: ignore[arg-type]
    row = await store.run("", run_id)
    assert row is not None
    return tell(row, await store.entries("", run_id))


async def test_a_wrong_call_is_found_at_a_glance() -> None:
    text = printed(await told())
    assert "run run_a" in text
    assert "answered" in text
    assert QUESTION in text
    lines = text.splitlines()
    (flight,) = [line for line in lines if line.strip().startswith("flight ")]
    assert flight.rstrip().endswith('"SK999"    the model\'s own: said nowhere')
    (name,) = [line for line in lines if line.strip().startswith("name ")]
    assert "the user: " in name
    assert "«ann lee»" in name
    assert "✗ error" in text
    assert "no flight SK999" in text
    assert "book 74% over find_flights 30% (25% not allowed)" in text
    assert lines[-1] == "answered: Sorry: there is no such flight. "

    text = printed(await told(), "$2")
    assert "2 values nobody said and nothing returned: flight, seats" in text
    assert "it had read $1 find_flights" in text
    assert "which tool: book 74% over find_flights 30%" in text
    assert "step 2, turn 2 of the caller" in text  # both count from 1
    with pytest.raises(NotFound, match=r"\$1, \$2"):
        printed(await told(), "7")


async def test_nothing_that_a_tool_says_steers_the_terminal() -> None:
    story = await told(
        turns=[[call("find_flights", "\x1b]0;x\x07", start="\x1b[2J", to="\u202e")], "ok"]
    )
    text = printed(story) + printed(story, "1")
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "<U+202E>" in text


async def test_a_result_of_an_earlier_step_is_named_where_it_was_used() -> None:
    turns = wrong_turns()
    turns[1] = [call("book", "b", flight="SK231", name="Ann Lee")]
    text = printed(await told(turns=turns))
    assert "$1 find_flights ─▶ [0].id" in text
    assert "said nowhere" not in text


async def test_references_are_followed_both_ways() -> None:
    name = {"ref": "1", "path": "[0].id"}
    find = {"id": "1", "tool": "find_flights", "arguments": {"start": "Oslo", "to": "Rome"}}
    then = {"id": "2", "tool": "book", "arguments": {"flight": name, "name": "Ann Lee"}}
    story = await told(turns=["Booked."], plan={"nodes": [find, then]}, strategy="auto")
    text = printed(story)
    assert re.search(r"flight +\$1\[0\].id +\$1 find_flights ─▶ \[0\].id", text)
    assert 'ran with {"flight": "SK231", "name": "Ann Lee"}' in text
    assert "its result went into $2 book" in printed(story, "1")
    assert "it stood in the plan that was given" in printed(story, "2")
    assert "said nowhere" not in text
    assert (await asyncio.to_thread(retell, story)).parted == ""


async def test_what_was_asked_of_people_and_callers_stands_there() -> None:
    theirs = ToolSpec(Tool("my_own", "Theirs.", {"type": "object"}))
    story = await told(turns=[[call("my_own", "c")], "ok"], own=[theirs])
    text = printed(story)
    assert "handed to the caller: my_own" in text
    assert (await asyncio.to_thread(retell, story)).parted == ""
    assert "no end is written: it waits" in text


async def test_what_a_person_changed_stands_there() -> None:
    store, rules = MemoryRuns(), Rules((Rule("ask", "policy[0]", tools=("book",)),))
    turns = [*wrong_turns()[:2], "Booked."]
    await record(store, "r", turns, policy=rules)
    row = await store.run("", "r")
    assert row is not None
    text = printed(tell(row, await store.entries("", "r")))
    assert "$2 book  not done" in text
    assert "asked a person: " in text
    assert "no end is written: it waits" in text
    (waiting,) = await store.approvals("")
    edited = Verdict("edit", '{"flight": "SK231", "name": "Ann Lee"}')
    await record(store, "r", turns[2:], policy=rules, verdicts={waiting.id: edited})
    row = await store.run("", "r")
    assert row is not None
    text = printed(tell(row, await store.entries("", "r")), "2")
    assert "$2 book  ✓" in text
    assert re.search(r'edit: \{"flight": "SK231"', text)
    assert 'ran with {"flight": "SK231", "name": "Ann Lee"}' in text


def entries(*made: object) -> list[EntryRow]:
    return [
        EntryRow(seq, 100.0 + seq, type(entry).__name__, CODEC.encode(entry))
        for seq, entry in enumerate(made)
    ]


async def test_what_was_interrupted_is_told() -> None:
    story = await told()
    written = [each.entry for each in story.written]
    at = next(i for i, e in enumerate(written) if isinstance(e, Launched) and e.node_id == "2")
    row = RunRow("x", "", "running")
    cut = tell(row, entries(*written[: at + 1]))
    assert "launched +" in printed(cut)
    assert "no result is written" in printed(cut)
    assert "it runs, or was interrupted" in printed(cut)
    with pytest.raises(F1Error, match="broke off"):
        await asyncio.to_thread(retell, cut)
    again = tell(row, entries(*written[: at + 1], written[at], *written[at + 1 :]))
    assert "interrupted, and launched again" in printed(again)
    # An entry that is broken is left out; all else is told.
    broken = [*entries(*written)[:-1], EntryRow(99, 1.0, "", {})]
    assert "no end is written" in printed(tell(row, broken))


async def test_prompts_are_put_together_from_what_was_new_in_each() -> None:
    from f1.trace.entries import pack_ids

    turns = [
        Turned(0, 1, "caller", "", (), 0.0, Usage(0, 0), prompt_ids=pack_ids([5, 6, 7])),
        Turned(1, 2, "caller", "", (), 0.0, Usage(0, 0), shared=2, prompt_ids=pack_ids([8])),
        Turned(2, 3, "caller", "", (), 0.0, Usage(0, 0)),
        Turned(3, 3, "caller", "", (), 0.0, Usage(0, 0), shared=3, prompt_ids=pack_ids([9, 9])),
    ]
    story = tell(RunRow("x", ""), entries(*turns))
    assert dict(prompts_of(story)) == {0: [5, 6, 7], 1: [5, 6, 8], 3: [5, 6, 8, 9, 9]}


async def test_where_two_runs_part_is_said_first_things_first() -> None:
    a = await told()
    assert list(compare(a, await told())) == []
    turns = wrong_turns()
    turns[1] = [call("book", "b", flight="SK231", name="Ann Lee", seats=2, meal=True)]
    found = list(compare(a, await told(turns=turns)))
    assert found[0].where == "step 2, turn 1, what it wrote"
    assert [(d.a, d.b) for d in found if d.where == "step 2, $2 book: flight"] == [
        ("SK999", "SK231")
    ]
    assert [(d.a, d.b) for d in found if d.where == "step 2, $2 book, came to"] == [
        ("error", "a result")
    ]
    other = list(compare(a, await told(question="Something else")))
    assert other[0].where == "message 0 (user)"


async def test_seeds_count_where_something_is_drawn() -> None:
    """A request without one has one of its own: two greedy runs do not differ by that."""

    async def drawn(seed: int, temperature: float) -> Story:
        sampling = SamplingParams(temperature, seed=seed)
        return await told(sampling=sampling)

    assert list(compare(await drawn(1, 0.0), await drawn(2, 0.0))) == []
    assert list(compare(await drawn(0, 0.0), await drawn(2, 0.0))) == []
    for other in (drawn(2, 1.0), drawn(1, 0.0)):
        wheres = [found.where for found in compare(await drawn(1, 1.0), await other)]
        assert wheres[0] == "sampling"
        assert "step 1, turn 1, what was asked of it" in wheres


async def test_what_was_waited_for_between_requests_is_told() -> None:
    story = await told()
    ended = story.ended
    assert ended is not None
    assert "  answered in " in printed(story)
    *most, last = story.written
    later = [*most, replace(last, at=story.written[0].at + 51, entry=replace(ended, seconds=8.2))]
    text = printed(replace(story, written=tuple(later)))
    assert "  answered after 51 s, 8.2 s of it in the last request" in text


async def test_what_is_exported_reads_as_it_was() -> None:
    store = MemoryRuns()
    await record(store, "r", wrong_turns())
    row, rows = await store.run("", "r"), await store.entries("", "r")
    assert row is not None
    head, *rest = [json.loads(line) for line in lines(row, rows)]
    assert read_run(head) == row
    assert [read_entry(line) for line in rest] == rows
    for wrong in ({}, {**head, "status": "gone"}, {**head, "began": "x"}, {**head, "about": 1}):
        with pytest.raises(InvalidRequest):
            read_run(wrong)


def test_all_origins_have_words() -> None:
    """A source that show() did not know would be told as the model's own."""
    story = tell(RunRow("x", ""), [])
    words = {
        source: _origin(story, Origin("x", source), "v").plain
        for source in ("user", "system", "assistant", "result", "schema", "reference", "person")
    }
    assert len(set(words.values())) >= 6
    assert not any("own" in text for text in words.values())


@pytest.mark.parametrize("strategy", ["react", "direct", "vote", "reflect"])
async def test_a_run_decides_the_same_again(strategy: StrategyName) -> None:
    store = MemoryRuns()
    await record(store, "r", wrong_turns(), strategy=strategy, samples=2)
    row, rows = await store.run("", "r"), await store.entries("", "r")
    assert row is not None
    story = tell(row, rows)
    told = await asyncio.to_thread(retell, story)
    assert told == Retold(len(story.turns), told.tokens, len(story.calls))
    assert told.tokens >= 2 * told.turns >= 4


async def test_a_record_that_was_changed_is_told_apart() -> None:
    store = MemoryRuns()
    await record(store, "r", wrong_turns())
    row, rows = await store.run("", "r"), await store.entries("", "r")
    assert row is not None

    def parted(old: str, new: str, kind: str) -> str:
        def change(entry: EntryRow) -> EntryRow:
            if entry.kind != kind:
                return entry
            return replace(entry, body=json.loads(json.dumps(entry.body).replace(old, new)))

        changed = [change(entry) for entry in rows]
        assert changed != rows
        return retell(tell(row, changed)).parted

    for old, new, kind, words in (
        ("SK999", "SK998", "Called", r"\$2 was book\(.*SK998.* now is book\(.*SK999"),
        ("Oslo", "Rome", "Began", "asks a model for something else"),
        ("Sorry", "Happy", "Ended", "its answer is another"),
        ("SK231", "SK232", "Done", "asks a model for something else"),
    ):
        assert re.search(words, await asyncio.to_thread(parted, old, new, kind))


async def test_calls_of_a_turn_that_was_all_are_explained() -> None:
    store = MemoryRuns()
    system = replace(System.of(ScriptedEngine(wrong_turns()[1])), recorder=Recorder(store))
    asked = GenerateRequest((Message("user", QUESTION),), (book.tool,))
    async for _ in Orchestrator(system, run_id="r").generate(asked):
        pass
    assert system.recorder is not None
    await system.recorder.close()
    row = await store.run("", "r")
    assert row is not None
    story = explained(tell(row, await store.entries("", "r")))
    assert "«ann lee»" in printed(story)
    assert "nobody said and nothing returned: flight, seats" in printed(story, "1")
    assert (await asyncio.to_thread(retell, story)).parted == ""


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")

    async def fill() -> None:
        store = open_store(folder)
        await record(store, "run_abc1", wrong_turns())
        await record(store, "run_abd2", ["Hello."], question="Hi", tenant="alice")
        await record(store, "run_xyz3", wrong_turns(), strategy="direct")
        await store.close()

    asyncio.run(fill())
    return folder


def f1_trace(cache: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "f1.cli", "trace", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "F1_CACHE": str(cache),
             "F1_RUNS_DISK": "1GiB", "COLUMNS": "110"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_command_lists_shows_compares_and_forgets(cache: Path, tmp_path: Path) -> None:
    code, out, _ = f1_trace(cache, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:4]] == [
        "run_xyz3",
        "run_abd2",
        "run_abc1",
    ]
    code, out, _ = f1_trace(cache, "list", "--failed")
    assert "run_abc1" in out
    assert "run_abd2" not in out
    code, out, _ = f1_trace(cache, "show", "run_abc", "--why", "2")
    assert code == 0
    assert "nobody said and nothing returned: flight, seats" in out
    code, out, _ = f1_trace(cache, "show", "last")
    assert code == 0
    assert out.startswith("run run_xyz3")
    code, _, err = f1_trace(cache, "show", "run_ab")
    assert code == 1
    assert "may be any of 2 runs: run_abd2, run_abc1" in err
    code, _, err = f1_trace(cache, "show", "\x1b[2Jx")
    assert code == 1
    assert "\x1b" not in err
    code, out, _ = f1_trace(cache, "diff", "run_abc1", "run_xyz3")
    assert code == 1
    assert out.startswith("first, strategy")
    assert f1_trace(cache, "diff", "last", "last")[0] == 0
    file = tmp_path / "run.jsonl"
    assert f1_trace(cache, "export", "run_abc1", "-o", str(file))[0] == 0
    head, *rest = [json.loads(line) for line in file.read_text().splitlines()]
    assert (head["id"], head["num_entries"]) == ("run_abc1", len(rest))
    code, out, _ = f1_trace(cache, "show", "run_abc1", "--prompt", "1")
    assert code == 0
    assert "find_flights(" in out
    assert f1_trace(cache, "rm", "run_abd2")[0] == 0
    assert f1_trace(cache, "show", "run_abd2")[0] == 1


def test_runs_of_two_tenants_are_told_apart(tmp_path: Path) -> None:
    async def fill() -> None:
        store = open_store(tmp_path)
        for tenant in ("", "alice", "bob"):
            await record(store, "run_1", ["Hello."], question=f"I am {tenant}", tenant=tenant)
        await record(store, "run_12", ["Hello."], question="Hi")
        await store.close()

    asyncio.run(fill())
    code, out, _ = f1_trace(tmp_path, "list")
    head, *rows = [line.split()[:2] for line in out.splitlines()]
    assert (code, head) == (0, ["run", "tenant"])
    assert ["run_1", "alice"] in rows
    assert ["run_1", "bob"] in rows
    code, _, err = f1_trace(tmp_path, "rm", "run_1")
    assert code == 1
    assert "may be any of 3 runs: bob/run_1, alice/run_1, /run_1" in err
    code, out, _ = f1_trace(tmp_path, "show", "alice/run_1")
    assert "I am alice" in out
    assert f1_trace(tmp_path, "rm", "bob/run_1")[0] == 0
    assert f1_trace(tmp_path, "rm", "/run_1")[0] == 0
    _, out, _ = f1_trace(tmp_path, "show", "run_1")  # one alone is left: no choice
    assert "I am alice" in out


def test_a_fork_goes_on_in_earnest_and_is_a_run_like_any(cache: Path) -> None:
    tools = str(Path(__file__).parent / "recorded.py")
    code, _, err = f1_trace(cache, "fork", "run_abc1", "--at", "$1", "--result", "[]")
    assert code == 1
    assert "tools that are not here: find_flights, book" in err
    models = pull("smollm2-135m", Settings.from_env()).parent
    (cache / "models").symlink_to(models)
    here = ("--tools", tools, "--model", "smollm2-135m")
    f1_trace(cache, "fork", "run_abc1", "--at", "$1", "--result", '["none \x1b[2J"]', *here)
    _, out, _ = f1_trace(cache, "show", "last")
    assert "forked from run_abc1#" in out
    assert '─▶ ["none <U+001B>[2J"]' in out
    code, out, _ = f1_trace(cache, "replay", "last")
    assert (code, out.split(":")[0]) == (0, "identical")
    _, out, _ = f1_trace(cache, "show", "last", "--prompt", "2")
    assert "<|im_start|>user\nBook a flight" in out
    assert "none <U+001B>[2J" in out
    code, out, _ = f1_trace(cache, "diff", "run_abc1", "last")
    assert "step 1, $1 find_flights, result" in out
    for wrong in (["--at", "x"], ["--result", "1"], ["--strategy", "luck"], ["--at", "$7"]):
        assert f1_trace(cache, "fork", "run_abc1", *wrong, *here)[0] == 1
