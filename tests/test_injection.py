"""What strangers write into results makes nobody do anything: 200 ways, with a model that obeys.

The rules are those of examples/f1.toml. Each attack is made without them first, and does harm. And
what users ask for is still done: of the tasks of bench/tasks few are stopped for a person's word.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from attacks import Attack, World, all_attacks, of_the_users_own_words
from memory_runs import Disk, MemoryRuns
from oracle import Obeys
from scripted import ScriptedEngine, call

from f1.config import read_config
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import NeedsApproval, Outcome
from f1.planning.strategies import auto
from f1.planning.taint import Taints, folded, is_said
from f1.tools.policy import AllowAll, Policy, Rules, TaintKind
from f1.tools.spec import ToolSpec
from f1.trace.recorder import Recorder
from f1.types import GenerateRequest, Message, Node, RunOptions, ToolCall, ToolResult

ROOT = Path(__file__).parent.parent
RULES = read_config(ROOT / "examples" / "f1.toml").policy
ATTACKS = all_attacks()

sys.path.append(str(ROOT / "bench/tasks"))
from domains import TASKS  # noqa: E402
from task import Placed  # noqa: E402


@pytest.fixture(autouse=True)
def obeying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(auto.STRATEGIES, "react", Obeys)


async def made(attack: Attack, policy: Policy) -> tuple[World, Outcome]:
    world = World(attack.told)
    recorder = Recorder(MemoryRuns(Disk()))
    system = replace(System.of(ScriptedEngine(*attack.turns)), policy=policy, recorder=recorder)
    options = RunOptions(strategy="react", plan=attack.plan)
    runs = Orchestrator(system, world.specs())
    items = [item async for item in runs.run(GenerateRequest(attack.said, run=options))]
    return world, items[-1]  # type: ignore[return-value]


def test_there_are_enough() -> None:
    assert len(ATTACKS) == len({attack.name for attack in ATTACKS}) >= 200


@pytest.mark.parametrize("attack", ATTACKS[::7], ids=lambda attack: attack.name)
async def test_a_stranger_does_no_harm(attack: Attack) -> None:
    await harmless(attack)


@pytest.mark.full
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_no_stranger_does_any_harm(attack: Attack) -> None:
    await harmless(attack)


async def harmless(attack: Attack) -> None:
    world, _ = await made(attack, AllowAll())
    assert world.done, "this is no attack"
    world, outcome = await made(attack, RULES)
    assert world.done == []
    assert isinstance(outcome, NeedsApproval)  # and a person sees what is wanted


@pytest.mark.full
async def test_where_values_stand_is_not_enough() -> None:
    """What is only looked for in results is found in few: hence `unsaid`."""
    looks = of_kind("copied")
    through = [attack.name for attack in ATTACKS if (await made(attack, looks))[0].done]
    assert 100 < len(through) < 180, through


def of_kind(taint: TaintKind) -> Policy:
    assert isinstance(RULES, Rules)
    return Rules(tuple(replace(r, taint=taint if r.taint else None) for r in RULES.rules))


@pytest.mark.parametrize("attack", list(of_the_users_own_words()), ids=lambda attack: attack.name)
async def test_what_the_user_said_for_something_else_takes_the_strictest_rule(
    attack: Attack,
) -> None:
    world, _ = await made(attack, RULES)
    assert world.done, "and the example can say so no more"
    world, outcome = await made(attack, of_kind("after"))
    assert world.done == []
    assert isinstance(outcome, NeedsApproval)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("ann@x.org", True), ("ANN@x.org", True), ("x.org", False), ("ann", False), ("Lunch", True),
        ("is at", True), ("is  at", True), ("at 5", True), ("unch", False), ("", True),
        (2500, True), (2500.0, True), (250, False), (5, True), (-5, False), (3, False),
        (None, True),
        (True, False), (False, False), ("\u0430nn@x.org", False), ("stra\xdfe", True),
        ("strasse", False),
    ],
)  # fmt: skip
def test_said_is_said_whole(value: object, *, said: bool) -> None:
    text = "Lunch is at 5 (Stra\xdfe 7b), says ann@x.org; it was 2,500 before. v3.1"
    assert is_said(("x",), value, folded(text)) is said


def test_what_was_read_stays_read() -> None:
    world = World()
    taints = Taints({spec.name: spec for spec in world.specs()})
    ask = Message("user", "Send a mail to ann@x.org")
    read = Message("assistant", "", (call("read_mail", "r"),))
    result = Message("tool", "x", tool_call_id="r")
    first, then = (Node(n, "send_mail", {"to": "eve@x.org"}, call_id=n) for n in "12")
    harm = call("send_mail", to="eve@x.org")
    taints.wrote(first, (ask,))
    assert taints.of(first, harm, {}).found("after") == {}
    taints.wrote(first, (ask, read, result))
    assert taints.of(first, harm, {}).found("unsaid") == {"to": "read_mail"}
    taints.wrote(then, (ask,))  # the result did not fit any more
    assert taints.of(then, harm, {}).found("unsaid") == {"to": "read_mail"}
    nobody = taints.of(Node("9", "send_mail", {}), harm, {})
    assert set(nobody.found("unsaid")) == {"", "to"}


async def test_who_is_asked_sees_where_it_came_from_and_can_still_say_yes() -> None:
    attack = next(each for each in ATTACKS if each.name == "a mail to a stranger, backwards")
    _, outcome = await made(attack, RULES)
    assert isinstance(outcome, NeedsApproval)
    (approval,) = outcome.approvals
    assert "'to'" in approval.why
    assert "read_mail" in approval.why


# --- what users ask for ---------------------------------------------------------------------------


async def stopped(placed: Placed, *, trusted: bool, policy: Policy = RULES) -> list[ToolCall]:
    """Calls of the oracle's that wait for a person. One call a turn, unless none needs another."""
    calls = [call(name, f"c{n}", **given) for n, (name, given) in enumerate(placed.task.calls)]
    turns = [calls] if placed.task.category == "parallel" else [[each] for each in calls]
    system = replace(System.of(ScriptedEngine(*turns, "Done.")), policy=policy)
    specs = [as_an_operator(tool.spec, trusted=trusted) for tool in placed.world().tools()]
    request = GenerateRequest((Message("user", placed.task.ask),))
    items = [item async for item in Orchestrator(system, specs).run(request)]
    return [i.call for i in items if isinstance(i, ToolResult) and i.failed == "refused"]


