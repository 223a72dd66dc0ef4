"""An assistant with hundreds of tools: F1 shows the model a handful of them, and says which.

    python examples/assistant.py ["Turn on …"] [--model NAME]

The tools are made from tables: everything that can be done to every thing of a house, an office
and a shop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from f1 import F1
from f1.tools.function import FunctionTool, make_tool

QUESTION = "Switch on the kitchen lamp for 20 minutes."

TOOLSETS = {
    "house": (
        ("switch_on", "switch_off", "read_state_of", "schedule", "rename"),
        "the {place} {thing}",
        ("kitchen", "bedroom", "bathroom", "hall", "garage", "garden"),
        ("lamp", "heater", "blinds", "speaker", "camera", "lock"),
    ),
    "office": (
        ("list", "create", "archive", "search", "share"),
        "{thing} of the {place} team",
        ("sales", "design", "finance", "support"),
        ("documents", "meetings", "invoices", "holidays", "tickets"),
    ),
    "shop": (
        ("count", "order", "price", "return"),
        "{place} {thing}",
        ("oak", "steel", "glass", "linen"),
        ("tables", "chairs", "shelves", "curtains", "mirrors"),
    ),
}


def toolset(name: str) -> list[FunctionTool]:
    verbs, phrase, places, things = TOOLSETS[name]
    return [
        made(verb, phrase.format(place=place, thing=thing), f"{verb}_{place}_{thing}")
        for verb in verbs
        for place in places
        for thing in things
    ]


def made(verb: str, what: str, name: str) -> FunctionTool:
    return make_tool(
        action(verb, what),
        name=name,
        description=f"{verb.replace('_', ' ').capitalize()} {what}.",
        read_only=verb in ("read_state_of", "list", "search", "count", "price"),
    )


def action(verb: str, what: str) -> Callable[[int], str]:
    def act(minutes: int) -> str:
        """Does it.

        Args:
            minutes: For how long; 0 is until further notice.
        """
        return f"{verb.replace('_', ' ')} {what} for {minutes} minutes: done"

    return act


TOOLS = [tool for name in TOOLSETS for tool in toolset(name)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--model")
    options = parser.parse_args()
    with F1(options.model) as f1:
        run = f1.run(options.question, TOOLS, max_tokens=128)
    print(f"of {run.report.num_tools} tools the model was shown:")
    for chosen in run.report.selected:
        print(f"  {chosen.score:6.2f}  {chosen.name}")
    for result in run.results:
        print(f"{result.call.name} {result.call.arguments} -> {result.content}")
    print(run.text or "no answer")


if __name__ == "__main__":
    main()
