"""`@tool`'s options, and functions of this process as runners."""

from __future__ import annotations

import asyncio
import math
import threading
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

import f1
from f1.tools.function import make_tool, tool
from f1.tools.spec import INVOCATION, Annotations, CallLimits, Invocation, Output, ToolFailure


@dataclass
class Price:
    amount: float
    currency: str = "EUR"


class Offer(pydantic.BaseModel):
    name: str
    prices: list[Price] = []


@tool(
    read_only=True,
    timeout=2.5,
    retries=1,
    max_parallel=3,
    examples=[{"name": "tea"}],
    description="Looks an offer up.",
)
async def find(name: str, fail: bool = False) -> Offer:
    if fail:
        raise LookupError(name)
    return Offer(name=name, prices=[Price(2.5)])


def test_options_become_the_spec() -> None:
    spec = find.spec
    assert spec.tool is find.tool
    assert spec.name == "find"
    assert spec.tool.description == "Looks an offer up."
    assert spec.annotations == Annotations(read_only=True)
    assert spec.annotations.repeatable
    assert spec.limits == CallLimits(timeout=2.5, retries=1, max_parallel=3)
    assert spec.examples == ({"name": "tea"},)
    assert make_tool(lambda: None, name="quiet", destructive=False).spec.annotations == Annotations(
        destructive=False
    )


def nothing(x: int): ...  # type: ignore[no-untyped-def]
def anything() -> Any: ...
def opaque() -> threading.Lock: ...  # type: ignore[empty-body]
def none() -> None: ...
async def numbers() -> list[int]: ...  # type: ignore[empty-body]


PRICE = {
    "type": "object",
    "properties": {
        "amount": {"type": "number"},
        "currency": {"type": "string", "default": "EUR"},
    },
    "required": ["amount", "currency"],
}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nothing, None),
        (anything, None),
        (opaque, None),
        (none, {"type": "null"}),
        (numbers, {"type": "array", "items": {"type": "integer"}}),
    ],
)
def test_the_return_annotation_is_the_output(function: Any, expected: object) -> None:
    assert make_tool(function).spec.output == expected


def test_models_are_described_as_they_are_written() -> None:
    output = find.spec.output
    assert output is not None
    assert output["properties"]["prices"]["items"] == PRICE
    assert output["required"] == ["name", "prices"]
    given = {"type": "object"}
    assert make_tool(numbers, output=given).spec.output is given


@pytest.mark.parametrize(
    ("options", "error", "names"),
    [
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": math.nan}, ValueError, "timeout"),
        ({"retries": -1}, ValueError, "retries"),
        ({"max_parallel": 0}, ValueError, "max_parallel"),
        ({"examples": [{"x": "one"}]}, ValueError, "example"),
        ({"readonly": True}, TypeError, "readonly"),
    ],
)
def test_options_that_cannot_be(options: Any, error: type[Exception], names: str) -> None:
    with pytest.raises(error, match=names):
        make_tool(nothing, **options)


async def test_results_are_json_values() -> None:
    offer = {"name": "tea", "prices": [{"amount": 2.5, "currency": "EUR"}]}
    assert await find.spec.runner.call({"name": "tea"}, find.limits) == Output(offer)
    odd = make_tool(lambda: (math.nan, {1: {2}}, b"b"), name="odd")
    assert await odd.spec.runner.call({}, odd.limits) == Output([None, {"1": [2]}, "b"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({}, "name"), ({"name": "x", "fail": True}, "LookupError: x"), ({"name": 1}, "name")],
)
async def test_failures_are_told(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ToolFailure, match=told):
        await find.spec.runner.call(arguments, find.limits)


def leave() -> None:
    raise SystemExit("bye")


def end() -> None:
    raise TimeoutError("the tool's own")


@pytest.mark.parametrize("function", [leave, end, lambda: threading.Lock()])
async def test_what_a_function_raises_or_returns_is_its_own(function: Any) -> None:
    made = make_tool(function, name="odd")
    with pytest.raises(ToolFailure, match=r"SystemExit|TimeoutError|Serialization"):
        await made.spec.runner.call({}, made.limits)


async def test_a_call_ends_with_its_time() -> None:
    release = threading.Event()
    made = make_tool(lambda: release.wait(20), name="wait", timeout=0.05)
    try:
        with pytest.raises(TimeoutError):
            await made.spec.runner.call({}, made.limits)
    finally:
        release.set()
    hung = make_tool(asyncio.Event().wait, name="hang", timeout=0.05)
    with pytest.raises(TimeoutError):
        await hung.spec.runner.call({}, hung.limits)


async def test_output_is_bounded() -> None:
    made = make_tool(lambda: "é" * 1000, name="long")
    output = await made.spec.runner.call({}, CallLimits(max_bytes=100))
    assert output == Output("é" * 50, 2000)
    many = make_tool(lambda: list(range(1000)), name="many")
    output = await many.spec.runner.call({}, CallLimits(max_bytes=10))
    assert output == Output("[0,1,2,3,4", 3891)


async def test_a_function_knows_which_call_it_is() -> None:
    async def later() -> str:
        return str(f1.invocation())

    for function in (lambda: str(f1.invocation()), later):
        token = INVOCATION.set(Invocation("k", "run", "7"))
        output = await make_tool(function, name="which").spec.runner.call({}, CallLimits())  # type: ignore[union-attr]
        INVOCATION.reset(token)
        assert output == Output("Invocation(key='k', run_id='run', node_id='7')")
    assert f1.invocation() is None
