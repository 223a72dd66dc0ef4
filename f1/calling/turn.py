"""One assistant turn: the machine that says which tokens may follow and what they mean.

The same description (`Form`) drives both directions, so whatever is sampled is parsed:

    text ──a call opens──▶ head ──name──▶ arguments ──next──▶ head …
      │                                       └──close──▶ end
    content (a response format)
"""

from __future__ import annotations

import codecs
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

import orjson

from f1.calling.ahead import STRING_MATCH, TEXT_MATCH, rows_in_segment, rows_in_text
from f1.calling.family import Family, elements, pieces
from f1.calling.forced import CONTEXT_BYTES, forced_tokens
from f1.calling.grammar import Grammars, Segment, TokenMask
from f1.calling.opening import Opened, Opening
from f1.calling.scanner import Closer, JsonScanner
from f1.calling.schema import validate_arguments
from f1.calling.text import ContentStream
from f1.calling.vocabulary import Vocabulary
from f1.errors import ConstraintError
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    GenerateRequest,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
)

MAX_CALLS = 32

TurnEvent = TextDelta | CallBegun | ArgumentsDelta | CallDelta
State = Literal["text", "content", "either", "head", "middle", "arguments", "ended"]


class Turn:
    """Decodes one choice: `mask()` before each token, `accept()` and `force()` after it, `finish()`
    last."""

    def __init__(
        self,
        request: GenerateRequest,
        family: Family,
        grammars: Grammars,
        vocabulary: Vocabulary,
        *,
        choice: int,
        max_tokens: int,
    ):
        mode = request.tool_choice.mode
        self._tools: Mapping[str, Tool] = {tool.name: _held_to(tool) for tool in request.tools}
        self._eager = request.eager_arguments
        self._shown_tools = bool(request.tools)
        self._may_call = self._shown_tools and mode != "none"
        self._single = not request.parallel_tool_calls or mode == "named"
        self._grammars = grammars
        self._vocabulary = vocabulary
        self._choice = choice
        self._max_tokens = self._remaining = max_tokens
        self._form = family.form
        self._forms = family.forms
        self._opening = Opening(family.forms if self._may_call else (), list(self._tools))
        self._content = ContentStream(request.stop, hold_whitespace=self._may_call)
        self._scanner = JsonScanner()
        self._json = request.response_format.kind in ("json_object", "json_schema")
        self._segment: Segment | None = None  # None: any text
        self._alternative: Segment | None = (
            None  # the call that may still stand in place of content
        )
        # A request for logprobs wants one of the model for every token.
        forces = request.sampling.num_logprobs is None
        self._canonical = vocabulary.canonical if forces else None
        self._tail = b""  # what was read last
        self._buffer = b""  # what the current segment has read, arguments apart
        self._arguments = b""
        self._pieces = codecs.getincrementaldecoder("utf-8")("replace")  # of eager arguments
        self._call_id = ""
        self._tool: Tool | None = None
        self._last = False  # no call may follow the current one
        self._bounded = False
        self._calls: list[ToolCall] = []
        self._events: list[TurnEvent] = []
        self._logprobs: list[TokenLogprob] = []
        self._state: State = "text"
        self.prefix = ""  # text the turn begins with, settled before any token is sampled
        if self._may_call and mode in ("required", "named"):
            self._force(request.tool_choice.name)
        elif request.response_format.kind != "text":
            self._enter("content", grammars.content(request.response_format))
            if self._may_call:
                self._state = "either"
                self._alternative = grammars.head(self._form, self._tools, opened="")

    def spend_prefix(self, num_tokens: int) -> None:
        """The prefix is part of the completion: it takes this much of the token budget."""
        self._max_tokens -= num_tokens
        self._remaining -= num_tokens
        self._tail = self.prefix.encode()

    @property
    def ended(self) -> bool:
        """Nothing more needs to be sampled."""
        return self._state == "ended"

    @property
    def reason(self) -> Literal["stop", "tool_calls"]:
        """Why the turn ended, if it was not cut."""
        return "tool_calls" if self._calls else "stop"

    @property
    def stop(self) -> str | None:
        """The stop string that ended the content."""
        return self._content.stop

    def mask(self) -> TokenMask:
        """The legal next tokens; valid until the next call."""
        if self._segment is None:
            vocabulary = self._vocabulary
            if self._may_call:
                return vocabulary.call_text_mask
            # A model that was shown tools would write its call as text where it must not call.
            begins = self._shown_tools and self._remaining == self._max_tokens
            return vocabulary.no_call_mask if begins else vocabulary.text_mask
        mask = self._segment.mask()
        if self._alternative is not None:
            return mask | self._alternative.mask()
        closer = self._overdue()
        narrowed = closer and self._grammars.narrowed(mask, closer)
        if narrowed is not None:
            self._bounded = self._bounded or not _same(narrowed, mask)
            return narrowed
        return mask

    @property
    def draft_match(self) -> int:
        """How many of the last tokens must have stood together before, for those that followed them
        to be worth a try; 0: none is."""
        if self._state == "text" or (self._state == "content" and not self._json):
            return TEXT_MATCH
        if self._state not in ("content", "arguments"):
            return 0
        num_tokens = self._scanner.string_tokens(self._remaining) or 0
        return STRING_MATCH if num_tokens >= STRING_MATCH else 0

    def masks(self, draft: Sequence[int]) -> TokenMask:
        """[rows, words]: row 0 is `mask()`, row i what is legal behind the i-th draft. Ends before
        the first draft that is not legal, and where only the token itself can tell. For turns with
        a `draft_match`."""
        first, token_bytes = self.mask(), self._vocabulary.token_bytes
        if self._segment is None:
            vocabulary = self._vocabulary
            behind = vocabulary.call_text_mask if self._may_call else vocabulary.text_mask
            return rows_in_text(first, behind, draft, token_bytes, self._opening)
        return rows_in_segment(
            first,
            draft,
            token_bytes,
            self._segment,
            self._scanner if self._json or self._state == "arguments" else None,
            self._remaining,
            self._tail,
            self._canonical,
        )

    def accept(self, token_id: int, logprob: TokenLogprob | None = None) -> list[TurnEvent]:
        """Takes the sampled token (never the one that ends the turn); returns what it completes."""
        self._remaining -= 1
        if logprob is not None and self._state in ("text", "content", "either"):
            self._logprobs.append(logprob)
        self._take(token_id)
        return self._take_events()

    def force(self) -> tuple[list[int], list[TurnEvent]]:
        """Takes the tokens that follow now whatever the model says, perhaps none; returns them and
        what they complete. At least one token of the budget is left to be sampled."""
        taken: list[int] = []
        if self._segment is None:
            return taken, []
        while self._may_force() and self._segment is not None and self._canonical is not None:
            segment = self._segment
            for token_id in forced_tokens(segment, self._tail, self._canonical):
                if not self._may_force():
                    break
                self._remaining -= 1
                self._take(token_id)
                taken.append(token_id)
            if self._segment is segment:
                break  # that was all of this one
        return taken, self._take_events() if self._events else []

    def finish(self) -> list[TurnEvent]:
        """No more tokens come (the model ended its turn, or it was cut). Releases the text held
        back; half a call is no call."""
        if self._state == "text":
            self._emit(self._content.push(self._opening.flush()))
        elif self._state == "either":
            self._emit(self._content.push(self._buffer))
        if self._state in ("text", "content", "either"):
            self._emit(self._content.end())
        self._state = "ended"
        return self._take_events()

    # --- the machine ---------------------------------------------------------------------------

    def _force(self, name: str | None) -> None:
        self.prefix = self._form.open
        if name is None:
            self._enter("head", self._grammars.head(self._form, self._tools, opened=None))
        else:
            self.prefix += f' "{name}"{self._form.arguments}'
            self._begin_arguments(name)

    def _enter(self, state: State, segment: Segment) -> None:
        self._state, self._segment, self._buffer = state, segment, b""

    def _may_force(self) -> bool:
        ended = self._segment is None or self._state == "ended"
        if ended or self._alternative is not None or self._remaining <= 1:
            return False
        return self._overdue() is None  # what must be closed is closed first

    def _overdue(self) -> Closer | None:
        if self._json or self._state == "arguments":
            return self._scanner.overdue(self._remaining)
        return None

    def _take(self, token_id: int) -> None:
        data = self._vocabulary.token_bytes[token_id]
        self._tail = (self._tail + data)[-CONTEXT_BYTES:]
        if self._segment is not None:
            self._advance(token_id, self._segment)
        self._read(data)

    def _advance(self, token_id: int, segment: Segment) -> None:
        """Moves the grammar on. Between content and a call, the one that refuses is out."""
        accepted = segment.accept(token_id)
        if self._alternative is not None:
            if not self._alternative.accept(token_id):
                self._state, self._alternative = "content", None
                self._read(self._buffer)
            elif not accepted:
                self._state, self._segment, self._alternative = "head", self._alternative, None
                accepted = True
        if not accepted:
            raise ConstraintError(f"the grammar refused token {token_id}, which it had allowed")

    def _read(self, data: bytes) -> None:
        match self._state:
            case "text":
                text, opened = self._opening.push(data)
                self._emit(self._content.push(text))
                if opened is not None and not self._content.stopped:
                    self._open(opened)
                if self._content.stopped:
                    self._state = "ended"
            case "content":
                self._emit(self._content.push(data))
                if self._json:
                    self._scanner.feed(data, self._remaining)
                if self._content.stopped or (self._json and self._scanner.done):
                    self._emit(self._content.end())
                    self._state = "ended"
            case "either":
                self._buffer += data
            case "head" | "middle":
                self._buffer += data
                if self._segment is not None and self._segment.complete:
                    self._begin_arguments(self._read_name())
            case "arguments":
                self._read_arguments(data)

    def _open(self, opened: Opened) -> None:
        segment = self._continue_call(opened, freely=False)
        segment = segment or self._continue_call(opened, freely=True)
        if segment is None:  # it only began like a call: the rest of the token cannot continue one
            self._emit(self._content.push(opened.text))
            return
        self._emit(self._content.end_before_call())
        self._logprobs.clear()
        self._form = opened.form
        self._tool = None if opened.name is None else self._tools[opened.name]
        self._enter("head" if opened.name is None else "middle", segment)
        self._read(opened.rest)

    def _continue_call(self, opened: Opened, *, freely: bool) -> Segment | None:
        """The segment behind a call's beginning; None where what was read is no part of it."""
        form, grammars = opened.form, self._grammars
        if opened.name is None:
            segment = grammars.head(form, self._tools, opened=form.marker, freely=freely)
        else:
            segment = grammars.middle(form, freely=freely)
        return segment if not opened.rest or segment.accept_bytes(opened.rest) else None

    def _read_name(self) -> str:
        if self._state == "middle" and self._tool is not None:
            return self._tool.name
        quoted: list[str] = re.findall(r'"([^"]*)"', self._buffer.decode())
        behind = self._form.arguments.count('"') // 2  # quoted, too, but no name
        return quoted[-1 - behind]

    def _begin_arguments(self, name: str) -> None:
        self._tool = self._tools[name]
        self._last = self._single or len(self._calls) + 1 >= MAX_CALLS
        segment = self._grammars.arguments(self._form, self._tool, last=self._last)
        self._enter("arguments", segment)
        self._scanner = JsonScanner()
        self._arguments = b""
        self._bounded = False
        self._call_id = f"call_{secrets.token_hex(12)}"
        if self._eager:
            self._pieces.reset()
            self._events.append(CallBegun(self._choice, len(self._calls), self._call_id, name))

    def _read_arguments(self, data: bytes) -> None:
        if not self._scanner.done:
            used = self._scanner.feed(data, self._remaining)
            self._take_arguments(data[:used])
            data = data[used:]
            if not self._scanner.done:
                return
            if not self._close_call():
                self._state = "ended"
                return
        self._buffer += data
        closed = _follows(self._form.close).fullmatch(self._buffer)
        if closed and (self._last or not _begins(self._form.next, self._form.close)):
            self._state = "ended"  # nothing else may follow
        elif not self._last and _follows(self._form.next).fullmatch(self._buffer):
            self._enter("head", self._grammars.head(self._form, self._tools, opened=None))

    def _take_arguments(self, data: bytes) -> None:
        if not self._arguments:
            data = data.lstrip()
        self._arguments += data
        if self._eager and (piece := self._pieces.decode(data)):
            self._events.append(ArgumentsDelta(self._choice, len(self._calls), piece))

    def _close_call(self) -> bool:
        """Releases the call just closed. False: it repeats an earlier one, which ends the turn. (An
        eager one has been told of already, so that it is released all the same.)"""
        if self._tool is None:
            raise ConstraintError("arguments ended outside a call")
        arguments = self._arguments.decode("utf-8", "replace")
        if (wrong := validate_arguments(self._tool, arguments)) is not None:
            message = (
                f"the model's call of {self._tool.name!r} does not satisfy its schema: {wrong}"
            )
            raise ConstraintError(message, code="invalid_tool_call")
        repeated = any(_identical(call, self._tool.name, arguments) for call in self._calls)
        if not repeated or self._eager:
            call = ToolCall(self._call_id, self._tool.name, arguments)
            self._events.append(CallDelta(self._choice, len(self._calls), call, self._bounded))
            self._calls.append(call)
        return not repeated

    # --- what comes out ------------------------------------------------------------------------

    def _emit(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(self._choice, text, tuple(self._logprobs)))
            self._logprobs.clear()

    def _take_events(self) -> list[TurnEvent]:
        events, self._events = self._events, []
        return events


def _held_to(tool: Tool) -> Tool:
    """The tool with the schema that its calls must satisfy."""
    return tool if tool.strict else replace(tool, parameters={"additionalProperties": True})


def _identical(call: ToolCall, name: str, arguments: str) -> bool:
    return call.name == name and _canonical(call.arguments) == _canonical(arguments)


def _canonical(arguments: str) -> bytes:
    return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS)


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


def _same(left: TokenMask, right: TokenMask) -> bool:
    return bool((left == right).all())
