"""The strategy `plan`: made-up values become references, or are found out first, or asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedEngine, Turn, call
from typing_extensions import TypedDict

from f1.engine import AsyncEngine
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import Planned, Progress, Reply, report_of
from f1.planning.plan import parse_plan, write_plan
from f1.planning.run import Engine
from f1.tools.function import FunctionTool, tool
from f1.types import (
    GenerateRequest,
    Message,
    Node,
    Plan,
    Ref,
    RunOptions,
    SamplingParams,
    ToolResult,
)


class Contact(TypedDict):
    name: str
    email: str


class Event(TypedDict):
    id: int
    title: str


class Product(TypedDict):
    sku: str
    price: float


@tool(read_only=True)
def find_contact(name: str) -> Contact:
    """Find a person."""
    return {"name": name, "email": "sofia@mail.example"}


@tool(read_only=True)
def find_event(title: str) -> Event:
    """Find an event in the calendar."""
    return {"id": 42, "title": title}


@tool
def invite(event_id: int, email: str) -> str:
    """Invite somebody to an event."""
    return f"{email} comes to {event_id}"


@tool(read_only=True)
def find_products(text: str) -> list[Product]:
    """Find products."""
    return [{"sku": "KB-7", "price": 49.5}, {"sku": "KB-9", "price": 5.0}]


@tool
def order(sku: str, quantity: int) -> str:
    """Order a product."""
    return f"{quantity} of {sku} on the way"


@tool
def sweep(room: str) -> str:
    """Sweep a room."""
    return f"{room} is clean"


TOOLS = (find_contact, find_event, invite, find_products, order, sweep)
SPECS = {function.spec.name: function.spec for function in TOOLS}


def asking(text: str, **run: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), run=RunOptions(strategy="plan", **run))


async def play(
    engine: Engine, request: GenerateRequest, tools: Sequence[FunctionTool] = TOOLS
) -> list[Progress]:
    orchestrator = Orchestrator(System.of(engine), [function.spec for function in tools])
    async with aclosing(orchestrator.run(request)) as items:
        return [item async for item in items]


INVITE = asking("Invite Sofia to the budget review.")
FOUND = (call("find_contact", "1", name="Sofia"), call("find_event", "2", title="budget review"))
GUESS = call("invite", "3", event_id=1, email="sofia@example.com")
ADDRESS = "sofia@mail.example"
EVENT, EMAIL = {"ref": "2", "path": "id"}, {"ref": "1", "path": "email"}


async def test_made_up_values_become_references() -> None:
    engine = ScriptedEngine(
        [*FOUND, GUESS], [call("invite", "4", event_id=EVENT, email=EMAIL)], "Sofia is invited."
    )
    items = await play(engine, INVITE)
    nodes = [item for item in items if isinstance(item, Node)]
    assert nodes[2].arguments == {"event_id": Ref("2", "id"), "email": Ref("1", "email")}
    results = [item.content for item in items if isinstance(item, ToolResult)]
    assert results[-1] == "sofia@mail.example comes to 42"
    # The second turn could write nothing but references, and was shown what stands for what.
    ahead = engine.requests[1]
    assert (ahead.tool_choice.mode, ahead.tool_choice.name) == ("named", "invite")
    assert [json.loads(m.content) for m in ahead.messages[-2:]] == [
        {"name": {"ref": "1", "path": "name"}, "email": EMAIL},
        {"id": EVENT, "title": {"ref": "2", "path": "title"}},
    ]
    assert [tool.parameters for tool in ahead.tools] == [s.tool.parameters for s in SPECS.values()]
    # What is remembered is what was run.
    assert "ref" not in str(engine.requests[2].messages)
    assert '"email": "sofia@mail.example"' in engine.requests[2].messages[1].tool_calls[2].arguments
    assert isinstance(items[-1], Reply)


async def test_which_of_a_list_is_for_the_model_to_see() -> None:
    guess = call("order", "2", sku="XY-12", quantity=2)
    engine = ScriptedEngine(
        [call("find_products", "1", text="keyboard"), guess],
        [call("order", "3", sku="KB-9", quantity=2)],
        "Two are on their way.",
    )
    items = await play(engine, asking("Order two of the cheapest keyboard."))
    assert [item.content for item in items if isinstance(item, ToolResult)][-1].startswith("2 of K")
    assert engine.requests[1].tool_choice.name == "order"  # it had wanted to
    assert "XY-12" not in str(engine.requests[1].messages)


@pytest.mark.parametrize("end", [[call("sweep", "6", room="Xanadu 77")], "That is all…"])
async def test_a_plan_that_is_not_run(end: Turn) -> None:
    first = {"ref": "1", "path": "[0].sku"}
    engine = ScriptedEngine(
        [call("find_products", "1", text="keyboard"), call("order", "2", sku="X1", quantity=2)],
        [call("order", "3", sku=first, quantity=2)],
        [call("sweep", "4", room={"ref": "2"}), call("find_contact", "5", name={"ref": "2"})],
        end,
    )
    items = await play(engine, asking("Order two keyboards; sweep up.", plan_only=True))
    assert not [item for item in items if isinstance(item, ToolResult)]
    outcome = items[-1]
    assert isinstance(outcome, Planned)
    plan = report_of(outcome).plan
    assert [node.arguments for node in plan.nodes] == [
        {"text": "keyboard"},
        {"sku": Ref("1", "[0].sku"), "quantity": 2},
        {"room": Ref("2")},
        {"name": Ref("2")},
    ]
    assert [node.id for node in plan.nodes] == ["1", "2", "3", "4"]
    assert len(engine.requests) == 4  # a guess ends it, or the first word

    given = replace(INVITE.run, plan=write_plan(plan, SPECS))
    items = await play(ScriptedEngine("Done."), replace(INVITE, run=given))
    results = [item.content for item in items if isinstance(item, ToolResult)]
    assert sorted(results[1:3]) == ["2 of KB-7 on the way", "2 of KB-7 on the way is clean"]


REQUESTS = [
    "Invite Sofia to the budget review.",
    "Find Ann, find the party, and invite her to it.",
    "Look for keyboards and order three of the first.",
]


async def test_whatever_a_model_says_is_a_valid_plan(smollm_path: Path) -> None:
    engine = AsyncEngine.start(str(smollm_path))
    plans: list[Plan] = []
    try:
        for seed, text in enumerate(REQUESTS):
            request = replace(
                asking(text, plan_only=True),
                sampling=SamplingParams(temperature=1.0, seed=seed),
                max_tokens=120,
            )
            outcome = (await play(engine, request))[-1]
            assert isinstance(outcome, Planned)
            plans.append(report_of(outcome).plan)
    finally:
        engine.close()
    assert any(plan.nodes for plan in plans)
    for plan in plans:
        kept = Plan(tuple(replace(node, call_id="") for node in plan.nodes))
        assert parse_plan(write_plan(kept, SPECS), SPECS) == kept
