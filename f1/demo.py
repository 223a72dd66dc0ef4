"""The demo: a question that takes two tools side by side and a third that uses both results.

The tools are offline and their figures made up. Each waits a moment, as a service on the network
would, so that running side by side shows in the times.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape

from f1.client import F1
from f1.planning.outcome import CallTools, GiveUp, Planned, Progress, Reply, report_of
from f1.tools.function import FunctionTool, tool
from f1.types import Note, Started, ToolCall, ToolResult, Usage

QUESTION = "What do a flight to Lisbon and three nights in a hotel there cost in total?"
_LATENCY = 0.4  # seconds


@tool
def flight_price(city: str) -> dict[str, int]:
    """Get the price of a flight to a city.

    Args:
        city: The destination, for example Oslo.
    """
    time.sleep(_LATENCY)
    return {"flight_price": _figure("flight", city, 80, 400)}


@tool
def hotel_price(city: str, nights: int) -> dict[str, int]:
    """Get the price of a hotel stay in a city.

    Args:
        city: Where the hotel is, for example Oslo.
        nights: Number of nights.
    """
    time.sleep(_LATENCY)
    return {"hotel_price": nights * _figure("hotel", city, 50, 200)}


@tool
def total_cost(flight_price: int, hotel_price: int) -> dict[str, int]:
    """Add the price of a flight and the price of a hotel.

    Args:
        flight_price: The result of flight_price.
        hotel_price: The result of hotel_price.
    """
    time.sleep(_LATENCY)
    return {"total_cost": flight_price + hotel_price}


TOOLS: Sequence[FunctionTool] = (flight_price, hotel_price, total_cost)


def _figure(kind: str, city: str, low: int, high: int) -> int:
    """A price that any city has, the same every time."""
    return low + zlib.crc32(f"{kind}:{city.strip().lower()}".encode()) % (high - low)


def run_demo(f1: F1, question: str, console: Console) -> bool:
    """Asks and shows what happens as it happens. Returns whether there was an answer."""
    console.print(f"[bold]Question[/]  {escape(question)}")
    return Narrator(console).tell(f1.watch(question, TOOLS))


class Narrator:
    """Tells a person what a run does."""

    def __init__(self, console: Console):
        self.console = console
        self.asked = time.perf_counter()
        self.first: float | None = None  # when anything was heard

    def tell(self, progress: Iterable[Progress]) -> bool:
        answered = False
        for item in progress:
            self.first = self.first or time.perf_counter()
            match item:
                case Started():
                    self.console.print(f"  [cyan]→[/] {escape(write_call(item.call))}")
                case ToolResult():
                    self._result(item)
                case Note():
                    self.console.print(f"  [dim]{escape(item.text)}[/]")
                case Reply():
                    answered = True
                    text = item.completion.message.content.strip()
                    self._together(report_of(item).results)
                    self.console.print(f"\n[bold]Answer[/]    {escape(text)}")
                    self._times(item.completion.usage)
                case CallTools() | Planned() | GiveUp():
                    why = item.why if isinstance(item, GiveUp) else "a tool is missing"
                    self.console.print(f"\n[bold red]No answer:[/] {escape(why)}")
        return answered

    def _result(self, result: ToolResult) -> None:
        mark = "[red]✗[/]" if result.failed else "[green]✓[/]"
        shown = result.content if len(result.content) <= 200 else f"{result.content[:200]}…"
        self.console.print(
            f"  {mark} {escape(result.call.name)} returned {escape(shown)} "
            f"[dim]in {result.seconds:.2f} s[/]"
        )

    def _together(self, results: Sequence[ToolResult]) -> None:
        """What it took that calls ran side by side."""
        spans = sorted((result.started, result.started + result.seconds) for result in results)
        wall, end = 0.0, 0.0
        for begin, until in spans:
            wall += max(until - max(begin, end), 0.0)
            end = max(end, until)
        in_turn = sum(result.seconds for result in results)
        if len(spans) > 1:
            self.console.print(
                f"  [dim]tools: {wall:.2f} s; one by one they take {in_turn:.2f} s[/]"
            )

    def _times(self, usage: Usage) -> None:
        total = time.perf_counter() - self.asked
        first = (self.first or time.perf_counter()) - self.asked
        self.console.print(
            f"[dim]{total:.1f} s in all, {first:.2f} s to the first event; "
            f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} of them reused), "
            f"{usage.completion_tokens} written[/]"
        )


def write_call(call: ToolCall) -> str:
    """`flight_price(city="Lisbon")`"""
    arguments = json.loads(call.arguments)
    inside = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items()
    )
    return f"{call.name}({inside})"
