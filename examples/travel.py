"""Plans a trip from an offline data set: look-ups side by side, then a sum of what they found.

python examples/travel.py ["How much is …?"] [--model NAME]
"""

from __future__ import annotations

import argparse

from f1 import F1, tool

QUESTION = "What do a flight to Lisbon and 3 nights in a hotel there cost in total?"

# In euros: a flight there, a night in a hotel.
CITIES = {
    "Lisbon": (118, 84),
    "Rome": (149, 112),
    "Vienna": (97, 71),
    "Oslo": (89, 133),
    "Athens": (164, 66),
}


@tool(read_only=True)
def flight_price(city: str) -> dict[str, int]:
    """Get the price of a flight to a city, in euros.

    Args:
        city: The destination, for example Paris.
    """
    return {"flight_price": _city(city)[0]}


@tool(read_only=True)
def hotel_price(city: str, nights: int) -> dict[str, int]:
    """Get the price of a hotel stay in a city, in euros.

    Args:
        city: Where the hotel is, for example Paris.
        nights: Number of nights.
    """
    return {"hotel_price": nights * _city(city)[1]}


@tool(read_only=True)
def total_cost(flight_price: int, hotel_price: int) -> dict[str, int]:
    """Add the price of a flight and the price of a hotel.

    Args:
        flight_price: The result of flight_price.
        hotel_price: The result of hotel_price.
    """
    return {"total_cost": flight_price + hotel_price}


TOOLS = (flight_price, hotel_price, total_cost)


def _city(name: str) -> tuple[int, int]:
    if name.title() not in CITIES:
        raise LookupError(f"no city '{name}'; there are {', '.join(CITIES)}")
    return CITIES[name.title()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--model")
    options = parser.parse_args()
    with F1(options.model) as f1:
        run = f1.run(options.question, TOOLS, max_tokens=256)
    for result in run.results:
        print(f"{result.call.name} {result.call.arguments} -> {result.content}")
    print(run.text or "no answer")


if __name__ == "__main__":
    main()
