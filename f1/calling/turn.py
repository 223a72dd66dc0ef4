"""One assistant turn: the machine that says which tokens may follow and what they mean.

The same description (`Form`) drives both directions, so whatever is sampled is parsed:

    thought ──▶ text ──a call opens──▶ calls ──▶ ended
                content (a response format)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from f1.calling.again import Broken
from f1.calling.ahead import STRING_MATCH, TEXT_MATCH, rows_in_segment, rows_in_text
from f1.calling.answer import Answer
from f1.calling.calls import CallEvent, Calls
from f1.calling.deciding import Deciding, Reading, Watch, Watches
from f1.calling.family import Family
from f1.calling.forced import CONTEXT_BYTES, forced_tokens
from f1.calling.grammar import Grammars, Segment, TokenMask
from f1.calling.loops import LoopGuard
from f1.calling.needed import MAX_WALK, MAX_WALK_SECONDS, Shortest
from f1.calling.opening import Opened, Opening
from f1.calling.scanner import Closer, JsonScanner
from f1.calling.thought import Reasoning, Thought
from f1.calling.vocabulary import Vocabulary
from f1.errors import ConstraintError
from f1.types import (
    Choosing,
    GenerateRequest,
    ReasoningDelta,
    Relaxed,
    Report,
    TextDelta,
    TokenLogprob,
    Tool,
)

_ENDLESS = 1 << 30  # tokens of budget

TurnEvent = TextDelta | ReasoningDelta | CallEvent
State = Literal["thought", "text", "content", "either", "calls", "ended"]


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
        watches: Watches | None = None,
    ):
        """`prompt_end`: the last bytes of the prompt, which may open a thought. `after`: what an
        earlier turn wrote amiss; this one writes it anew, and goes on. With `watches` it keeps what
        it decides."""
        mode = request.tool_choice.mode
        self._eager = request.eager_arguments
        self._shown_tools = bool(request.tools)
        self._may_call = self._shown_tools and mode != "none"
        self._grammars = grammars
        self._vocabulary = vocabulary
        self._budget = self._remaining = max_tokens
        self._after = after
        self.broken: Broken | None = None  # how the turn ended, if it is to be asked again
        self._cut = False  # inside a call
        self._loop = LoopGuard()
        self.looped = False  # it says the same for ever and is to be cut
        self._calls = Calls(request, family, grammars, choice=choice, after=after)
        self._opening = Opening(family.forms if self._may_call else (), list(self._calls.tools))
        self._deciding: Deciding | None = None
        if watches is not None and self._may_call:
            self._deciding = Deciding(watches, list(self._calls.tools))
        self._form = family.form
        self._answer = Answer(request, choice, may_call=self._may_call)
        self._thought: Thought | None = None
        self.num_thought_tokens = 0
        self._scanner = JsonScanner()  # of content
        self._format = request.response_format
        self._json = self._format.kind in ("json_object", "json_schema")
        self._relaxed: tuple[Relaxed, ...] = ()  # of the content
        self._segment: Segment | None = None  # None: any text
        self.awaited: Segment | None = None  # what force() did not find ready
        # The call that may still stand in place of content, and what both have read.
        self._alternative: Segment | None = None
        self._undecided = b""
        # A request for logprobs wants one of the model for every token.
        forces = request.sampling.num_logprobs is None
        self._canonical = vocabulary.canonical if forces else None
        self._tail = b""  # what was read last
        self._events: list[TurnEvent] = []
        self._state: State = "text"
        self._fresh = True  # no text was read yet
        self.prefix = ""  # text the turn begins with, settled before any token is sampled
        # What goes on with a raw prompt is its text, thoughts and all.
        self._begin(request, family.reasoning if request.prompt is None else None, prompt_end)

    def _begin(
        self, request: GenerateRequest, reasoning: Reasoning | None, prompt_end: bytes
    ) -> None:
        """A turn that is forced into a call or a format does not think aloud; nor does one that has
        thought softly."""
        mode, after = request.tool_choice.mode, self._after
        must_call = self._may_call and mode in ("required", "named")
        silent = must_call or after or request.soft is not None
        if reasoning is not None and (silent or self._format.kind != "text"):
            self.prefix = reasoning.skipped(prompt_end)
        elif reasoning is not None:
            self._thought = Thought(reasoning, inside=reasoning.opened_in(prompt_end))
            self._state = "thought"
        if after is not None and after.tool is not None:
            self._force(after.tool.name)
        elif must_call:
            self._force(request.tool_choice.name)
        elif self._format.kind != "text":
            self._state, self._segment = "content", self._grammars.content(self._format)
            self._relaxed = self._grammars.relaxed(self._format)
            self._answer.holds = bool(self._relaxed)
            if self._may_call:
                self._state, self._alternative = "either", self._calls.whole()

    def spend_prefix(self, num_tokens: int) -> None:
        """The prefix is part of the completion: it takes this much of the token budget."""
        self._remaining -= num_tokens
        self._tail = self.prefix.encode()

    def spend_thoughts(self, num_tokens: int) -> None:
        """Of the completion, thought before the turn began; it has not read them."""
        self._remaining -= num_tokens
        self.num_thought_tokens += num_tokens

    @property
    def ended(self) -> bool:
        """Nothing more needs to be sampled."""
        return self._state == "ended"

    @property
    def reason(self) -> Literal["stop", "tool_calls"]:
        """Why the turn ended, if it was not cut."""
        return "tool_calls" if self._calls.made else "stop"

    @property
    def constraint(self) -> str:
        """What the next token is held to, for an error."""
        if self._state != "calls":
            return "response_format"
        return "tools" if self._calls.open is None else f"tool {self._calls.open.tool.name!r}"

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
            if (call := self._calls.open) is not None:
                call.bounded = call.bounded or not bool((ends == mask).all())
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
        near = self._deciding is not None and self._deciding.near(self._opening.pending)
        if self._state == "text" and near:
            return 0
        if self._state == "text" or (self._state == "content" and not self._json):
            return TEXT_MATCH
        if self.awaited is not None:
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
            if self._deciding is not None and self._thought is None:
                draft = self._deciding.before_opener(draft)
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
        thought = self._thinks
        self._take(token_id)
        self.num_thought_tokens += thought or self._thinks
        if self._deciding is not None:
            self._settle(self._deciding)
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
            self._events += self._answer.push(self._undecided)
        if self._state in ("text", "content", "either"):
            self._end_content(whole=not cut)
        self._cut = cut and self._state == "calls" and self._calls.inside
        if not self._cut:
            self._state = "ended"
        return self._take_events()

    # --- what it decides -----------------------------------------------------------------------

    @property
    def watch(self) -> Watch | None:
        """What is to be known of the next token beside the token, for note()."""
        if (deciding := self._deciding) is None:
            return None
        match self._state:
            case "text":
                return deciding.in_text(self._opening.pending)
            case "thought":
                return None if self._thinks else deciding.in_text(b"")
            case "either":
                return deciding.in_content(self._form, self._undecided)
            case "calls":
                return deciding.among(self._calls.options)
        return None

    def note(self, at: int, token_id: int, reading: Reading) -> None:
        """How the next token was found, which is the turn's token number `at`."""
        if self._deciding is not None:
            self._deciding.note(at, token_id, reading)

    @property
    def choosing(self) -> tuple[Choosing, ...]:
        """What has been decided."""
        return () if self._deciding is None else tuple(self._deciding.made)

    def _settle(self, deciding: Deciding) -> None:
        if self._state == "calls":
            deciding.settle("called", self._calls.name)
        elif self._thinks:
            deciding.settle("thought", None)
        elif self._state in ("thought", "either") or self._opening.pending:
            deciding.settle("open", None)
        else:
            deciding.settle("text", None)

    @property
    def _thinks(self) -> bool:
        return self._thought is not None and self._thought.inside

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
            relaxed=(*self._relaxed, *self._calls.relaxed),
            asked_again=int(self.asked_again),
            bounded=tuple(self._calls.bounded),
            needed_tokens=self._count_needed() if self._cut and not self.looped else None,
            looped=self.looped,
        )

    def _count_needed(self) -> int | None:
        """Tokens of a completion that has the call whose beginning was cut, and ends behind it."""
        used = self._budget - self._remaining + (self._after.num_tokens if self._after else 0)
        way = Shortest(self._grammars, self._vocabulary.token_bytes)
        made, self._remaining = self._calls.made, _ENDLESS
        num_calls = len(made)
        until = time.thread_time() + MAX_WALK_SECONDS
        for count in range(MAX_WALK):
            if time.thread_time() > until:
                return None
            if len(made) > num_calls and self._segment is not None and self._segment.complete:
                return used + count + 1  # the token that ends the turn
            token_id = self._calls.shortest(self.mask(), way)
            if token_id is None:
                return None
            try:
                self._take(token_id)
            except ConstraintError:
                return None  # more is asked of it than the grammar knows
            if self.ended:
                return used + count + 1 if len(made) > num_calls else None
        return None

    # --- the machine ---------------------------------------------------------------------------

    def _force(self, name: str | None) -> None:
        prefix, events = self._calls.force(name)
        self.prefix += prefix
        self._events += events
        self._state, self._segment = "calls", self._calls.segment

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
        if self._calls.open is not None:
            return self._calls.open.scanner
        return self._scanner if self._json and self._state == "content" else None

    def _take(self, token_id: int) -> None:
        data = self._vocabulary.token_bytes[token_id]
        self._tail = (self._tail + data)[-CONTEXT_BYTES:]
        if self._segment is not None:
            self._advance(token_id, self._segment)
        if self._json_scanner() is not None:
            self.looped = self._loop.push(token_id) or self.looped
        self._read(data)

    def _advance(self, token_id: int, segment: Segment) -> None:
        """Moves the grammar on. Between content and a call, the one that refuses is out."""
        accepted, alternative = segment.accept(token_id), self._alternative
        if alternative is not None:
            if not alternative.accept(token_id):
                self._state, self._alternative = "content", None
                self._read(self._undecided)
            elif not accepted:
                self._state, self._alternative = "calls", None
                self._calls.go_on(alternative, self._undecided)
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
                self._undecided += data
            case "calls":
                self._read_calls(data)

    def _read_thought(self, data: bytes) -> None:
        if self._thought is not None:
            thought, behind = self._thought.push(data)
            if behind is None:
                self._events += self._answer.think(thought)
            else:
                self._end_thought(thought, behind)

    def _end_thought(self, thought: bytes, behind: bytes) -> None:
        thinks = self._thinks
        self._thought, self._state = None, "text"
        if thinks:
            self._events += self._answer.think(thought)
            self._events += self._answer.end_thought()
            behind = behind.lstrip()
        if behind:
            self._read(behind)

    def _open(self, opened: Opened) -> None:
        if not self._calls.begin(opened):  # it only began like a call
            self._events += self._answer.push(opened.text)
            return
        self._events += self._answer.end_before_call()
        self._state = "calls"
        self._read_calls(opened.rest)

    def _read_calls(self, data: bytes) -> None:
        self._events += self._calls.read(data, self._remaining)
        self._segment = self._calls.segment
        if self._calls.ended:
            self._state = "ended"
        if self._calls.broken is not None:
            call, wrong = self._calls.broken
            self._break(call.tool, call.arguments, wrong, told=self._eager)

    def _end_content(self, *, whole: bool) -> None:
        events, wrong = self._answer.end(whole=whole)
        self._events += events
        self._state = "ended"
        if wrong is not None:
            self._break(None, self._answer.said, wrong, told=not self._answer.holds)

    def _break(self, tool: Tool | None, written: str, wrong: str, *, told: bool) -> None:
        """The turn ends with what is not valid. Raises where it was `told` of or asked again."""
        broken = Broken(
            tool,
            written,
            wrong,
            text="" if tool is None else self._answer.said,
            thought=self._answer.thought,
            calls=tuple(self._calls.made),
            bounded=tuple(self._calls.bounded),
            num_tokens=self._budget - self._remaining,
            remaining=self._remaining,
        )
        if told or self.asked_again:
            raise broken.error()
        self.broken = broken

    def _take_events(self) -> list[TurnEvent]:
        events, self._events = self._events, []
        return events
