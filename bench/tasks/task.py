"""What a task is, and the small worlds that tasks are played in.

A task is a sentence somebody could say, a fresh world with tools over it, and an oracle: calls that
do what was asked. It is judged by what the world is afterwards, which has to be what the oracle
makes of it, and by the facts in the answer; never by how calls were written. (tau-bench judges so:
arXiv 2406.12045.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

from f1.tools.function import FunctionTool, ToolOptions, make_tool

Category = Literal["parallel", "sequential", "mixed", "replan", "missing", "irrelevant"]
CATEGORIES: tuple[Category, ...] = (
    "parallel",  # calls that need nothing of each other
    "sequential",  # a call needs what another brought
    "mixed",  # both
    "replan",  # a call fails, and another has to do
    "missing",  # something was not said: the right thing is to ask for it
    "irrelevant",  # nothing to be done with these tools: the right thing is no call
)

Fact = str | int | float | tuple[str | int | float, ...]  # a tuple: any of them
Step = tuple[str, Mapping[str, Any]]  # tool, arguments


class World:
    """The methods marked `@tool` are the tools; one call at a time, since they run in threads."""

    def __init__(self) -> None:
        self.log: list[str] = []  # names of the tools that were called
        self._one = threading.Lock()

    def state(self) -> Any:
        """What calls can have changed, as a value to compare: no order, no ids of its own."""
        raise NotImplementedError

    def tools(self) -> list[FunctionTool]:
        marked = (n for n, method in vars(type(self)).items() if hasattr(method, _OPTIONS))
        return [self._as_tool(name) for name in marked]

    def _as_tool(self, name: str) -> FunctionTool:
        method = getattr(self, name)
        made = make_tool(method, **getattr(method, _OPTIONS))

        def logged(**arguments: Any) -> Any:
            with self._one:
                self.log.append(name)
                return method(**arguments)

        return replace(made, function=logged)


_OPTIONS = "__tool_options__"


def tool(**options: Unpack[ToolOptions]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Marks a world's method as a tool, with the options of F1's `@tool`."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        setattr(method, _OPTIONS, {"destructive": False, **options})
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Task:
    category: Category
    ask: str
    calls: tuple[Step, ...] = ()  # the oracle's; one may fail, as it would for anybody
    facts: tuple[Fact, ...] = ()  # that the answer must have
    says: str = ""  # a good answer, where no call is due


@dataclass(frozen=True, slots=True)
class Placed:
    """A task in its world. In each domain and category every other task is of the test half."""

    id: str
    half: Literal["dev", "test"]
    task: Task
    world: type[World]


def place(name: str, world: type[World], tasks: tuple[Task, ...]) -> list[Placed]:
    placed, seen = [], dict.fromkeys(CATEGORIES, 0)
    for task in tasks:
        seen[task.category] += 1
        number = seen[task.category]
        half: Literal["dev", "test"] = "dev" if number % 2 else "test"
        placed.append(Placed(f"{name}-{task.category}-{number}", half, task, world))
    return placed
