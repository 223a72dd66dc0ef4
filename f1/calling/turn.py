"""One assistant turn: the machine that says which tokens may follow and what they mean.

The same description (`Form`) drives both directions, so whatever is sampled is parsed:

    text ──a call opens──▶ head ──name──▶ arguments ──next──▶ head …
      │                                       └──close──▶ end
    content (a response format)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

from f1.calling.again import Broken
from f1.calling.ahead import STRING_MATCH, TEXT_MATCH, rows_in_segment, rows_in_text
from f1.calling.answer import Answer
from f1.calling.family import Family, elements, pieces
from f1.calling.forced import CONTEXT_BYTES, forced_tokens
from f1.calling.grammar import Grammars, Segment, TokenMask
from f1.calling.loops import LoopGuard
from f1.calling.needed import MAX_STEPS, Shortest
from f1.calling.opencall import OpenCall, identical
from f1.calling.opening import Opened, Opening
from f1.calling.scanner import Closer, JsonScanner
from f1.calling.schema import validate_arguments
from f1.calling.thought import Reasoning, Thought
from f1.calling.vocabulary import Vocabulary
from f1.errors import ConstraintError
from f1.types import (
    ArgumentsDelta,
    CallBegun,
    CallDelta,
    GenerateRequest,
    ReasoningDelta,
    Relaxed,
    Report,
    ResponseFormat,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
)

MAX_CALLS = 32

_ENDLESS = 1 << 30  # tokens of budget

TurnEvent = TextDelta | ReasoningDelta | CallBegun | ArgumentsDelta | CallDelta
State = Literal["thought", "text", "content", "either", "head", "middle", "arguments", "ended"]


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
        prompt_end: bytes = b"",
        after: Broken | None = None,
    ):
        """`prompt_end`: the last bytes of the prompt, which may open a thought. `after`: what an
        earlier turn wrote amiss; this one writes it anew, and goes on."""
        mode = request.tool_choice.mode
        self._tools: Mapping[str, Tool] = {tool.name: held_to(tool) for tool in request.tools}
        self._eager = request.eager_arguments
        self._shown_tools = bool(request.tools)
        self._may_call = self._shown_tools and mode != "none"
        self._single = not request.parallel_tool_calls or mode == "named"
        self._grammars = grammars
        self._vocabulary = vocabulary
        self._choice = choice
        self._budget = self._max_tokens = self._remaining = max_tokens
        self._after = after
        self.broken: Broken | None = None  # how the turn ended, if it is to be asked again
        self._cut = False  # inside a call
        self._loop = LoopGuard()
        self.looped = False  # it says the same for ever and is to be cut
        self._form = family.form
        self._forms = family.forms
        self._opening = Opening(family.forms if self._may_call else (), list(self._tools))
        self._answer = Answer(request, choice, may_call=self._may_call)
        self._thought: Thought | None = None
        self._scanner = JsonScanner()  # of content
        self._format = request.response_format
        self._json = self._format.kind in ("json_object", "json_schema")
        self._relaxed: dict[Relaxed, None] = {}  # in the order met
        self._segment: Segment | None = None  # None: any text
        self.awaited: Segment | None = None  # what force() did not find ready
        self._alternative: Segment | None = (
            None  # the call that may still stand in place of content
        )
        # A request for logprobs wants one of the model for every token.
        forces = request.sampling.num_logprobs is None
        self._canonical = vocabulary.canonical if forces else None
        self._tail = b""  # what was read last
        self._buffer = b""  # what the current segment has read, arguments apart
        self._tool: Tool | None = None
        self._call: OpenCall | None = None
        self._last = False  # no call may follow the current one
        self._calls: list[ToolCall] = list(after.calls) if after else []
        self._bounded: list[int] = list(after.bounded) if after else []
        self._events: list[TurnEvent] = []
        self._state: State = "text"
        self._fresh = True  # no text was read yet
        self.prefix = ""  # text the turn begins with, settled before any token is sampled
        # What goes on with a raw prompt is its text, thoughts and all.
        self._begin(request, family.reasoning if request.prompt is None else None, prompt_end)

    def _begin(
        self, request: GenerateRequest, reasoning: Reasoning | None, prompt_end: bytes
    ) -> None:
        """A turn that is forced into a call or a format does not think."""
        mode, after = request.tool_choice.mode, self._after
        must_call = self._may_call and mode in ("required", "named")
        if reasoning is not None and (must_call or after or self._format.kind != "text"):
            self.prefix = reasoning.skipped(prompt_end)
        elif reasoning is not None:
            self._thought = Thought(reasoning, inside=reasoning.opened_in(prompt_end))
            self._state = "thought"
        if after is not None and after.tool is not None:
            self._force(after.tool.name)
        elif must_call:
            self._force(request.tool_choice.name)
        elif self._format.kind != "text":
            self._enter("content", self._grammars.content(self._format))
            self._relax(self._format)
            self._answer.holds = bool(self._relaxed)
            if self._may_call:
                self._state = "either"
                self._alternative = self._grammars.head(self._form, self._tools, opened="")

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
        return self._answer.stop

    def mask(self) -> TokenMask:
        """The legal next tokens; valid until the next call."""
        if self._segment is None:
            return self._free_mask()
        mask = self._segment.mask()
        if self._alternative is not None:
            return mask | self._alternative.mask()
        if (
            self._number_is_full()
            and (ends := self._grammars.narrowed(mask, Closer.NON_DIGIT)) is not None
        ):
            if self._call is not None:
                self._call.bounded = self._call.bounded or not _same(ends, mask)
            return ends
        return mask

    def _free_mask(self) -> TokenMask:
        vocabulary = self._vocabulary
        if self._may_call or (self._thought is not None and self._thought.inside):
            return vocabulary.call_text_mask
        # A model that was shown tools would write its call as text where it must not call.
        begins = self._shown_tools and self._fresh
        return vocabulary.no_call_mask if begins else vocabulary.text_mask

    @property
    def draft_match(self) -> int:
        """How many of the last tokens must have stood together before, for those that followed them
        to be worth a try; 0: none is."""
        if self._thought is not None:
            return TEXT_MATCH if self._thought.inside else 0
        if self._state == "text" or (self._state == "content" and not self._json):
            return TEXT_MATCH
        if self._state not in ("content", "arguments") or self.awaited is not None:
            return 0
        scanner = self._json_scanner()
        num_tokens = (scanner and scanner.string_tokens(self._remaining)) or 0
        return STRING_MATCH if num_tokens >= STRING_MATCH else 0

    def masks(self, draft: Sequence[int]) -> TokenMask:
        """[rows, words]: row 0 is `mask()`, row i what is legal behind the i-th draft. Ends before
        the first draft that is not legal, and where only the token itself can tell. For turns with
        a `draft_match`."""
        first, token_bytes = self.mask(), self._vocabulary.token_bytes
        if self._segment is None:
            thinks = self._thought is not None
            behind = first if self._may_call or thinks else self._vocabulary.text_mask
            reader = self._thought or self._opening
            return rows_in_text(first, behind, draft, token_bytes, reader)
        return rows_in_segment(
            first,
            draft,
            token_bytes,
            self._segment,
            self._json_scanner(),
            self._remaining,
            self._tail,
            self._canonical,
        )

    def accept(self, token_id: int, logprob: TokenLogprob | None = None) -> list[TurnEvent]:
        """Takes the sampled token (never the one that ends the turn); returns what it completes."""
        self._remaining -= 1
        if logprob is not None and self._state in ("thought", "text", "content", "either"):
            self._answer.note(logprob)
        self._take(token_id)
        return self._take_events()

    def force(self) -> tuple[list[int], list[TurnEvent]]:
        """Takes the tokens that follow now whatever the model says, perhaps none; returns them and
        what they complete. At least one token of the budget is left to be sampled. Stops where a
        segment is not ready, which is then `awaited`: nothing is sampled before force() again."""
        taken: list[int] = []
        self.awaited = None
        if self._segment is None or self._awaits():
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

    def finish(self, *, cut: bool = False) -> list[TurnEvent]:
        """No more tokens come: the model ended its turn, or it was `cut`. Releases the text held
        back; half a call is no call."""
        if self._thought is not None:
            thought, text = self._thought.flush()
            self._end_thought(thought, text)
        if self._state == "text":
            self._events += self._answer.push(self._opening.flush())
        elif self._state == "either":
            self._events += self._answer.push(self._buffer)
        if self._state in ("text", "content", "either"):
            self._end_content(whole=not cut)
        reading = self._state == "arguments" and self._call is not None
        self._cut = cut and (self._state in ("head", "middle") or reading)
        if not self._cut:
            self._state = "ended"
        return self._take_events()

    @property
    def asked_again(self) -> bool:
        return self._after is not None

    # --- what is said of it afterwards, in a while and in any one thread -------------------------

    @property
    def unsettled(self) -> bool:
        """Whether there is more to do than to send what `report` says: to ask again, to count."""
        return self.broken is not None or self._cut

    def report(self) -> Report:
        """After the end; counts `needed_tokens`, which takes a while."""
        return Report(
            relaxed=tuple(self._relaxed),
            asked_again=int(self.asked_again),
            bounded=tuple(self._bounded),
            needed_tokens=self._count_needed() if self._cut and not self.looped else None,
            looped=self.looped,
        )

    def _count_needed(self) -> int | None:
        """Tokens of a completion that has the call whose beginning was cut, and ends behind it."""
        used = self._budget - self._remaining + (self._after.num_tokens if self._after else 0)
        shortest = Shortest(self._grammars, self._vocabulary.token_bytes)
        num_calls, self._remaining = len(self._calls), _ENDLESS
        for count in range(MAX_STEPS):
            behind = len(self._calls) > num_calls
            if behind and self._segment is not None and self._segment.complete:
                return used + count + 1  # the token that ends the turn
            token_id = self._choose(shortest)
            if token_id is None:
                return None
            try:
                self._take(token_id)
            except ConstraintError:
                return None  # more is asked of it than the grammar knows
            if self.ended:
                return used + count + 1 if len(self._calls) > num_calls else None
        return None

    def _choose(self, shortest: Shortest) -> int | None:
        mask = self.mask()
        if self._call is not None:
            return shortest.in_json(mask, self._call.scanner)
        if self._state == "arguments":  # read to their end
            return shortest.towards(mask, self._form.close.encode()[len(self._buffer) :])
        return shortest.longest(mask)

    # --- the machine ---------------------------------------------------------------------------

    def _force(self, name: str | None) -> None:
        self.prefix += self._form.open
        if name is None:
            self._enter("head", self._grammars.head(self._form, self._tools, opened=None))
        else:
            self.prefix += f' "{name}"{self._form.arguments}'
            self._begin_arguments(name)

    def _enter(self, state: State, segment: Segment) -> None:
        self._state, self._segment, self._buffer = state, segment, b""

    def _may_force(self) -> bool:
        ended = self._segment is None or self._state == "ended"
        if ended or self._awaits() or self._alternative is not None or self._remaining <= 1:
            return False
        return not self._number_is_full()

    def _awaits(self) -> bool:
        if self._segment is None or self._segment.ready:
            return False
        self.awaited = self._segment
        return True

    def _number_is_full(self) -> bool:
        scanner = self._json_scanner()
        return scanner is not None and scanner.number_is_full

    def _json_scanner(self) -> JsonScanner | None:
        """Of the JSON that is being read, if any is."""
        if self._call is not None:
            return self._call.scanner
        return self._scanner if self._json and self._state == "content" else None

    def _take(self, token_id: int) -> None:
        data = self._vocabulary.token_bytes[token_id]
        self._tail = (self._tail + data)[-CONTEXT_BYTES:]
        if self._segment is not None:
            self._advance(token_id, self._segment)
        if self._json_scanner() is not None:
            self.looped = self._loop.push(token_id)
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
            case "thought":
                self._read_thought(data)
            case "text":
                self._fresh = False
                text, opened = self._opening.push(data)
                self._events += self._answer.push(text)
                if opened is not None and self.stop is None:
                    self._open(opened)
                if self.stop is not None:
                    self._state = "ended"
            case "content":
                self._events += self._answer.push(data)
                if self._json:
                    self._scanner.feed(data, self._remaining)
                if self.stop is not None or (self._json and self._scanner.done):
                    self._end_content(whole=True)
            case "either":
                self._buffer += data
            case "head" | "middle":
                self._buffer += data
                if self._segment is not None and self._segment.complete:
                    self._begin_arguments(self._read_name())
            case "arguments":
                self._read_arguments(data)

    def _read_thought(self, data: bytes) -> None:
        if self._thought is not None:
            thought, behind = self._thought.push(data)
            if behind is None:
                self._events += self._answer.think(thought)
            else:
                self._end_thought(thought, behind)

    def _end_thought(self, thought: bytes, behind: bytes) -> None:
        thinks = self._thought is not None and self._thought.inside
        self._thought, self._state = None, "text"
        if thinks:
            self._events += self._answer.think(thought)
            self._events += self._answer.end_thought()
            behind = behind.lstrip()
        if behind:
            self._read(behind)

    def _open(self, opened: Opened) -> None:
        segment = self._continue_call(opened, freely=False)
        segment = segment or self._continue_call(opened, freely=True)
        if segment is None:  # it only began like a call: the rest of the token cannot continue one
            self._events += self._answer.push(opened.text)
            return
        self._events += self._answer.end_before_call()
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
        tool = self._tools[name]
        self._last = self._single or len(self._calls) + 1 >= MAX_CALLS
        self._enter("arguments", self._grammars.arguments(self._form, tool, last=self._last))
        self._relax(tool)
        self._call = OpenCall(tool, choice=self._choice, index=len(self._calls))
        if self._eager:
            self._events.append(self._call.begun())

    def _read_arguments(self, data: bytes) -> None:
        if self._call is not None:
            told, data = self._call.feed(data, self._remaining)
            if self._eager:
                self._events += told
            if not self._call.scanner.done:
                return
            if not self._close_call(self._call):
                self._state = "ended"
                return
        self._buffer += data
        closed = _follows(self._form.close).fullmatch(self._buffer)
        if closed and (self._last or not _begins(self._form.next, self._form.close)):
            self._state = "ended"  # nothing else may follow
        elif not self._last and _follows(self._form.next).fullmatch(self._buffer):
            self._enter("head", self._grammars.head(self._form, self._tools, opened=None))

    def _close_call(self, read: OpenCall) -> bool:
        """Releases the call just closed. False: the turn ends with it, for it is invalid or repeats
        an earlier one. (Eagerly told, a repeat is released all the same.)"""
        self._call = None
        if (wrong := validate_arguments(read.tool, read.arguments)) is not None:
            self._break(read.tool, read.arguments, wrong, told=self._eager)
            return False
        closed = read.closed()
        repeated = any(identical(call, closed.call) for call in self._calls)
        if not repeated or self._eager:
            self._events.append(closed)
            self._bounded += [closed.index] if closed.bounded else []
            self._calls.append(closed.call)
        return not repeated

    def _end_content(self, *, whole: bool) -> None:
        events, wrong = self._answer.end(whole=whole)
        self._events += events
        self._state = "ended"
        if wrong is not None:
            self._break(None, self._answer.said, wrong, told=not self._answer.holds)

    def _break(self, tool: Tool | None, written: str, wrong: str, *, told: bool) -> None:
        """The turn ends with what is not valid. Raises where it was `told` of or asked again."""
        used = self._budget - self._remaining
        broken = Broken(
            tool,
            written,
            wrong,
            text="" if tool is None else self._answer.said,
            thought=self._answer.thought,
            calls=tuple(self._calls),
            bounded=tuple(self._bounded),
            num_tokens=used,
            remaining=self._remaining,
        )
        if told or self.asked_again:
            raise broken.error()
        self.broken = broken

    def _relax(self, given: Tool | ResponseFormat) -> None:
        self._relaxed |= dict.fromkeys(self._grammars.relaxed(given))

    def _take_events(self) -> list[TurnEvent]:
        events, self._events = self._events, []
        return events


def held_to(tool: Tool) -> Tool:
    """The tool with the schema that its calls must satisfy."""
    return tool if tool.strict else replace(tool, parameters={"additionalProperties": True})


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
