"""Fits a long conversation into the context, openly: whole turns go, the oldest first, and both the
model and the caller are told how many messages are missing.

    system · [turn 1 · turn 2 · … · turn k] · turn k+1 · … · the last turn      a turn begins with
             left out, k a multiple of 8                                        a user's message

Tools, system messages and the last turn stay. Turns go in eights, so that the prompts of the next
requests begin as this one does, and what was computed for it serves them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from f1.types import GenerateRequest, Message

_AT_ONCE = 8  # turns
_OVERHEAD = 4096  # tokens, and more than any family takes
_SHARE_FOR_ANSWER = 8  # one part of so many, where the request does not say


@runtime_checkable
class Measuring(Protocol):
    """An engine that can say how long prompts are."""

    @property
    def context_length(self) -> int | None:
        """None: it is not known yet."""

    async def tokenize(self, request: GenerateRequest) -> list[int]:
        """The tokens of the request's prompt."""


async def compacted(request: GenerateRequest, engine: object) -> tuple[GenerateRequest, int]:
    """The request, fitting as far as it can be made to, and how many messages were left out. Where
    the last turn alone does not fit, nothing is left out: the engine says so with the numbers."""
    if not isinstance(engine, Measuring) or request.prompt is not None:
        return request, 0
    if (room := engine.context_length) is None:
        return request, 0
    room -= request.max_tokens if request.max_tokens is not None else room // _SHARE_FOR_ANSWER
    # No token is shorter than a byte; a family's own words and marks come to the rest.
    num_bytes = sum(len(message.content.encode()) for message in request.messages)
    num_bytes += sum(len(call.arguments) for m in request.messages for call in m.tool_calls)
    num_bytes += sum(len(str(tool.parameters)) + len(tool.description) for tool in request.tools)
    if num_bytes + 16 * len(request.messages) + _OVERHEAD < room:
        return request, 0
    system, turns = _turns(request.messages)

    async def fits(candidate: GenerateRequest) -> bool:
        return len(await engine.tokenize(candidate)) <= room

    if await fits(request):
        return request, 0
    first, last = 1, -(-(len(turns) - 1) // _AT_ONCE)  # in eights
    while first < last:  # the fewest that have to go
        middle = (first + last) // 2
        if await fits(_without(request, system, turns, middle * _AT_ONCE)[0]):
            last = middle
        else:
            first = middle + 1
    shorter, dropped = _without(request, system, turns, first * _AT_ONCE)
    return (shorter, dropped) if dropped and await fits(shorter) else (request, 0)


def _turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages that lead, and the rest in turns."""
    num_system = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    turns: list[list[Message]] = [[]]
    for message in messages[num_system:]:
        if message.role == "user" and turns[-1]:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:num_system]), turns


def _without(
    request: GenerateRequest, system: list[Message], turns: list[list[Message]], num: int
) -> tuple[GenerateRequest, int]:
    num = min(num, len(turns) - 1)
    dropped = sum(map(len, turns[:num]))
    note = f"({dropped} earlier messages of this conversation did not fit and are not shown.)"
    told = Message("system", "\n".join([*(m.content for m in system), note]))
    kept = [message for turn in turns[num:] for message in turn]
    # The tools that were shown with what is left out are shown with what follows it.
    shown_at: dict[int, tuple[str, ...]] = {}
    for place, names in sorted(request.shown_at.items()):
        moved = max(place - len(system) - dropped, 0) + 1
        shown_at[moved] = (*shown_at.get(moved, ()), *names)
    return replace(request, messages=(told, *kept), shown_at=shown_at), dropped
