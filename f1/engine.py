"""AsyncEngine: one model, one thread that steps the core, any number of requests as async streams.

    request ──▶ prompt + turns ──▶ inbox ──▶ [ begin_step · masks · finish_step ] ──▶ events
                (worker thread)                     (stepping thread)             (caller's loop)

A fault belongs to one request: its stream raises, its batch-mates go on.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from f1.calling.family import Family, family_for
from f1.calling.request import check_request
from f1.calling.shared import shared_prefix
from f1.calling.turn import Turn, TurnEvent
from f1.calling.vocabulary import make_vocabulary
from f1.drafting import Drafter, History, rows_for_drafts
from f1.errors import (
    ConstraintError,
    ContextLengthExceeded,
    EngineStopped,
    F1Error,
    InvalidRequest,
)
from f1.models.checkpoint import Checkpoint
from f1.models.load import load_checkpoint, load_model, packed_file, snapshot_key
from f1.settings import Settings
from f1.store.snapshot import PAGE_TOKENS, Snapshot
from f1.store.snapshots import Snapshots
from f1.types import (
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    SamplingParams,
    TokenLogprob,
    Tool,
    Usage,
)

if TYPE_CHECKING:
    from f1 import _core
    from f1.calling.grammar import Grammars, TokenMask

T = TypeVar("T")
log = logging.getLogger("f1.engine")

STALLED_SECONDS = 10.0
_PRELOADED_SHARE = 8  # snapshots may fill one of so many parts of the cache before any request

# Sends one event, or the error that ends the request, to its stream.
Send = Callable[[Event | F1Error], None]
Mail = list[tuple[asyncio.Queue[Event | F1Error], Event | F1Error]]


@dataclass(slots=True, eq=False)
class _Choice:
    """One choice of a request while it runs; only the stepping thread touches it once submitted."""

    index: int
    turn: Turn
    core_request: _core.Request | None  # None: no room for a token behind the turn's prefix
    num_prompt_tokens: int
    send: Send
    num_tokens: int  # of the completion; starts with those of the turn's prefix
    events: list[TurnEvent]  # what the turn said before anything was sampled
    drafter: Drafter | None = None  # None: nothing is drafted
    # Other choices of the request: they fork off as soon as the prompt is computed.
    followers: Sequence[_Choice] = ()
    num_cached_tokens: int = 0
    sequence_id: int | None = None
    snapshot: Snapshot | None = None  # pages on disk that its prompt begins with


class AsyncEngine:
    """Serves one model. Thread-safe; start() loads it, close() ends what still runs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        core: _core.Engine,
        grammars: Grammars,
        settings: Settings,
        snapshots: Snapshots,
    ):
        self.model_id = checkpoint.name
        self._checkpoint = checkpoint
        self._core = core
        self._grammars = grammars
        self._snapshots = snapshots
        self._family: Family = family_for(checkpoint.name, settings.grammars)
        self._vocabulary = make_vocabulary(
            checkpoint.tokenizer, self._family, grammars, forced_text=settings.forced_text
        )
        trained = checkpoint.config.max_positions
        self.context_length = min(settings.context_length or trained, trained, core.capacity)
        self._history = History() if settings.speculation else None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._running: dict[int, _Choice] = {}
        self._outbox: dict[asyncio.AbstractEventLoop, Mail] = {}  # the stepping thread's
        self._failure: F1Error | None = None
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="f1-engine", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, model: str, settings: Settings | None = None) -> AsyncEngine:
        """Loads a model by catalogue name, path or hub id. Blocks until it can serve."""
        settings = settings or Settings.from_env()
        with ThreadPoolExecutor(1) as background:
            loading = background.submit(_load, model, settings)
            # Takes seconds (it brings torch and transformers): imported while the weights load.
            from f1.calling.grammar import Grammars

            checkpoint, core, snapshots = loading.result()
        tokenizer = checkpoint.tokenizer
        grammars = Grammars(
            tokenizer.vocabulary(),
            tokenizer.vocab_size,
            sorted(tokenizer.stop_token_ids),
            freely=not settings.forced_text,
        )
        return cls(checkpoint, core, grammars, settings, snapshots)

    # --- requests ------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """The request's events as they happen; closing the iterator early stops the work.

        Raises InvalidRequest and its kin before the first event, ConstraintError or EngineStopped
        at any point.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | F1Error] = asyncio.Queue()

        def send(event: Event | F1Error) -> None:
            self._outbox.setdefault(loop, []).append((events, event))

        choices = await asyncio.to_thread(self._prepare, request, send)
        self._post(lambda: self._submit(choices))
        try:
            open_choices = len(choices)
            while open_choices:
                event = await events.get()
                if isinstance(event, F1Error):
                    raise event
                open_choices -= isinstance(event, Finished)
                yield event
        finally:
            self._inbox.put(lambda: self._abort(choices))

    async def register_tools(
        self, tools: Sequence[Tool], *, system: str = "", parallel_tool_calls: bool = True
    ) -> int:
        """Computes what the prompts of requests with these tools and this system message begin
        with, and keeps it: warm in memory, and on disk, so that the first request after a restart
        has it, too. Of the order of a request's time the first time, of milliseconds later.

        Returns how many tokens are kept. Raises what generate() raises.
        """
        lead = (Message("system", system),) if system else ()
        request = GenerateRequest(
            (*lead, Message("user", "Hello")),
            tools=tuple(tools),
            parallel_tool_calls=parallel_tool_calls,
            max_tokens=1,
        )
        async for _ in self.generate(request):
            pass
        template = self._checkpoint.template
        prefix = await asyncio.to_thread(
            shared_prefix, self._family, template, tools, system, parallel=parallel_tool_calls
        )
        token_ids = np.array(prefix[: len(prefix) // PAGE_TOKENS * PAGE_TOKENS], np.int32)
        if not await asyncio.to_thread(self._snapshots.holds, token_ids):
            pages, checksums = await self._between_steps(lambda: self._core.save_prefix(token_ids))
            await asyncio.to_thread(self._snapshots.save, token_ids, pages, checksums)
        return len(token_ids)

    def healthy(self) -> bool:
        """The stepping thread lives and, when it has work, has made a step lately."""
        idle = not self._running
        recent = time.monotonic() - self._progress < STALLED_SECONDS
        return self._failure is None and self._thread.is_alive() and (idle or recent)

    def stats(self) -> dict[str, Any]:
        return dict(self._core.stats())

    def close(self) -> None:
        """Ends what still runs with EngineStopped and stops the thread."""
        self._inbox.put(lambda: self._fail_all(EngineStopped("the engine was closed")))
        self._thread.join()

    # --- preparing, in a worker thread -----------------------------------------------------------

    def _prepare(self, request: GenerateRequest, send: Send) -> list[_Choice]:
        check_request(request)
        parallel = request.parallel_tool_calls
        messages = self._family.plain_messages(request.messages, request.tools, parallel=parallel)
        prompt = self._checkpoint.template.render(messages)
        room = self.context_length - len(prompt)
        max_tokens = room if request.max_tokens is None else request.max_tokens
        if room < 1 or max_tokens > room:
            raise ContextLengthExceeded(
                f"the context holds {self.context_length} tokens; the messages and tools take "
                f"{len(prompt)} and the completion may take {max(max_tokens, 1)}",
                param="messages",
            )
        choices = [
            self._choice(request, prompt, max_tokens, index, send) for index in range(request.n)
        ]
        choices[0].snapshot = self._snapshots.find(np.array(prompt, np.int32))
        return choices

    def _choice(
        self, request: GenerateRequest, prompt: list[int], max_tokens: int, index: int, send: Send
    ) -> _Choice:
        from f1 import _core

        turn = Turn(
            request,
            self._family,
            self._grammars,
            self._vocabulary,
            choice=index,
            max_tokens=max_tokens,
        )
        prefix = self._checkpoint.tokenizer.encode_prompt(turn.prefix)
        turn.spend_prefix(len(prefix))
        forced, events = turn.force()
        prefix += forced
        core_request = None
        if max_tokens > len(prefix):
            core_request = _core.Request(
                np.array(prompt + prefix, np.int32),
                _sampling(request.sampling),
                max_tokens=max_tokens - len(prefix),
                stop_token_ids=sorted(self._checkpoint.tokenizer.stop_token_ids),
                choice=index,
            )
        drafter = None
        if self._history is not None:
            never = self._checkpoint.tokenizer.control_token_ids
            drafter = Drafter(prompt + prefix, self._history, never)
        return _Choice(index, turn, core_request, len(prompt), send, len(prefix), events, drafter)

    # --- stepping thread -------------------------------------------------------------------------

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.put(command)
        if self._failure is not None:  # looked at after the put: a failing engine empties the inbox
            raise self._failure

    async def _between_steps(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises, on the stepping thread."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._post(run)
        return await asyncio.wrap_future(done)

    def _run(self) -> None:
        try:
            while self._failure is None:
                self._obey(wait=not self._core.has_work)
                if self._failure is None and self._core.has_work:
                    self._step()
                self._flush()
                self._progress = time.monotonic()
        except Exception as error:
            log.exception("the engine failed")
            stopped = EngineStopped("the engine failed; its log has more")
            stopped.__cause__ = error
            self._fail_all(stopped)

    def _obey(self, *, wait: bool) -> None:
        if wait:
            command = self._inbox.get()
            self._progress = time.monotonic()  # to have waited for work is not to be stuck
            command()
        while not self._inbox.empty():
            self._inbox.get()()

    def _flush(self) -> None:
        """Delivers a step's events. To wake a loop is a system call: once for all its requests."""
        outbox, self._outbox = self._outbox, {}
        for loop, mail in outbox.items():
            with suppress(RuntimeError):  # the caller's loop is closed: nobody listens any more
                loop.call_soon_threadsafe(_deliver, mail)

    def _submit(self, choices: Sequence[_Choice]) -> None:
        first = choices[0]
        if len(choices) > 1 and first.core_request is not None and not first.turn.ended:
            first.followers, choices = choices[1:], choices[:1]
        for choice in choices:
            if self._failure is not None:
                choice.send(self._failure)
                return
            for event in choice.events:
                choice.send(event)
            if choice.turn.ended:
                self._finish(choice, choice.turn.reason)
                continue
            if choice.core_request is None:
                choice.send(Finished(choice.index, "length", Usage(choice.num_prompt_tokens, 0)))
                continue
            if choice.snapshot is not None:
                _restore(self._core, self._snapshots, choice.snapshot)
            try:
                choice.sequence_id = self._core.submit(choice.core_request)
            except ValueError as error:
                choice.send(InvalidRequest(str(error)))
                return
            self._running[choice.sequence_id] = choice

    def _fork(self, first: _Choice) -> list[int]:
        """The prompt is computed: the other choices go on from there. Where they cannot, they are
        submitted. Returns the ids of those that wait for their token."""
        followers, first.followers = first.followers, ()
        waiting: list[int] = []
        for choice in followers:
            if first.sequence_id is None or choice.core_request is None:
                continue
            for event in choice.events:
                choice.send(event)
            forked = self._core.fork(first.sequence_id, choice.index)
            if forked is None:
                forked = self._core.submit(choice.core_request)
            else:
                waiting.append(forked)
            choice.sequence_id = forked
            self._running[forked] = choice
        return waiting

    def _abort(self, choices: Iterable[_Choice]) -> None:
        for choice in choices:
            choice.followers = ()
            if choice.sequence_id in self._running:
                del self._running[choice.sequence_id]
                self._core.abort(choice.sequence_id)
                if choice.drafter is not None:
                    choice.drafter.close()

    def _step(self) -> None:
        masks = self._draft()
        drafted = {sequence_id: len(rows) - 1 for sequence_id, rows in masks.items()}
        waiting = self._core.begin_step()
        waiting += [i for sequence_id in waiting for i in self._fork(self._running[sequence_id])]
        for sequence_id in waiting:
            if sequence_id in masks:
                continue
            choice = self._running[sequence_id]
            with self._fault_of(choice):
                masks[sequence_id] = choice.turn.mask()
        num_tokens: Counter[int] = Counter()
        for output in self._core.finish_step(masks):
            num_tokens[output.sequence_id] += 1
            if (taker := self._running.get(output.sequence_id)) is None:
                continue  # its turn has ended before the drafts that were right
            with self._fault_of(taker):
                self._take(taker, output)
        for sequence_id, num_drafts in drafted.items():
            settler = self._running.get(sequence_id)
            if settler is not None and settler.drafter is not None and num_tokens[sequence_id]:
                settler.drafter.settle(num_drafts, num_tokens[sequence_id] - 1)

    def _draft(self) -> dict[int, TokenMask]:
        """Has some sequences try what may come next, as far as it is legal; returns the masks."""
        masks: dict[int, TokenMask] = {}
        room = rows_for_drafts(len(self._running))
        for sequence_id, choice in list(self._running.items()) if room else ():
            if choice.drafter is None or not (match := choice.turn.draft_match):
                continue
            with self._fault_of(choice):
                if not (draft := choice.drafter.draft(match, room)):
                    continue
                rows = choice.turn.masks(draft)
                if len(rows) > 1:
                    self._core.draft(sequence_id, draft[: len(rows) - 1])
                    masks[sequence_id] = rows
        return masks

    @contextmanager
    def _fault_of(self, choice: _Choice) -> Iterator[None]:
        """Whatever goes wrong inside ends this choice's request and no other."""
        try:
            yield
        except Exception as error:
            self._abort([choice])
            if not isinstance(error, F1Error):
                log.exception("a turn failed")
                # Messages of libraries hold paths and addresses: they are not for the wire.
                failed = F1Error("internal error; the log has more", code="internal_error")
                failed.__cause__ = error
                error = failed
            choice.send(error)

    def _take(self, choice: _Choice, output: _core.StepOutput) -> None:
        """Feeds one sampled token to its turn and sends what comes of it."""
        if output.finish not in (None, "stop", "length"):
            raise ConstraintError(f"no token could be sampled: {output.finish}")
        turn = choice.turn
        choice.num_tokens += 1
        choice.num_cached_tokens = output.num_cached_tokens
        reason: FinishReason | None = None
        if output.finish == "stop":
            events = turn.finish()
            reason = turn.reason
        else:
            events = turn.accept(output.token_id, self._logprob(output))
            forced, more = turn.force()
            events += more
            choice.num_tokens += len(forced)
            if choice.drafter is not None:
                choice.drafter.push([output.token_id, *forced])
            if turn.ended:
                reason = turn.reason
            elif output.finish == "length":
                events += turn.finish()
                reason = "length"
            elif forced:
                self._core.append(output.sequence_id, forced)
        for event in events:
            choice.send(event)
        if reason is not None:
            self._finish(choice, reason)

    def _finish(self, choice: _Choice, reason: FinishReason) -> None:
        self._abort([choice])
        usage = Usage(choice.num_prompt_tokens, choice.num_tokens, choice.num_cached_tokens)
        choice.send(Finished(choice.index, reason, usage))

    def _logprob(self, output: _core.StepOutput) -> TokenLogprob | None:
        if output.top is None or output.logprob is None:
            return None
        top = tuple(self._token_logprob(token_id, value) for token_id, value in output.top)
        logprob = self._token_logprob(output.token_id, output.logprob, top)
        return replace(logprob, masked_mass=output.masked_mass)

    def _token_logprob(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        data = self._vocabulary.token_bytes[token_id]
        return TokenLogprob(data.decode("utf-8", "replace"), logprob, data, top)

    def _fail_all(self, error: F1Error) -> None:
        self._failure = error  # from here on nothing is submitted
        for choice in self._running.values():
            choice.send(error)
        self._running.clear()
        while not self._inbox.empty():
            self._inbox.get()()
        self._flush()


def _deliver(mail: Mail) -> None:
    for events, event in mail:
        events.put_nowait(event)


def _load(model: str, settings: Settings) -> tuple[Checkpoint, _core.Engine, Snapshots]:
    from f1 import _core

    checkpoint = load_checkpoint(model, settings)
    loaded = load_model(
        checkpoint,
        num_threads=settings.num_threads,
        isa=settings.isa,
        packed=packed_file(checkpoint, settings),
    )
    core = _core.Engine(
        loaded,
        num_pages=max(settings.kv_memory // loaded.kv_page_bytes, 1),
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
    )
    key = snapshot_key(checkpoint, loaded) if settings.snapshot_disk else {}
    snapshots = Snapshots(settings.snapshots_dir, key, settings.snapshot_disk)
    _preload(core, snapshots)
    return checkpoint, core, snapshots


def _preload(core: _core.Engine, snapshots: Snapshots) -> None:
    """The prefixes used last, while there is time: the first request may begin with one."""
    room = core.capacity // _PRELOADED_SHARE
    for snapshot in snapshots.latest():
        room -= len(snapshot.token_ids)
        if room < 0:
            return
        _restore(core, snapshots, snapshot)


def _restore(core: _core.Engine, snapshots: Snapshots, snapshot: Snapshot) -> None:
    """Brings back what the cache lacks of it; what cannot be had is computed instead."""
    try:
        core.restore_prefix(
            snapshot.token_ids, str(snapshot.path), snapshot.offset, snapshot.checksums
        )
    except ValueError as error:
        snapshots.discard(snapshot, error)


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
