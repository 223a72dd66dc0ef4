"""The demo: a question that takes two tools side by side and a third that uses both results.

The tools are offline and their figures made up. Each waits a moment, as a service on the network
would, so that running side by side shows in the times.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from f1.client import F1
from f1.narrator import Narrator
from f1.planning.outcome import Reply
from f1.tools.function import FunctionTool, tool

QUESTION = "What do a flight to Lisbon and three nights in a hotel there cost in total?"
_LATENCY = 0.4  # seconds


@tool(read_only=True)
def flight_price(city: str) -> dict[str, int]:
    """Get the price of a flight to a city.

    Args:
        city: The destination, for example Oslo.
    """
    time.sleep(_LATENCY)
    return {"flight_price": _figure("flight", city, 80, 400)}


@tool(read_only=True)
def hotel_price(city: str, nights: int) -> dict[str, int]:
    """Get the price of a hotel stay in a city.

    Args:
        city: Where the hotel is, for example Oslo.
        nights: Number of nights.
    """
    time.sleep(_LATENCY)
    return {"hotel_price": nights * _figure("hotel", city, 50, 200)}


@tool(read_only=True)
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
    return isinstance(Narrator(console).tell(f1.watch(question, TOOLS)), Reply)
