"""One step of the core for all choices that run: drafts, masks, and what the sampled tokens mean.

    draft ──▶ begin_step (layers) ──▶ masks ──▶ finish_step (sampling) ──▶ turns ──▶ events

What Python does here every model waits for, token by token: nothing is done that no one asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from f1.calling.turn import TurnEvent
from f1.choices import MAX_WAIT_SECONDS, Choice
from f1.delivery import Delivery
from f1.drafting import rows_for_drafts
from f1.errors import ConstraintError, F1Error, InvalidRequest, Overloaded
from f1.store.snapshots import Snapshots
from f1.types import Finished, FinishReason, TokenLogprob, Usage

if TYPE_CHECKING:
    from f1 import _core
    from f1.calling.grammar import Segment, TokenMask

T = TypeVar("T")
log = logging.getLogger("f1.stepping")

# Of the stepping thread's processor time, for one choice in one step. More than what is ordinary
# counts.
ORDINARY_SECONDS = 0.001
MAX_STEP_SECONDS = 0.05
MAX_MASK_SECONDS = 2.0  # in all
REST = 8  # times what it took


class Stepper:
    """The choices that run in a core; for one thread."""

    def __init__(
        self,
        core: _core.Engine,
        snapshots: Snapshots,
        delivery: Delivery,
        token_bytes: Sequence[bytes],
        settle: Callable[[Choice], None],
        post: Callable[[Callable[[], None]], None],
        warm_seconds: int = 0,
    ):
        """`settle` sees to a turn that is `unsettled`, aside, and has settled() called. `post` has
        something done between steps, asked for by any thread. What was computed for a turn that
        calls tools is kept for `warm_seconds` before others' is."""
        self.core = core
        self.running: dict[int, Choice] = {}  # by the core's id: all that the core has to do
        self._post = post
        # Of those, until when each waits for its grammar.
        self._waiting: dict[int, float] = {}
        # And until when each lets the others go on, after it took time from them.
        self._resting: dict[int, float] = {}
        self._snapshots = snapshots
        self._delivery = delivery
        self._token_bytes = token_bytes
        self._settle = settle
        self._warm_seconds = warm_seconds
        self._aside: set[Choice] = set()  # being settled
        self.mask_seconds = 0.0  # of processor time: to tell what may come next, and to take it

    # --- coming and going ----------------------------------------------------------------------

    def submit(self, choices: Sequence[Choice]) -> None:
        """Those of one request. All but the first wait until its prompt is computed."""
        first = choices[0]
        if len(choices) > 1 and first.core_request is not None and not first.turn.ended:
            first.followers, choices = choices[1:], choices[:1]
        for choice in choices:
            try:
                self._begin(choice)
            except Exception as error:
                self._fail_one(choice, error)
                return

    def _begin(self, choice: Choice) -> None:
        for event in choice.events:
            choice.send(event)
        if choice.turn.ended:
            self._finish(choice, choice.turn.reason)
            return
        if choice.core_request is None:
            choice.turn.finish(cut=True)
            self._finish(choice, "length")
            return
        if choice.snapshot is not None:
            self._snapshots.restore(self.core, choice.snapshot)
        try:
            choice.sequence_id = self.core.submit(choice.core_request)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        self.running[choice.sequence_id] = choice

    def _fork(self, first: Choice) -> list[int]:
        """The prompt is computed: the other choices go on from there. Where they cannot, they are
        submitted. Returns the ids of those that wait for their token."""
        followers, first.followers = first.followers, ()
        waiting: list[int] = []
        for choice in followers:
            if first.sequence_id is None or choice.core_request is None:
                continue
            try:
                forked = self.core.fork(first.sequence_id, choice.index)
                if forked is None:
                    self._begin(choice)
                    continue
            except Exception as error:
                self._fail_one(choice, error)
                continue
            for event in choice.events:
                choice.send(event)
            waiting.append(forked)
            choice.sequence_id = forked
            self.running[forked] = choice
        return waiting

    def abort(self, choices: Iterable[Choice]) -> None:
        """Ends them early; of no effect where they have ended."""
        for choice in choices:
            choice.followers = ()
            self._aside.discard(choice)
            if choice.sequence_id in self.running:
                del self.running[choice.sequence_id]
                self._waiting.pop(choice.sequence_id, None)
                self._resting.pop(choice.sequence_id, None)
                self.core.abort(choice.sequence_id)
                if choice.drafter is not None:
                    choice.drafter.close()

    def fail(self, error: F1Error) -> None:
        """Ends all with `error`; the core is not asked."""
        for choice in (*self.running.values(), *self._aside):
            choice.send(error)
        self.running.clear()
        self._aside.clear()
        self._waiting.clear()
        self._resting.clear()

    def _fail_one(self, choice: Choice, error: Exception) -> None:
        """Whatever goes wrong with one choice ends its request and no other."""
        self.abort([choice])
        if not isinstance(error, F1Error):
            log.error("a turn failed", exc_info=error)
            # Messages of libraries hold paths and addresses: they are not for the wire.
            failed = F1Error("internal error; the log has more", code="internal_error")
            failed.__cause__ = error
            error = failed
        choice.send(error)

    def _finish(self, choice: Choice, reason: FinishReason) -> None:
        self.abort([choice])
        if choice.turn.unsettled and choice.report is None:
            self._aside.add(choice)
            self._settle(choice)
            return
        if reason == "tool_calls" and self._warm_seconds:  # it will be back with the results
            self.core.hold_prefix(np.array(choice.token_ids, np.int32), self._warm_seconds)
        # Of the prompt; what was forced behind it may be cached, too.
        num_cached = min(choice.num_cached_tokens, choice.num_prompt_tokens)
        thought = choice.num_thought_tokens + choice.turn.num_thought_tokens
        usage = Usage(choice.num_prompt_tokens, choice.num_tokens, num_cached, thought)
        report = choice.report or choice.turn.report()
        if choice.request.record:
            report = replace(report, decoded=choice.decoded())
        choice.send(Finished(choice.index, reason, usage, report, choice.turn.stop))

    def settled(self, choice: Choice, outcome: Choice | Exception | None) -> None:
        """What came of it: a choice that goes on, an error, or the report of one that was cut."""
        if choice not in self._aside:
            return  # aborted meanwhile
        self._aside.discard(choice)
        if isinstance(outcome, Exception):
            self._fail_one(choice, outcome)
        elif outcome is None:
            self._finish(choice, "length")
        else:
            choice.go_on_as(outcome)
            self.submit([choice])

    # --- a step ----------------------------------------------------------------------------------

    def step(self) -> bool:
        """Whether there was something to compute: not where what is left waits for grammars."""
        before = 0
        if self._resting:
            self._end_rests()
        if self._waiting:
            self._end_late()
            before = self.core.stats()["num_steps"]
        masks = self._draft()
        drafted = {sequence_id: len(rows) - 1 for sequence_id, rows in masks.items()}
        self._delivery.flush()  # of the step before: its callers read while the core computes
        running, waiting = self.running, self.core.begin_step()
        for sequence_id in waiting:  # grows by what forks
            choice = running[sequence_id]
            if choice.followers:
                waiting += self._fork(choice)
            if sequence_id in masks:
                continue
            try:
                masks[sequence_id] = self._timed(choice, choice.turn.mask)
            except Exception as error:
                self._fail_one(choice, error)
        outputs = self.core.finish_step(masks, self._watches(waiting))
        for output in outputs:
            taker = running.get(output.sequence_id)
            if taker is None:
                continue  # its turn has ended before the drafts that were right
            try:
                self._take(taker, output)
            except Exception as error:
                self._fail_one(taker, error)
        for sequence_id, num_drafts in drafted.items():
            num_tokens = sum(output.sequence_id == sequence_id for output in outputs)
            settler = running.get(sequence_id)
            if settler is not None and settler.drafter is not None and num_tokens:
                settler.drafter.settle(num_drafts, num_tokens - 1)
        return not self._waiting or self.core.stats()["num_steps"] > before

    def _watches(self, waiting: Sequence[int]) -> dict[int, tuple[NDArray[np.int32], bool]]:
        """What is to be known of the tokens that are sampled now."""
        watches: dict[int, tuple[NDArray[np.int32], bool]] = {}
        for sequence_id in waiting:
            choice = self.running.get(sequence_id)
            if choice is None or not choice.request.record:
                continue
            try:
                if (watch := choice.turn.watch) is not None:
                    watches[sequence_id] = watch.token_ids, watch.always
            except Exception as error:
                self._fail_one(choice, error)
        return watches

    def _draft(self) -> dict[int, TokenMask]:
        """Has some sequences try what may come next, as far as it is legal; returns the masks."""
        masks: dict[int, TokenMask] = {}
        room = rows_for_drafts(len(self.running))
        for sequence_id, choice in list(self.running.items()) if room else ():
            if sequence_id in self._resting:
                continue
            try:
                if choice.drafter is None or not (match := choice.turn.draft_match):
                    continue
                if not (draft := choice.drafter.draft(match, room)):
                    continue
                rows = self._timed(choice, partial(choice.turn.masks, draft))
                if len(rows) > 1:
                    self.core.draft(sequence_id, draft[: len(rows) - 1])
                    masks[sequence_id] = rows
            except Exception as error:
                self._fail_one(choice, error)
        return masks

    def _take(self, choice: Choice, output: _core.StepOutput) -> None:
        """Feeds one sampled token to its turn and sends what comes of it."""
        finish, token_id, turn = output.finish, output.token_id, choice.turn
        if finish not in (None, "stop", "length"):
            raise ConstraintError(f"no token could be sampled: {finish}")
        choice.num_tokens += 1
        if output.num_soft_steps > choice.num_soft_steps:
            choice.spend_thoughts(output.num_soft_steps)
        if not turn.asked_again:
            choice.num_cached_tokens = output.num_cached_tokens
        if (reading := output.reading) is not None:
            turn.note(len(choice.token_ids) - choice.num_read, token_id, reading)
        reason: FinishReason | None = None
        events: list[TurnEvent]
        if finish == "stop":
            choice.stop_ids = (token_id,)
            events = turn.finish()
            reason = turn.reason
        else:
            choice.token_ids.append(token_id)
            accept = partial(turn.accept, token_id, self._logprob(output))
            events = self._timed(choice, accept)
            if choice.drafter is not None:
                choice.drafter.push([token_id])
            events += self._force(choice, appends=finish is None)
            if turn.ended:
                reason = turn.reason
            elif finish == "length" or turn.looped:
                events += turn.finish(cut=True)
                reason = "length"
            elif turn.awaited is not None:
                self._wait(choice, turn.awaited)
            else:
                self._rest(choice)
        for event in events:
            choice.send(event)
        if reason is not None:
            self._finish(choice, reason)

    def _force(self, choice: Choice, *, appends: bool) -> list[TurnEvent]:
        """Commits what must follow."""
        forced, events = self._timed(choice, choice.turn.force)
        if not forced:
            return events
        choice.num_tokens += len(forced)
        choice.token_ids += forced
        if choice.drafter is not None:
            choice.drafter.push(forced)
        if appends and not choice.turn.ended and choice.sequence_id is not None:
            self.core.append(choice.sequence_id, forced)
        return events

    # --- waiting for a grammar -------------------------------------------------------------------

    def _wait(self, choice: Choice, segment: Segment) -> None:
        """The others go on. Which tokens come does not depend on how long it takes."""
        if choice.sequence_id is None:
            return
        self.core.pause(choice.sequence_id)
        self._resting.pop(choice.sequence_id, None)  # its rest is not what ends the wait
        self._waiting[choice.sequence_id] = time.monotonic() + MAX_WAIT_SECONDS
        segment.when_ready(lambda: self._post(lambda: self._go_on(choice)))

    def _go_on(self, choice: Choice) -> None:
        if choice.sequence_id not in self._waiting:
            return  # it has ended meanwhile
        del self._waiting[choice.sequence_id]
        try:
            self.core.resume(choice.sequence_id)
            for event in self._force(choice, appends=True):
                choice.send(event)
            if choice.turn.ended:
                self._finish(choice, choice.turn.reason)
            elif choice.turn.awaited is not None:
                self._wait(choice, choice.turn.awaited)
        except Exception as error:
            self._fail_one(choice, error)

    def _end_late(self) -> None:
        """Nothing waits for ever."""
        now = time.monotonic()
        for sequence_id in [i for i, until in self._waiting.items() if until < now]:
            late = Overloaded("too many grammars wait to be compiled; try again later")
            self._fail_one(self.running[sequence_id], late)

    # --- the time that masks take ----------------------------------------------------------------

    def _timed(self, choice: Choice, call: Callable[[], T]) -> T:
        """What it returns. Raises ConstraintError where the choice's grammar takes too long."""
        waited, begin = time.monotonic(), time.thread_time()
        result = call()
        spent = time.thread_time() - begin
        choice.step_seconds += spent
        self.mask_seconds += spent
        choice.step_waited += time.monotonic() - waited
        total = choice.step_seconds
        over = total > MAX_STEP_SECONDS or choice.mask_seconds + total > MAX_MASK_SECONDS
        if over and total > ORDINARY_SECONDS:
            message = f"{choice.turn.constraint}: to tell what may come next takes too long"
            raise ConstraintError(message, code="mask_budget")
        return result

    def _rest(self, choice: Choice) -> None:
        """Slow ones together take one part in REST of the others' time, however many they are."""
        spent, choice.step_seconds = choice.step_seconds, 0.0
        waited, choice.step_waited = choice.step_waited, 0.0
        if spent <= ORDINARY_SECONDS:
            return
        choice.mask_seconds += spent
        others = len(self.running) - len(self._waiting) - len(self._resting) > 1
        if choice.sequence_id is not None and others:
            self.core.pause(choice.sequence_id)
            rest = REST * waited * (1 + len(self._resting))
            self._resting[choice.sequence_id] = time.monotonic() + rest

    def _end_rests(self) -> None:
        now = time.monotonic()
        if len(self.running) == len(self._waiting) + len(self._resting):
            now = max(now, min(self._resting.values()))  # nobody has anything of it
        for sequence_id in [i for i, until in self._resting.items() if until <= now]:
            del self._resting[sequence_id]
            self.core.resume(sequence_id)

    def _logprob(self, output: _core.StepOutput) -> TokenLogprob | None:
        if (logprob := output.logprob) is None:
            return None
        top = tuple(self._token_logprob(token_id, value) for token_id, value in output.top or ())
        found = self._token_logprob(output.token_id, logprob, top)
        return replace(found, masked_mass=output.masked_mass)

    def _token_logprob(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        data = self._token_bytes[token_id]
        return TokenLogprob(data.decode("utf-8", "replace"), logprob, data, top)