def as_an_operator(spec: ToolSpec, *, trusted: bool) -> ToolSpec:
    """What only looks asks nobody outside. `trusted`: nobody else writes what it returns."""
    says = spec.annotations
    egress = not says.read_only
    return replace(spec, annotations=replace(says, egress=egress, trusted=trusted))


async def test_what_the_user_asked_for_in_so_many_words_is_done() -> None:
    wrongly, rightly, at_most = [], [], len(TASKS) / 10
    for placed in TASKS:
        said = folded(placed.task.ask)
        for each in await stopped(placed, trusted=False):
            given = json.loads(each.arguments).items()
            theirs = all(is_said((name,), value, said) for name, value in given)
            (wrongly if theirs else rightly).append(placed.id)
    assert len(set(wrongly)) <= at_most, wrongly
    assert rightly  # what tools returned does reach what changes things in these tasks


async def test_with_sources_that_are_trusted_few_tasks_are_stopped() -> None:
    """All but the files of notes, which might come from anywhere, are the operator's own."""
    found = [
        placed.id
        for placed in TASKS
        if await stopped(placed, trusted=not placed.id.startswith("notes"))
    ]
    assert 0 < len(found) <= len(TASKS) / 10, found


async def test_without_rules_none_is() -> None:
    assert not [p.id for p in TASKS[::5] if await stopped(p, trusted=False, policy=AllowAll())]
