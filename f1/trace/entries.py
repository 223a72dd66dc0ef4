"""What is written down of a run, in order. One record serves all: it is the trace that people read,
the journal that an interrupted run goes on from, and what a replay or a fork is fed.

    Began ─▶ Shown ─▶ Turned ─▶ Called ─▶ Launched ─▶ Done ─▶ … ─▶ Ended
                        │          └▶ Asked ─▶ Decided ─▶ Launched …      │
                        └ the model's own words            HandedOver ─▶ Returned ─▶ …

A run is rebuilt by deciding all over again with the same strategy: models say what they said, tools
bring what they brought, until the record ends. Then it goes on in earnest.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from f1.codec import Codec
from f1.types import (
    Approval,
    Choosing,
    Ending,
    Event,
    GenerateRequest,
    JsonSchema,
    Message,
    Node,
    Selected,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    Verdict,
)

# --- where a value came from ---------------------------------------------------------------------

Source = Literal[
    "user",  # a span of what the user said
    "system",  # of the system message
    "assistant",  # of what the model told the user before
    "result",  # a field, or a span, of what a tool returned
    "schema",  # a default, or a value that the tool's schema lists
    "reference",  # put in by a reference of the plan: `path` of the result of `call_id`
    "person",  # an edit of an approval
    "model",  # said nowhere: the model's own
]


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one value in a call's arguments. `start` and `end` are characters of the message
    `message`; `call_id` and `field` say which result and where in it. Of the schema `field` is
    "default" or "enum"; of a reference `text` is how people see it."""

    path: str  # in the arguments: "to", "items[0].price"
    source: Source
    message: int | None = None  # index in the conversation as the model read it
    start: int | None = None
    end: int | None = None
    call_id: str = ""
    field: str = ""  # "flights[2].price"
    text: str = ""  # what stood there, where it is not spelled as the value is


# --- entries -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Defined:
    """A tool as it was when the run used it: one of ours, for the caller's are in its request."""

    tool: Tool
    runs_here: bool
    read_only: bool
    destructive: bool
    idempotent: bool
    output: JsonSchema | None = None


@dataclass(frozen=True, slots=True)
class Began:
    """`models`: who does what, by role; `session`: how many messages of the request were kept
    here."""

    request: GenerateRequest
    models: Mapping[str, str]
    version: str  # of F1
    session: int = 0
    forked_from: str = ""  # the run, and after its `#` how many entries were taken over
    kind: Literal["run", "turn"] = "run"  # "turn": one turn of the model was all there was to it


@dataclass(frozen=True, slots=True)
class Shown:
    """What the model was shown before a step: `tools` by name. `defined`: those of ours that stand
    in no entry before; `left`: the conversation, where `dropped` messages of it did not fit."""

    step: int
    tools: tuple[str, ...]
    selected: tuple[Selected, ...] = ()
    num_tools: int = 0
    shown_at: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    defined: tuple[Defined, ...] = ()
    dropped: int = 0
    left: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Turned:
    """A turn of a model: all its events, one after the other. `asked`: what of the request was not
    the run's own; `prompt_ids` begins behind the first `shared` tokens of the run's prompt before;
    ids are packed (`unpack_ids`). Not `whole`: it was interrupted, or left, after these events, or
    is written once more when it is. The last of a `number` counts."""

    number: int  # from 0; people are told it from 1
    step: int
    role: str
    key: str  # of what was asked: a replay gives this turn to who asks the same
    events: tuple[Event, ...]
    seconds: float
    usage: Usage
    first: float | None = None  # seconds to the first event
    whole: bool = True
    shared: int = 0
    prompt_ids: bytes | None = None
    token_ids: tuple[bytes, ...] = ()  # by choice
    choosing: tuple[tuple[Choosing, ...], ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)  # tool_choice, n, tools, format, …


@dataclass(frozen=True, slots=True)
class Called:
    """The plan grew by a node. `origins`: of the values in its arguments, in their order."""

    step: int
    node: Node
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A person has to allow it."""

    approval: Approval


@dataclass(frozen=True, slots=True)
class Decided:
    """By `who` (a tenant, or "expired"); a verdict is used once."""

    approval_id: str
    verdict: Verdict
    who: str


@dataclass(frozen=True, slots=True)
class Launched:
    """The call is about to run: this is written before it does. `key`: its idempotency key."""

    node_id: str
    call: ToolCall
    key: str
    repeatable: bool
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a call."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Calls went back to the caller. `added`: what the run had added to the conversation, which the
    caller has not."""

    calls: tuple[ToolCall, ...]
    added: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Returned:
    """The caller came back with their results."""

    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class Noted:
    text: str


RunEnding = Ending | Literal["failed", "left"]  # by an error; by its caller


@dataclass(frozen=True, slots=True)
class Ended:
    """`text`: the answer; `error`: what broke it off, for a person."""

    ending: RunEnding
    text: str
    usage: Usage
    seconds: float
    error: str = ""


Entry = (
    Began | Shown | Turned | Called | Asked | Decided | Launched | Done | HandedOver | Returned
    | Noted | Ended
)  # fmt: skip
ENTRIES: tuple[type, ...] = (
    Origin, Defined, Began, Shown, Turned, Called, Asked, Decided, Launched, Done, HandedOver,
    Returned, Noted, Ended,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """An entry where it stands."""

    seq: int  # from 0
    at: float  # seconds since 1970
    entry: Entry


CODEC = Codec(ENTRIES)


def pack_ids(ids: Sequence[int]) -> bytes:
    """32 bits each, the low byte first."""
    packed = array("i", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(packed: bytes) -> list[int]:
    ids = array("i", packed)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()
