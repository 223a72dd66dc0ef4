"""What a request becomes before it is stepped: its prompt, checked, and a turn for each choice.

    request ──▶ check ──▶ prompt ──▶ for each choice: turn + what it begins with ──▶ core request

Done in the caller's worker threads, so that no step waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from f1.calling.again import Broken
from f1.calling.deciding import Watches
from f1.calling.family import Family, family_for
from f1.calling.request import check_request
from f1.calling.schema import held_to
from f1.calling.shared import shared_prefix
from f1.calling.spelling import Spelling
from f1.calling.turn import Turn, TurnEvent
from f1.calling.vocabulary import make_vocabulary
from f1.drafting import Drafter, History
from f1.errors import ContextLengthExceeded, F1Error, InvalidRequest
from f1.models.checkpoint import Checkpoint
from f1.settings import Settings
from f1.store.snapshot import Snapshot
from f1.store.snapshots import Snapshots
from f1.types import Decoded, Event, GenerateRequest, Report, SamplingParams, Soft, Tool

if TYPE_CHECKING:
    from f1 import _core
    from f1.calling.grammar import Grammars, Segment

_END_TOKENS = 16  # of a prompt: room for what may open a thought
_LOOK_SECONDS = 0.1  # how often it is seen that the one who waits has left
MAX_WAIT_SECONDS = 10.0  # for a grammar that a turn begins with, behind those of others


class Left(Exception):
    """Who asked has left: what would be made is for nobody."""


# Sends one event, or the error that ends the request, to its stream.
Send = Callable[[Event | F1Error], None]


@dataclass(slots=True, eq=False)
class Choice:
    """One choice of a request while it runs; only the stepping thread touches it once submitted."""

    index: int
    request: GenerateRequest
    turn: Turn
    core_request: _core.Request | None  # None: no room for a token behind the turn's prefix
    num_prompt_tokens: int
    send: Send
    num_tokens: int  # of the completion; starts with those of the turn's prefix
    events: list[TurnEvent]  # what the turn said before anything was sampled
    token_ids: list[int]  # of the prompt and the completion, as far as it has come
    num_read: int  # of those, the prompt; not `num_prompt_tokens` where the turn was asked again
    report: Report | None = None  # None: not made yet
    drafter: Drafter | None = None  # None: nothing is drafted
    # Other choices of the request: they fork off as soon as the prompt is computed.
    followers: Sequence[Choice] = ()
    num_cached_tokens: int = 0
    num_thought_tokens: int = 0  # of turns before this one
    num_soft_steps: int = 0  # that were taken, as far as is known
    sequence_id: int | None = None
    stop_ids: tuple[int, ...] = ()  # the token that ended the turn
    before: Decoded | None = None  # the turn that this one was asked again after
    snapshot: Snapshot | None = None  # pages on disk that its prompt begins with
    step_seconds: float = 0.0  # of processor time, spent on what may follow in this step
    step_waited: float = 0.0  # and how long that took
    mask_seconds: float = 0.0  # and in all, in steps where it was more than is ordinary

    def spend_thoughts(self, num_steps: int) -> None:
        """All soft steps have been taken."""
        self.num_soft_steps = num_steps
        self.num_tokens += num_steps
        self.turn.spend_thoughts(num_steps)

    def go_on_as(self, again: Choice) -> None:
        """Takes over the turn of `again`, and what was made for it. The prompt stays the first."""
        if self.request.record:
            self.before = self.decoded()
        self.num_thought_tokens += self.turn.num_thought_tokens
        self.turn, self.core_request, self.events = again.turn, again.core_request, again.events
        self.drafter, self.snapshot, self.sequence_id = again.drafter, None, None
        self.token_ids, self.num_read, self.stop_ids = again.token_ids, again.num_read, ()
        self.num_tokens += again.num_tokens

    def decoded(self) -> Decoded:
        """The turn so far, in tokens."""
        read, wrote = self.token_ids[: self.num_read], self.token_ids[self.num_read :]
        return Decoded(tuple(read), (*wrote, *self.stop_ids), self.turn.choosing, self.before)


class Preparation:
    """Makes choices of requests for one model. Thread-safe."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        grammars: Grammars,
        settings: Settings,
        snapshots: Snapshots,
        *,
        context_length: int,
    ):
        self._checkpoint = checkpoint
        self._grammars = grammars
        self._snapshots = snapshots
        self._context_length = context_length
        self._family: Family = family_for(checkpoint.name, settings.grammars)
        self.vocabulary = make_vocabulary(
            checkpoint.tokenizer, self._family, grammars, forced_text=settings.forced_text
        )
        self._history = History() if settings.speculation else None
        self._watches: Watches | None = None  # made for the first that has its decisions recorded

    def prompt(self, request: GenerateRequest) -> list[int]:
        """The tokens that the model reads. Raises InvalidRequest and its kin."""
        check_request(request)
        if request.prompt is not None:
            return self._raw_prompt(request.prompt)
        parallel = request.parallel_tool_calls
        messages = self._family.plain_messages(
            request.messages, request.tools, request.shown_at, parallel=parallel
        )
        return self._checkpoint.template.render(messages)

    def choices(self, request: GenerateRequest, send: Send, left: threading.Event) -> list[Choice]:
        """One for each of the request's n. Raises InvalidRequest and its kin, and Left soon after
        `left` is set."""
        prompt = self.prompt(request)
        _go_on(left)
        self.admit(request)
        room = self._context_length - len(prompt)
        max_tokens = room if request.max_tokens is None else request.max_tokens
        if room < 1 or max_tokens > room:
            raise ContextLengthExceeded(
                f"the context holds {self._context_length} tokens; the prompt with all its tools "
                f"takes {len(prompt)} and the completion may take {max(max_tokens, 1)}",
                param="messages" if request.prompt is None else "prompt",
            )
        choices = [
            self._choice(request, prompt, max_tokens, index, send, left=left)
            for index in range(request.n)
        ]
        choices[0].snapshot = self._snapshots.find(np.array(prompt, np.int32))
        return choices

    def _raw_prompt(self, prompt: str | tuple[int, ...]) -> list[int]:
        tokenizer = self._checkpoint.tokenizer
        if isinstance(prompt, str):
            return [*tokenizer.leading_token_ids, *tokenizer.encode(prompt)]
        for token_id in prompt:
            if not 0 <= token_id < tokenizer.vocab_size:
                told = f"prompt: token ids are 0 to {tokenizer.vocab_size - 1}, not {token_id}"
                raise InvalidRequest(told, param="prompt")
        return list(prompt)

    def settle(self, choice: Choice) -> Choice | None:
        """What is left to do for an `unsettled` turn: None when that is its report, which is now
        made. Otherwise the turn is to be asked again, as this choice. Raises ConstraintError where
        that does not fit the context."""
        if (broken := choice.turn.broken) is None:
            choice.report = choice.turn.report()
            return None
        sampling = choice.request.sampling  # other draws, or it may well write the same
        sampling = replace(sampling, seed=sampling.seed ^ 1)
        request = replace(choice.request, sampling=sampling, soft=None)
        try:
            messages = self._family.plain_messages(
                [*request.messages, *broken.messages()],
                request.tools,
                request.shown_at,
                parallel=request.parallel_tool_calls,
            )
            prompt = self._checkpoint.template.render(messages)
        except InvalidRequest as error:  # the template does not take messages in this order
            raise broken.error() from error
        max_tokens = min(broken.remaining, self._context_length - len(prompt))
        if max_tokens < 1:
            raise broken.error()
        return self._choice(request, prompt, max_tokens, choice.index, choice.send, after=broken)

    def admits_at_once(self, request: GenerateRequest) -> bool:
        """Whether admit() takes no time worth mentioning. Raises InvalidRequest and its kin."""
        check_request(request)
        return self._grammars.admits_at_once(_tools(request), request.response_format)

    def admit(self, request: GenerateRequest) -> None:
        """Has its grammars judged, and begins to make those that it will surely need. Raises
        InvalidRequest and its kin, Overloaded."""
        tools, choice = _tools(request), request.tool_choice
        self._grammars.admit(tools, request.response_format)
        if tools and choice.mode != "none":
            single = not request.parallel_tool_calls or choice.mode == "named"
            self._grammars.prepare((self._family.form,), tools, single=single)

    def _choice(
        self,
        request: GenerateRequest,
        prompt: list[int],
        max_tokens: int,
        index: int,
        send: Send,
        *,
        after: Broken | None = None,
        left: threading.Event | None = None,
    ) -> Choice:
        from f1 import _core

        _go_on(left)
        turn = Turn(
            request,
            self._family,
            self._grammars,
            self.vocabulary,
            choice=index,
            max_tokens=max_tokens,
            prompt_end=self._checkpoint.tokenizer.decode(prompt[-_END_TOKENS:]),
            after=after,
            watches=self._watched() if request.record and request.tools else None,
        )
        before, close, prefix = self._begun(turn, request.soft)
        turn.spend_thoughts(len(before) + len(close))
        turn.spend_prefix(len(prefix))
        forced, events = turn.force()
        while (segment := turn.awaited) is not None:
            _wait(segment, left)
            more, told = turn.force()
            forced, events = forced + more, events + told
        behind = [*close, *prefix, *forced]
        num_tokens = len(before) + len(behind)
        token_ids = [*prompt, *before, *behind]
        core_request = None
        if max_tokens > num_tokens:
            core_request = _core.Request(
                np.array(token_ids, np.int32),
                _sampling(request.sampling),
                max_tokens=max_tokens - num_tokens,
                stop_token_ids=sorted(self._checkpoint.tokenizer.stop_token_ids),
                choice=index,
                soft=_soft(request.soft, len(prompt) + len(before)),
            )
        drafter = None
        if self._history is not None:
            never = self._checkpoint.tokenizer.control_token_ids
            drafter = Drafter(token_ids, self._history, never)
        if core_request is None:
            num_tokens = 0
        return Choice(
            index,
            request,
            turn,
            core_request,
            len(prompt),
            send,
            num_tokens,
            events,
            token_ids,
            len(prompt),
            drafter=drafter,
        )

    def _watched(self) -> Watches:
        if self._watches is None:  # two threads may each make them: they are the same
            tokenizer, canonical = self._checkpoint.tokenizer, self.vocabulary.canonical
            token_bytes = self.vocabulary.token_bytes
            spelling = canonical.spelling if canonical else Spelling(token_bytes)
            stops = tokenizer.stop_token_ids
            self._watches = Watches(token_bytes, spelling, self._family.forms, stops)
        return self._watches

    def _begun(self, turn: Turn, soft: Soft | None) -> tuple[list[int], list[int], list[int]]:
        """The tokens that a turn begins with: before its soft steps, those that close them, and the
        others behind."""
        lead, close, prefix = "", "", turn.prefix
        if soft is not None:
            lead, close, reasoning = soft.lead, soft.close, self._family.reasoning
            if reasoning is not None and reasoning.close in prefix:
                lead, close, prefix = prefix.partition(reasoning.close)
        encode = self._checkpoint.tokenizer.encode_prompt
        return encode(lead), encode(close), encode(prefix)

    def shared_prefix(self, tools: Sequence[Tool], system: str, *, parallel: bool) -> list[int]:
        """The tokens that all prompts with these tools and this system message begin with."""
        template = self._checkpoint.template
        return shared_prefix(self._family, template, tools, system, parallel=parallel)


