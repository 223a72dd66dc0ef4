"""Runs that end without an answer, each with its own word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from f1.errors import F1Error
from f1.planning.outcome import GiveUp
from f1.planning.run import Run
from f1.types import Ending, FinishReason

_WHY: Mapping[Ending, str] = {
    "steps": "no answer within {0.steps} steps",
    "calls": "no answer within {0.calls} calls",
    "tokens": "no answer within {0.tokens} tokens",
    "seconds": "no answer within {0.seconds:g} seconds",
    "repeated": "the model asked for what it had, and then said nothing",
    "silent": "the model said nothing",
    "cut": "the token limit cut what the model said",
    "context": "what the calls brought does not fit the model's context",
}


def give_up(run: Run, ending: Ending) -> GiveUp:
    for node in run.nodes:
        if node.id not in run.executor.results:
            run.notes.append(f"{node.tool} (${node.id}) was called off; it may have begun")
    done = run.completed(ending)
    reason: FinishReason = "stop" if ending in ("repeated", "silent") else "length"
    done = replace(done, reason=reason, message=replace(done.message, tool_calls=()))
    return GiveUp(_WHY[ending].format(run.budget), done)


def as_it_ended(run: Run) -> GiveUp:
    """A run that has ended, told again: the record breaks off where it was ended. Raises F1Error
    where one ended it."""
    ended = run.journal.ended
    if ended is None or ended.ending not in _WHY:
        raise F1Error(
            (ended.error if ended is not None else "") or "the run broke off", code="run_failed"
        )
    return give_up(run, cast(Ending, ended.ending))


def why_silent(run: Run) -> Ending:
    if run.completion.reason == "length":
        spent = run.budget.tokens is not None and (run.usage.completion_tokens >= run.budget.tokens)
        return "tokens" if spent else "cut"
    if not run.nodes:
        return "silent"
    if len(run.nodes) >= run.budget.calls:
        return "calls"
    return "steps" if run.step == run.budget.steps else "repeated"
