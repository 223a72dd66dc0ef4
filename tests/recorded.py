"""Runs that were really made and written down, for those who look at them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripted import ScriptedEngine, Turn, call

from f1 import tool
from f1.planning.orchestrator import Orchestrator, System
from f1.settings import Settings
from f1.store.runs import RunStore, open_runs
from f1.tools.policy import AllowAll, Policy
from f1.tools.spec import ToolSpec
from f1.trace.recorder import Recorder
from f1.types import (
    Choosing,
    Decoded,
    Event,
    Finished,
    GenerateRequest,
    Message,
    Report,
    ResponseFormat,
    RunOptions,
    SamplingParams,
)

QUESTION = "Book a flight from Oslo to Lisbon on 14 May for ann lee, KL7 or so"


@tool(read_only=True)
def find_flights(start: str, to: str) -> list[dict[str, Any]]:
    """Flights between two cities."""
    return [{"id": "SK231", "price": 99.5, "note": "\x1b[2Kfull \u202e"}, {"id": "LH5"}]


@tool
def book(flight: str, name: str, seats: int = 1, meal: bool = False) -> dict[str, str]:
    """Book seats on a flight."""
    if flight != "SK231":
        raise ValueError(f"no flight {flight}")
    return {"booked": flight}


class Deciding(ScriptedEngine):
    """Says how it has decided, too."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        way = (
            Choosing(0, "call", "call", -0.02, "text", -4.0),
            Choosing(3, "tool", "book", -0.3, "find_flights", -1.2, 0.25),
        )
        async for event in super().generate(request):
            if isinstance(event, Finished) and request.record:
                made = event.reason == "tool_calls"
                decoded = Decoded((1, 2, 3), (4, 5), way if made else ())
                event = replace(event, report=Report(decoded=decoded))
            yield event


def wrong_turns() -> list[Turn]:
    """The flight that is booked stands nowhere."""
    return [
        [call("find_flights", "a", start="Oslo", to="Lisbon")],
        [call("book", "b", flight="SK999", name="Ann Lee", seats=2, meal=True)],
        "Sorry:\nthere is no such flight.",
    ]


async def record(
    store: RunStore,
    run_id: str,
    turns: Sequence[Turn],
    *,
    question: str = QUESTION,
    tenant: str = "",
    own: Sequence[ToolSpec] = (find_flights.spec, book.spec),
    policy: Policy | None = None,
    sampling: SamplingParams | None = None,
    **options: Any,
) -> None:
    engine = Deciding(*turns)
    system = replace(System.of(engine), recorder=Recorder(store), policy=policy or AllowAll())
    run = RunOptions(**{"strategy": "react", "run_id": run_id, **options})
    # With a form to answer in, calls are not held back where a value was said nowhere.
    form = ResponseFormat("json_object")
    tools = tuple(spec.tool for spec in own)  # named in the request, too, as the client does
    said = (Message("user", question),)
    request = GenerateRequest(said, tools, response_format=form, max_tokens=24, run=run)
    request = replace(request, sampling=sampling or request.sampling)
    async for _ in Orchestrator(system, own, tenant=tenant, run_id=run_id).run(request):
        pass


def open_store(folder: Path) -> RunStore:
    store = open_runs(Settings(cache=folder))
    assert store is not None
    return store