def _tools(request: GenerateRequest) -> list[Tool]:
    """Those that can be called, with the schemas that they are held to."""
    name = request.tool_choice.name
    return [held_to(tool) for tool in request.tools if name in (None, tool.name)]


def _go_on(left: threading.Event | None) -> None:
    if left is not None and left.is_set():
        raise Left


def _wait(segment: Segment, left: threading.Event | None) -> None:
    """Until it is ready. Raises Overloaded where that takes too long, and Left."""
    ready = threading.Event()
    segment.when_ready(ready.set)
    until = time.monotonic() + MAX_WAIT_SECONDS
    while not ready.wait(_LOOK_SECONDS) and time.monotonic() < until:
        _go_on(left)
    segment.wait(0)


def _soft(soft: Soft | None, position: int) -> _core.SoftParams:
    from f1 import _core

    if soft is None:
        return _core.SoftParams(num_steps=0, position=0)
    return _core.SoftParams(
        num_steps=soft.steps,
        position=position,
        top_k=soft.top_k,
        temperature=soft.temperature,
        noise=soft.noise,
        cold_entropy=soft.cold_entropy,
        cold_steps=soft.cold_steps,
    )


def _sampling(params: SamplingParams) -> _core.SamplingParams:
    from f1 import _core

    return _core.SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        logit_bias=dict(params.logit_bias),
        num_logprobs=-1 if params.num_logprobs is None else params.num_logprobs,
        masked_mass=params.masked_mass,
    )
