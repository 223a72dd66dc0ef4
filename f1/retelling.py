"""Runs from their record once more: told again and held against it, or gone another way."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import cast, get_args

from rich.console import Console

from f1.config import Config
from f1.errors import InvalidRequest
from f1.keeping import hiding, open_recorder
from f1.narrator import Narrator
from f1.planning.orchestrator import Orchestrator, System
from f1.planning.outcome import Outcome, Progress, report_of
from f1.planning.provenance import origins
from f1.planning.replay import Change, fork, replay
from f1.planning.tape import Diverged
from f1.portal import Portal
from f1.settings import Settings
from f1.tools.policy import AllowAll, Policy
from f1.tools.spec import ToolSpec
from f1.trace.entries import Called, Shown, unpack_ids
from f1.trace.story import Story, with_calls
from f1.types import CallDelta, Node, StrategyName, ToolResult


@dataclass(frozen=True, slots=True)
class Retold:
    """`parted`: where the run did something else than its record, in words; "" where it is the
    same."""

    turns: int
    tokens: int
    calls: int
    parted: str = ""


def retell(story: Story) -> Retold:
    """Decides the run all over again on what is written, and compares: nothing runs, and no model
    is asked. Raises F1Error where the record has no end to come to."""
    past = [written.entry for written in story.written]
    tokens = sum(len(unpack_ids(ids)) for turn in story.turns for ids in turn.token_ids)
    tokens = tokens or sum(turn.usage.completion_tokens for turn in story.turns)
    counts = (len(story.turns), tokens, len(story.calls))

    async def told() -> list[Progress]:
        return [item async for item in replay(story.row.id, past)]

    try:
        return Retold(*counts, _parted(story, asyncio.run(told())))
    except Diverged as error:
        return Retold(*counts, error.message)


def _parted(story: Story, items: Sequence[Progress]) -> str:
    nodes = [item for item in items if isinstance(item, Node)]
    recorded = [told.node for told in story.calls.values()]
    if not story.is_turn:
        for node, written in zip(nodes, recorded, strict=False):
            if node != written:
                return f"${written.id} was {_call(written)}, and now is {_call(node)}"
        if len(nodes) != len(recorded):
            return f"there were {len(recorded)} calls, and now are {len(nodes)}"
    for item in items:
        was = story.calls[item.node_id].result if isinstance(item, ToolResult) else None
        if was is not None and isinstance(item, ToolResult) and _brought(item) != _brought(was):
            return f"${item.node_id} brought something else"
    return _ended(story, items[-1])


def _brought(result: ToolResult) -> tuple[str, str, str | None]:
    return result.call.arguments, result.content, result.failed


def _ended(story: Story, last: Progress) -> str:
    if not isinstance(last, Outcome):
        return "it has no end"
    ended = story.ended
    if story.is_turn or ended is None:
        return ""
    ending, said = report_of(last).ending, last.completion.message.content
    if ending != ended.ending:
        return f"it ended with '{ended.ending}', and now with '{ending}'"
    return "" if said == ended.text else "its answer is another"


def _call(node: Node) -> str:
    return f"{node.tool}({json.dumps(dict(node.arguments), default=str)})"


# --- another way ---------------------------------------------------------------------------------


def changed(at: str | None, result: str | None, prompt: str | None, strategy: str | None) -> Change:
    """Of what a person says. Raises InvalidRequest."""
    if strategy is not None and strategy not in get_args(StrategyName):
        raise InvalidRequest(f"no strategy {strategy[:100]!r}", param="strategy")
    way = cast(StrategyName | None, strategy)
    if result is not None or (at or "").startswith("$"):
        if at is None:
            raise InvalidRequest("--result needs --at: the call that brings it", param="at")
        return Change(at.removeprefix("$"), result, prompt=prompt, strategy=way)
    if at is not None and not at.isdecimal():
        raise InvalidRequest(f"--at is $NODE or the number of a step: {at[:100]!r}", param="at")
    return Change(step=int(at or 1), prompt=prompt, strategy=way)


def run_fork(
    story: Story,
    change: Change,
    tools: Sequence[ToolSpec],
    model: str | None,
    policy: Policy | None,
    console: Console,
) -> Outcome:
    """Goes on in earnest from there: the model is asked, and tools run. The fork is a run of its
    own. Raises F1Error."""
    _check(story, tools)
    settings = Settings.from_env()
    began = story.began
    name = model or (began.models.get("caller") if began is not None else None)
    if not name:
        raise InvalidRequest("the record does not say which model it was; name it with --model")
    past = [written.entry for written in story.written]
    with _system(name, settings, policy or AllowAll()) as (portal, system):
        orchestrator = Orchestrator(system, tools, tenant=story.row.tenant)
        items = portal.iterate(lambda: fork(orchestrator, story.row.id, past, change))
        return Narrator(console).tell(items)


def _check(story: Story, tools: Sequence[ToolSpec]) -> None:
    here = {spec.name for spec in tools}
    defined = [d.tool.name for _, shown in story.each(Shown) for d in shown.defined if d.runs_here]
    if missing := [name for name in defined if name not in here]:
        told = f"the run had tools that are not here: {', '.join(missing)[:200]}"
        raise InvalidRequest(f"{told}; name their file with --tools or --config")


@contextmanager
def _system(model: str, settings: Settings, policy: Policy) -> Iterator[tuple[Portal, System]]:
    from f1.engine import AsyncEngine  # brings torch

    config = Config.of(model)
    environment = dict(os.environ)
    redaction = hiding(config, settings, environment)
    recorder = open_recorder(config, settings, environment, redaction)
    if recorder is None:
        raise InvalidRequest("a fork is a run of its own, and F1_RUNS_DISK is 0")
    with closing(Portal()) as portal, closing(AsyncEngine.start(model, settings)) as engine:
        try:
            yield portal, replace(System.of(engine), recorder=recorder, policy=policy)
        finally:
            portal.run(recorder.close())


# --- calls of the caller's -----------------------------------------------------------------------


def explained(story: Story) -> Story:
    """With the calls of a run that was one turn of a model: nothing was run, so no plan is written;
    where their values came from is found out now."""
    began = story.began
    if not story.is_turn or began is None:
        return story
    tools = {tool.name: tool for tool in began.request.tools}
    called: list[Called] = []
    for turn in story.turns:
        for event in turn.events:
            if isinstance(event, CallDelta):
                call = event.call
                arguments = json.loads(call.arguments)
                node = Node(str(len(called) + 1), call.name, arguments, (), call.id)
                found = origins(node, began.request.messages, tools.get(call.name), {})
                called.append(Called(turn.step, node, found))
    return with_calls(story, called)
