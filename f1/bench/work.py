"""What is asked of the subjects: a text, a call, a toolset; and what a token costs a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path

import f1
from f1.calling.family import family_for
from f1.models.checkpoint import Checkpoint
from f1.settings import Settings
from f1.types import GenerateRequest, Message, Tool, ToolChoice

BOOK_FLIGHT = Tool(
    "book_flight",
    "Book a flight for one passenger.",
    {
        "type": "object",
        "properties": {
            "passenger": {"type": "string", "description": "Full name."},
            "origin": {"type": "string", "description": "City of departure."},
            "destination": {"type": "string", "description": "City of arrival."},
            "date": {"type": "string", "description": "Day of departure, YYYY-MM-DD."},
            "cabin": {"type": "string", "enum": ["economy", "premium", "business", "first"]},
            "bags": {"type": "integer", "description": "Checked bags."},
            "vegetarian": {"type": "boolean", "description": "Whether to serve such a meal."},
        },
        "required": [
            *("passenger", "origin", "destination", "date", "cabin", "bags", "vegetarian")
        ],
        "additionalProperties": False,
    },
)
_PASSENGERS = "Ingrid Johansson,Tomas Novak,Amara Okafor,Lucia Ferrari,Henrik Olsen".split(",")
_CITIES = "Lisbon,Copenhagen,Vienna,Toronto,Nairobi,Osaka,Bogota".split(",")
_TOPICS = "lighthouse keeper,clockmaker,ferry pilot,beekeeper,glass blower,mapmaker".split(",")


def call(index: int) -> GenerateRequest:
    """A call of about 60 tokens of arguments, to be copied from the request for the most part.

    Each index names another passenger and route, as one request after another would: an engine
    that drafts from what it said before must not find the whole answer there.
    """
    passenger = _PASSENGERS[index % len(_PASSENGERS)]
    origin, destination = (_CITIES[(3 * index + i) % len(_CITIES)] for i in range(2))
    cabin = ("business", "economy", "first", "premium")[index % 4]
    text = (
        f"Book a {cabin} class flight from {origin} to {destination} on 2026-{index % 12 + 1:02d}-"
        f"{index % 27 + 1:02d} for {passenger}, with two checked bags and a vegetarian meal."
    )
    return GenerateRequest(
        (Message("user", text),),
        tools=(BOOK_FLIGHT,),
        tool_choice=ToolChoice("named", BOOK_FLIGHT.name),
        parallel_tool_calls=False,
        max_tokens=160,
    )


def text_tokens(checkpoint: Checkpoint, count: int, start: int) -> list[int]:
    """`count` tokens of F1's own source from the start-th on, round and round: code is what these
    models read, and no two starts share a beginning."""
    folder = Path(f1.__file__).parent
    text = "\n\n".join(
        (folder / name).read_text("utf-8")
        for name in ("engine.py", "stepping.py", "choices.py", "types/runs.py", "types/events.py")
    )
    tokens = checkpoint.tokenizer.encode(text)
    return [tokens[i % len(tokens)] for i in range(start, start + count)]


def prompt_tokens(checkpoint: Checkpoint, request: GenerateRequest) -> list[int]:
    """The request's prompt as the engine makes it, up to where a named call's arguments begin."""
    family = family_for(checkpoint.name, Settings.from_env().grammars)
    messages = family.plain_messages(
        request.messages, request.tools, parallel=request.parallel_tool_calls
    )
    prompt = checkpoint.template.render(messages)
    if request.tool_choice.mode == "named":
        lead = f'{family.form.open} "{request.tool_choice.name}"{family.form.arguments}'
        prompt = prompt + checkpoint.tokenizer.encode_prompt(lead)
    return prompt


# --- a toolset ------------------------------------------------------------------------------------

_VERBS = {"create": "Create", "find": "Search for", "update": "Change", "cancel": "Cancel"}
_NOUNS = "invoice ticket meeting contact order shipment refund report".split()


def _tools() -> Iterator[Tool]:
    for noun, (verb, phrase) in product(_NOUNS, _VERBS.items()):
        yield Tool(
            f"{verb}_{noun}",
            f"{phrase} the {noun} that the user names.",
            {
                "type": "object",
                "properties": {
                    f"{noun}_id": {"type": "string", "description": f"Identifier of the {noun}."},
                    "owner": {"type": "string", "description": "Mail address of its owner."},
                    "priority": {"type": "string", "enum": ["low", "normal", "high"]},
                },
                "required": [f"{noun}_id"],
            },
        )


def toolset(checkpoint: Checkpoint, num_tokens: int) -> tuple[Tool, ...]:
    """The fewest tools that make a prompt of at least `num_tokens`."""
    tools: tuple[Tool, ...] = ()
    for tool in _tools():
        tools = (*tools, tool)
        if len(prompt_tokens(checkpoint, question(tools, "Hello."))) >= num_tokens:
            return tools
    raise ValueError(f"the toolset has fewer than {num_tokens} tokens")


def question(tools: tuple[Tool, ...], text: str) -> GenerateRequest:
    """One that is answered by a single token of text, so that its end is the first token."""
    return GenerateRequest(
        (Message("user", text),), tools, tool_choice=ToolChoice("none"), max_tokens=1
    )


def chatter(index: int, max_tokens: int) -> GenerateRequest:
    """Free text that goes on until it is cut."""
    text = f"Count from {index + 1} to {index + 500}, one number a line, without leaving any out."
    return GenerateRequest((Message("user", text),), max_tokens=max_tokens)


def story(index: int, max_tokens: int) -> GenerateRequest:
    """Free text that does not repeat what was said before; each index another."""
    who = _TOPICS[index % len(_TOPICS)]
    text = f"Tell a story of a {who} who finds a letter. Describe every scene at length."
    return GenerateRequest((Message("user", text),), max_tokens=max_tokens)


# --- costs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Costs:
    """What one token takes at least, from the file's tensors."""

    file_bytes: int
    matrix_bytes: int  # read for each step: the layers' tensors and the head, at the file's width
    head_bytes: int  # of which the head's
    prefill_macs: int  # of the layers' matrices, for one token of a prompt; no attention, no head
    embed_bytes: int  # the embedding where it is not the head: one row a token, read in place

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Costs:
        tensors = checkpoint.tensors
        head = tensors.get("head.weight", tensors["embed.weight"])
        layers = [tensor for name, tensor in tensors.items() if name.startswith("layers.")]
        tied = "head.weight" not in tensors
        return cls(
            file_bytes=sum(tensor.num_bytes for tensor in tensors.values()),
            matrix_bytes=sum(tensor.num_bytes for tensor in layers) + head.num_bytes,
            head_bytes=head.num_bytes,
            prefill_macs=sum(prod(t.shape) for t in layers if len(t.shape) == 2),
            embed_bytes=0 if tied else tensors["embed.weight"].num_bytes,
        )
