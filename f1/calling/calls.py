"""The calls of one turn, from where the first begins to what closes the last.

open ──▶ head ──name──▶ arguments ──next──▶ head …
         middle ───────────▲    └──close──▶ ended
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

from f1.calling.again import Broken
from f1.calling.deciding import Options, call_texts
from f1.calling.family import Family, elements, pieces
from f1.calling.grammar import Grammars, Segment, TokenMask
from f1.calling.needed import Shortest
from f1.calling.opencall import OpenCall, identical
from f1.calling.opening import Opened
from f1.calling.schema import held_to, validate_arguments
from f1.types import ArgumentsDelta, CallBegun, CallDelta, GenerateRequest, Relaxed, Tool, ToolCall

MAX_CALLS = 32

CallEvent = CallBegun | ArgumentsDelta | CallDelta
# `middle`: the name was found by the opening; `closing`: arguments are read, `buffer` has the rest.
State = Literal["head", "middle", "arguments", "closing", "ended"]


class Calls:
    """Reads what a grammar lets through; the caller moves `segment` on, byte for byte with it."""

    def __init__(
        self,
        request: GenerateRequest,
        family: Family,
        grammars: Grammars,
        *,
        choice: int,
        after: Broken | None,
    ):
        self.tools: Mapping[str, Tool] = {tool.name: held_to(tool) for tool in request.tools}
        self.made: list[ToolCall] = list(after.calls) if after else []
        self.bounded: list[int] = list(after.bounded) if after else []
        self.segment: Segment | None = None  # under which is read now
        self.open: OpenCall | None = None  # the call whose arguments are read now
        self.broken: tuple[OpenCall, str] | None = None  # the last, and what is wrong with it
        self._grammars = grammars
        self._form = family.form
        self._choice = choice
        self._eager = request.eager_arguments
        named = request.tool_choice.mode == "named"
        self._single = named or not request.parallel_tool_calls
        self._last = False  # no call may follow the current one
        self._tool: Tool | None = None  # whose name the opening has found
        self._lead = ""  # in front of the name that is to come
        self._buffer = b""  # what the segment has read, arguments apart
        self._state: State = "head"
        self.relaxed: dict[Relaxed, None] = {}  # of the tools called, in the order met

    @property
    def ended(self) -> bool:
        return self._state == "ended"

    @property
    def inside(self) -> bool:
        """Whether a call has begun that is not read yet."""
        return self._state in ("head", "middle", "arguments")

    # --- how the first begins ------------------------------------------------------------------

    def force(self, name: str | None) -> tuple[str, list[CallEvent]]:
        """The text that begins a call, of the tool `name` if there is one."""
        if name is None:
            self._begin_head()
            return self._form.open, []
        return f'{self._form.open} "{name}"{self._form.arguments}', self._begin_arguments(name)

    def whole(self) -> Segment:
        """Under which a call may be read from its very beginning; go_on() if it is."""
        return self._grammars.head(self._form, self.tools, opened="")

    def go_on(self, segment: Segment, read: bytes) -> None:
        """What was `read` under whole() is a call."""
        self._enter("head", segment)
        self._buffer, self._lead = read, self._form.open

    def begin(self, opened: Opened) -> bool:
        """A call has been found in text; `opened.rest` is to be read. False: what was read cannot
        go on as one."""
        segment = self._behind(opened, freely=False) or self._behind(opened, freely=True)
        if segment is None:
            return False
        self._form = opened.form
        self._lead = opened.form.open[len(opened.form.marker) :]
        self._tool = None if opened.name is None else self.tools[opened.name]
        self._enter("head" if opened.name is None else "middle", segment)
        return True

    def _behind(self, opened: Opened, *, freely: bool) -> Segment | None:
        """The segment behind a call's beginning; None where what was read is no part of it."""
        form, grammars = opened.form, self._grammars
        if opened.name is None:
            segment = grammars.head(form, self.tools, opened=form.marker, freely=freely)
        else:
            segment = grammars.middle(form, freely=freely)
        return segment if not opened.rest or segment.accept_bytes(opened.rest) else None

    # --- reading -------------------------------------------------------------------------------

    def read(self, data: bytes, remaining: int) -> list[CallEvent]:
        """Reads on, with `remaining` tokens of budget left; returns what it completes."""
        if self._state == "arguments" and self.open is not None:
            return self._read_arguments(self.open, data, remaining)
        self._buffer += data
        if self._state == "closing":
            self._read_closing()
        elif self.segment is not None and self.segment.complete:
            return self._begin_arguments(self._read_name())
        return []

    def _enter(self, state: State, segment: Segment) -> None:
        self._state, self.segment, self._buffer = state, segment, b""

    def _begin_head(self) -> None:
        self._lead = ""
        self._enter("head", self._grammars.head(self._form, self.tools, opened=None))

    def _read_name(self) -> str:
        if self._state == "middle" and self._tool is not None:
            return self._tool.name
        quoted: list[str] = re.findall(r'"([^"]*)"', self._buffer.decode())
        behind = self._form.arguments.count('"') // 2  # quoted, too, but no name
        return quoted[-1 - behind]

    def _begin_arguments(self, name: str) -> list[CallEvent]:
        tool = self.tools[name]
        self._last = self._single or len(self.made) + 1 >= MAX_CALLS
        self._enter("arguments", self._grammars.arguments(self._form, tool, last=self._last))
        self.relaxed |= dict.fromkeys(self._grammars.relaxed(tool))
        self.open = OpenCall(tool, choice=self._choice, index=len(self.made))
        return [self.open.begun()] if self._eager else []

    def _read_arguments(self, call: OpenCall, data: bytes, remaining: int) -> list[CallEvent]:
        told, behind = call.feed(data, remaining)
        events: list[CallEvent] = [*told] if self._eager else []
        if call.scanner.done:
            self._state, self.open = "closing", None
            events += self._close(call)
            if not self.ended:
                self._buffer = behind
                self._read_closing()
        return events

    def _close(self, call: OpenCall) -> list[CallEvent]:
        """Releases the call just read. Ends the turn with it if it is invalid, or repeats an
        earlier one. (Eagerly told, a repeat is released all the same.)"""
        if (wrong := validate_arguments(call.tool, call.arguments)) is not None:
            self.broken = call, wrong
            self._state = "ended"
            return []
        closed = call.closed()
        if any(identical(earlier, closed.call) for earlier in self.made):
            self._state = "ended"
            if not self._eager:
                return []
        self.bounded += [closed.index] if closed.bounded else []
        self.made.append(closed.call)
        return [closed]

    def _read_closing(self) -> None:
        closed = _follows(self._form.close).fullmatch(self._buffer)
        if closed and (self._last or not _begins(self._form.next, self._form.close)):
            self._state = "ended"  # nothing else may follow
        elif not self._last and _follows(self._form.next).fullmatch(self._buffer):
            self._begin_head()

    # --- what is decided -----------------------------------------------------------------------

    @property
    def name(self) -> str | None:
        """Of the call that is read, once it is known."""
        if self._state == "middle" and self._tool is not None:
            return self._tool.name
        return None if self.open is None else self.open.tool.name

    @property
    def options(self) -> Options | None:
        """What the next token may decide."""
        if self._state == "head":
            names = tuple(self.tools)
            return Options("tool", names, call_texts(self._form, self._lead, names), self._buffer)
        if self._state == "closing" and not self._last:
            texts = (self._form.next.encode(), self._form.close.encode())
            return Options("call", ("call", "end"), texts, self._buffer, ends="end")
        return None

    # --- the shortest way out ------------------------------------------------------------------

    def shortest(self, mask: TokenMask, way: Shortest) -> int | None:
        """The next token on the way to the end of the call; None: there is none."""
        if self.open is not None:
            return way.in_json(mask, self.open.scanner)
        if self._state == "closing":
            return way.towards(mask, self._form.close.encode()[len(self._buffer) :])
        return way.longest(mask)


@cache
def _follows(text: str) -> re.Pattern[bytes]:
    """What the grammar lets stand for `text` behind a call's arguments."""
    parts = [p if p.isspace() else r"\s*" + re.escape(p) for p in pieces(text)]
    return re.compile("".join(parts).encode())


@cache
def _begins(text: str, beginning: str) -> bool:
    """Whether `text` begins so, white space apart."""
    parts = elements(beginning)
    return elements(text)[: len(parts)] == parts
