"""Running plans, in virtual time: what starts when, and what comes of it whatever the tools do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import pytest
import virtual

from f1.planning.executor import Executor
from f1.planning.gates import Gates
from f1.tools.spec import Annotations, CallLimits, Output, ToolFailure, ToolSpec
from f1.types import Node, Ref, Started, Tool, ToolResult

READ = Annotations(read_only=True)
OBJECT = {"type": "object"}
DEEP: dict[str, Any] = reduce(lambda inner, _: {"a": inner}, range(2000), {})


@dataclass
class Fake:
    """A tool that does what a test tells it to; `seen` are the arguments of its tries."""

    work: Callable[..., Awaitable[Any]]
    seen: list[Mapping[str, Any]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        self.seen.append(arguments)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            made = await self.work(**arguments)
            return made if isinstance(made, Output) else Output(made)
        finally:
            self.running -= 1


def spec(
    name: str,
    work: Callable[..., Awaitable[Any]] | None,
    annotations: Annotations = Annotations(),  # noqa: B008 - frozen
    parameters: Mapping[str, Any] = OBJECT,
    strict: bool = True,
    **limits: Any,
) -> ToolSpec:
    tool = Tool(name, parameters=parameters, strict=strict)
    runner = None if work is None else Fake(work)
    return ToolSpec(tool, runner, annotations=annotations, limits=CallLimits(**limits))


def node(node_id: str, tool: str, *after: str, **arguments: Any) -> Node:
    return Node(node_id, tool, arguments, after, f"call_{node_id}")


async def nap(seconds: float = 1.0, say: Any = "ok") -> Any:
    await asyncio.sleep(seconds)
    return say


async def echo(**arguments: Any) -> Any:
    return arguments.get("say", arguments)


async def hang() -> None:
    await asyncio.Event().wait()


async def crash(**_: Any) -> None:
    raise ZeroDivisionError("by zero")


def gates() -> Gates:
    return Gates(clock=asyncio.get_running_loop().time)


async def finish(executor: Executor) -> list[Started | ToolResult]:
    news = []
    while executor.unfinished:
        news.append(await executor.next())
    return news


async def run_all(nodes: list[Node], *specs: ToolSpec) -> dict[str, ToolResult]:
    async with Executor({spec.name: spec for spec in specs}, gates()) as executor:
        for one in nodes:
            executor.add(one)
        await finish(executor)
        return executor.results


def play(nodes: list[Node], *specs: ToolSpec) -> dict[str, ToolResult]:
    return virtual.run(run_all(nodes, *specs))


def kinds(results: Mapping[str, ToolResult]) -> dict[str, str | None]:
    return {node_id: result.failed for node_id, result in sorted(results.items())}


def ends(results: Mapping[str, ToolResult]) -> dict[str, float]:
    return {i: round(r.started + r.seconds, 6) for i, r in sorted(results.items())}


# --- what LLMCompiler got wrong --------------------------------------------------------------


def test_1_an_exception_is_a_result_and_nobody_waits_for_ever() -> None:
    nodes = [node("1", "crash"), node("2", "nap", "1"), node("3", "nap")]
    results = play(nodes, spec("crash", crash), spec("nap", nap))
    assert kinds(results) == {"1": "error", "2": "need_failed", "3": None}
    assert json.loads(results["1"].content) == {"error": "ZeroDivisionError: by zero"}
    assert "$1" in results["2"].content


def test_2_values_go_in_by_type_and_are_not_read_for_references() -> None:
    told = {"items": [{"price": 7.5}], "text": '$3 ${3} {"ref": "3"}', "ref": {"ref": "3"}}
    tool = spec("echo", echo)
    nodes = [
        node("1", "echo", say=told),
        node("3", "echo", say="secret"),
        node("4", "echo", "3", a=Ref("1", "items[0].price"), b=Ref("1", "text"), c=Ref("1", "ref")),
        node("5", "echo", say=[Ref("1"), "$1"]),
    ]
    results = play(nodes, tool)
    assert results["4"].value == {"a": 7.5, "b": told["text"], "c": {"ref": "3"}}
    assert results["5"].value == [told, "$1"]
    assert json.loads(results["4"].call.arguments) == results["4"].value
    assert "secret" not in str(results["4"]) + str(results["5"])


def test_3_a_ready_node_does_not_wait_for_the_planners_next_line() -> None:
    async def body() -> None:
        tools = {"nap": spec("nap", nap)}
        async with Executor(tools, gates()) as executor:
            executor.add(node("1", "nap"))
            executor.add(node("2", "nap", "1"))
            # The planner says nothing more, and nobody asks for news.
            await asyncio.sleep(60)
            assert ends(executor.results) == {"1": 1.0, "2": 2.0}

    virtual.run(body())


def test_4_nodes_that_come_together_all_start_and_executors_share_no_state() -> None:
    async def body() -> None:
        tools = {"nap": spec("nap", nap)}
        shared = gates()
        async with Executor(tools, shared) as a, Executor(tools, shared) as b:
            for executor in (a, b):
                executor.add(node("1", "nap"))
                executor.add(node("2", "nap"))
            await asyncio.gather(finish(a), finish(b))
            assert ends(a.results) == ends(b.results) == {"1": 1.0, "2": 1.0}

    virtual.run(body())


PRICE = {
    "type": "object",
    "properties": {"price": {"type": "number"}},
    "required": ["price"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("bad", "kind", "said"),
    [
        (node("1", "pey", price=1), "unknown_tool", "pey"),
        (node("1", "pay", price="1"), "invalid_arguments", "schema"),
        (node("1", "pay"), "invalid_arguments", "schema"),
        (node("1", "pay", price=Ref("0", "text")), "bad_reference", "$0.text does not fit 'price'"),
        (node("1", "pay", price=Ref("0", "cost")), "bad_reference", "cost"),
        (node("1", "pay", price=Ref("7")), "bad_reference", "$7"),
        (node("1", "pay", "7", price=1), "bad_reference", "$7"),
        (node("1", "pay", "1", price=1), "bad_reference", "$1"),
        (node("1", "lax", price=1), "refused", "schema"),
        (node("1", "pay", price=DEEP), "invalid_arguments", "deeper"),
    ],
)
def test_5_what_is_wrong_with_a_node_is_its_result(bad: Node, kind: str, said: str) -> None:
    pay = spec("pay", echo, parameters=PRICE)
    lax = spec("lax", echo, strict=False)
    good = node("0", "tell", say={"text": "x", "price": 2})
    nodes = [good, bad, node("2", "pay", price=Ref("0", "price")), node("3", "pay", "1", price=1)]
    results = play(nodes, pay, lax, spec("tell", echo))
    assert kinds(results) == {"0": None, "1": kind, "2": None, "3": "need_failed"}
    assert said in results["1"].content
    assert results["1"].tries == 0
    for tool in (pay, lax):
        assert all(arguments == {"price": 2} for arguments in tool.runner.seen)  # type: ignore[union-attr]


def test_6_who_needs_one_result_does_not_wait_for_all() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with Executor({"nap": spec("nap", nap)}, gates()) as executor:
            for index in range(1, 4):
                executor.add(node(str(index), "nap", seconds=index))
            waiters = [executor.result("2") for _ in range(3)]
            assert {r.node_id for r in await asyncio.gather(*waiters)} == {"2"}
            assert loop.time() == 2
            assert executor.unfinished == 3  # one runs, two are not told of
            assert (await executor.result("2")).node_id == "2"
            with pytest.raises(LookupError):
                await executor.result("9")

    virtual.run(body())


def test_7_an_id_that_is_taken_is_the_planners_error() -> None:
    async def body() -> None:
        async with Executor({"nap": spec("nap", nap)}, gates()) as executor:
            executor.add(node("1", "nap"))
            with pytest.raises(ValueError, match="'1'"):
                executor.add(node("1", "nap"))
        with pytest.raises(RuntimeError, match="over"):
            executor.add(node("2", "nap"))

    virtual.run(body())


def test_8_later_turns_refer_to_earlier_results() -> None:
    async def body() -> None:
        async with Executor({"echo": spec("echo", echo)}, gates()) as executor:
            executor.add(node("1", "echo", say={"n": 1}))
            await finish(executor)
            executor.add(node("2", "echo", say=Ref("1", "n")))
            assert [type(item).__name__ for item in await finish(executor)] == [
                "Started",
                "ToolResult",
            ]
            assert executor.results["2"].value == 1
            with pytest.raises(RuntimeError, match="nothing"):
                await executor.next()

    virtual.run(body())


# --- the caller's own tools ------------------------------------------------------------------


def test_calls_for_the_caller_are_bound_and_wait_for_their_needs() -> None:
    async def body() -> None:
        tools = {"nap": spec("nap", nap), "ask": spec("ask", None, parameters=PRICE)}
        tools["lax"] = spec("lax", None, strict=False)
        async with Executor(tools, gates()) as executor:
            executor.add(node("1", "nap", say=5))
            executor.add(node("2", "ask", price=Ref("1")))
            executor.add(node("3", "nap", "2"))
            executor.add(node("4", "nap", "3"))
            executor.add(node("5", "lax", anything=1))
            executor.add(node("6", "ask", price="1"))
            assert executor.unfinished == 5  # one runs, three wait, one is not told of
            waiter = asyncio.create_task(executor.result("4"))
            await finish(executor)
            assert [(c.id, c.arguments) for c in executor.theirs] == [
                ("call_2", '{"price": 5}'),
                ("call_5", '{"anything": 1}'),
            ]
            with pytest.raises(LookupError):
                await waiter
            assert kinds(executor.results) == {"1": None, "6": "invalid_arguments"}
            call = executor.theirs[0]
            executor.know(ToolResult(call, "yes", None, 0.0, 0.0, value="yes", node_id="2"))
            await finish(executor)
            assert executor.results["4"].failed is None
            assert [c.id for c in executor.theirs] == ["call_5"]
            part = ToolResult(call, "[1", None, 0.0, 0.0, value="[1", node_id="0", whole=False)
            executor.know(part)
            executor.add(node("7", "nap", say=Ref("0")))
            assert executor.results["7"].failed == "bad_reference"
        assert "5" not in executor.results

    virtual.run(body())


def test_what_waits_for_the_caller_fails_with_what_else_it_needs() -> None:
    tools = spec("ask", None), spec("nap", nap), spec("crash", crash)
    nodes = [
        node("1", "ask"),
        node("2", "crash"),
        node("3", "nap", "1", "2"),
        node("4", "ask", "3"),
    ]
    assert kinds(play(nodes, *tools)) == {"2": "error", "3": "need_failed", "4": "need_failed"}


# --- what tools do ---------------------------------------------------------------------------


async def leave(**_: Any) -> None:
    raise SystemExit(3)


async def give_up(**_: Any) -> None:
    raise asyncio.CancelledError


async def refuse(**_: Any) -> None:
    raise ToolFailure("no such city")


async def opaque(**_: Any) -> object:
    return object()


async def late(**_: Any) -> None:
    raise TimeoutError


@pytest.mark.parametrize(
    ("work", "kind", "said"),
    [
        (leave, "error", "SystemExit: 3"),
        (give_up, "error", "called itself off"),
        (refuse, "error", "no such city"),
        (opaque, "error", "serialize"),
        (hang, "timeout", "within 2 s; what it does may be done"),
        (late, "timeout", "within 2 s"),
    ],
)
def test_a_failure_is_a_result_and_siblings_go_on(work: Any, kind: str, said: str) -> None:
    results = play(
        [node("1", "bad"), node("2", "nap")], spec("bad", work, timeout=2), spec("nap", nap)
    )
    assert kinds(results) == {"1": kind, "2": None}
    assert said in results["1"].content
    assert results["1"].tries == 1


def test_long_results_are_cut_for_the_model_alone() -> None:
    async def flood() -> str:
        return "x" * 1000

    tools = spec("flood", flood, max_chars=10), spec("echo", echo)
    results = play([node("1", "flood"), node("2", "echo", say=Ref("1"))], *tools)
    assert results["1"].content == "x" * 10 + "… (cut: 1000 characters)"
    assert results["1"].cut
    assert results["2"].value == "x" * 1000


def test_what_was_not_read_whole_cannot_be_referred_to() -> None:
    async def endless() -> Output:
        return Output("[1, 2", num_bytes=1 << 30)

    tools = spec("endless", endless), spec("echo", echo)
    results = play(
        [node("1", "endless"), node("2", "echo", say=Ref("1")), node("3", "echo", "1")], *tools
    )
    assert kinds(results) == {"1": None, "2": "bad_reference", "3": None}
    assert results["1"].content == "[1, 2… (cut: 1073741824 bytes)"


def test_what_no_text_can_hold_is_replaced_and_not_referred_to() -> None:
    async def half() -> str:
        return "\ud800a"

    nodes = [node("1", "half"), node("2", "echo", say=Ref("1")), node("3", "echo", "1")]
    results = play(nodes, spec("half", half), spec("echo", echo))
    assert results["1"].content == "?a"
    assert kinds(results) == {"1": None, "2": "bad_reference", "3": None}


# --- room, retries, sharing ------------------------------------------------------------------


def test_caps_hold_across_runs_and_nobody_is_passed_over() -> None:
    async def body() -> None:
        tool = spec("nap", nap, max_parallel=2)
        shared = gates()
        async with Executor({"nap": tool}, shared) as a, Executor({"nap": tool}, shared) as b:
            for index in range(4):
                a.add(node(str(index), "nap"))
                b.add(node(str(index), "nap"))
            await asyncio.gather(finish(a), finish(b))
        assert sorted([*ends(a.results).values(), *ends(b.results).values()]) == [
            *(1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0)
        ]
        assert tool.runner.most == 2  # type: ignore[union-attr]

    virtual.run(body())


@pytest.mark.parametrize(
    ("annotations", "passing", "tries"),
    [
        (READ, True, 3),
        (Annotations(idempotent=True), True, 3),
        (Annotations(), True, 1),
        (READ, False, 1),
    ],
)
def test_only_what_is_repeatable_and_may_pass_is_tried_again(
    annotations: Annotations, passing: bool, tries: int
) -> None:
    async def fail(**_: Any) -> None:
        raise ToolFailure("down", passing=passing)

    tool = spec("fail", fail, annotations)
    assert play([node("1", "fail")], tool)["1"].tries == tries
    assert len(tool.runner.seen) == tries  # type: ignore[union-attr]


def test_a_try_finds_the_arguments_as_they_were() -> None:
    seen = []

    async def spoil(items: list[int]) -> None:
        seen.append(list(items))
        items.clear()
        raise ToolFailure("again", passing=True)

    play([node("1", "spoil", items=[1, 2])], spec("spoil", spoil, READ))
    assert seen == [[1, 2]] * 3


def test_identical_reads_under_way_are_one_call() -> None:
    tool = spec("nap", nap, READ)
    nodes = [node("1", "nap", seconds=2, say={"a": 1}), node("2", "nap", say={"a": 1}, seconds=2)]
    nodes += [node("3", "nap", seconds=2), node("4", "nap", "1", seconds=2, say={"a": 1})]
    results = play(nodes, tool)
    assert ends(results) == {"1": 2.0, "2": 2.0, "3": 2.0, "4": 4.0}
    assert [results[i].shared for i in "1234"] == [False, True, False, False]
    assert len(tool.runner.seen) == 3  # type: ignore[union-attr]


def test_calls_that_change_something_are_never_shared() -> None:
    tool = spec("nap", nap, Annotations(idempotent=True))
    play([node("1", "nap"), node("2", "nap")], tool)
    assert len(tool.runner.seen) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("leaver", ["first", "second"])
def test_a_shared_call_goes_on_until_nobody_waits(leaver: str) -> None:
    async def body() -> None:
        tool = spec("nap", nap, READ)
        shared = gates()
        first, second = (Executor({"nap": tool}, shared) for _ in range(2))
        leaves, stays = (first, second) if leaver == "first" else (second, first)
        async with stays:
            async with leaves:
                for executor in (first, second):
                    executor.add(node("1", "nap"))
                await asyncio.sleep(0.5)
            assert leaves.results["1"].failed == "cancelled"
            await finish(stays)
        assert (stays.results["1"].failed, len(tool.runner.seen)) == (None, 1)  # type: ignore[union-attr]
        async with Executor({"nap": tool}, shared) as last:
            last.add(node("1", "nap"))
            await asyncio.sleep(0.5)
        assert tool.runner.running == 0  # type: ignore[union-attr]

    virtual.run(body())


# --- leaving ---------------------------------------------------------------------------------


@pytest.mark.parametrize("annotations", [READ, Annotations()], ids=["read", "write"])
@pytest.mark.parametrize("cancels", [0, 1, 3])
def test_leaving_waits_for_the_tools_to_end(annotations: Annotations, cancels: int) -> None:
    ended = []

    async def tidy() -> None:
        try:
            await hang()
        finally:
            await asyncio.sleep(0.5)  # ending takes its time
            ended.append(asyncio.get_running_loop().time())

    async def body() -> None:
        executor = Executor({"tidy": spec("tidy", tidy, annotations, timeout=60)}, gates())

        async def use() -> None:
            async with executor:
                executor.add(node("1", "tidy"))
                executor.add(node("2", "tidy", "1"))
                await (asyncio.sleep(1) if not cancels else finish(executor))

        using = asyncio.create_task(use())
        await asyncio.sleep(1)
        for _ in range(cancels):
            using.cancel()
            await asyncio.sleep(0.1)
        if cancels:
            with pytest.raises(asyncio.CancelledError):
                await using
        await asyncio.wait({using})
        assert ended == [1.5]
        assert kinds(executor.results) == {"1": "cancelled", "2": "cancelled"}
        assert ("may be done" in executor.results["1"].content) == (annotations != READ)

    virtual.run(body())


def test_a_tool_that_will_not_end_keeps_its_room_and_nobody_else() -> None:
    release = []

    async def stubborn() -> None:
        release.append(asyncio.Event())
        while not release[-1].is_set():
            try:
                await release[-1].wait()
            except asyncio.CancelledError:
                continue

    async def body() -> None:
        loop = asyncio.get_running_loop()
        tools = {"stubborn": spec("stubborn", stubborn, timeout=1, max_parallel=1)}
        async with Executor(tools, gates()) as executor:
            executor.add(node("1", "stubborn"))
            executor.add(node("2", "stubborn"))
            assert (await executor.result("1")).failed == "timeout"
            assert loop.time() == 2  # its time, and the grace to end in
            await asyncio.sleep(10)
            assert len(release) == 1  # the room is taken
            release[0].set()
            await asyncio.sleep(0.1)
            assert len(release) == 2
            release[1].set()

    virtual.run(body())
