"""Which schemas, patterns and grammars of requests are taken, decided before any work is done.

    plain, by the rules ──────────────▶ made here, without a vocabulary: a fraction of a millisecond
    doubtful ──▶ judge (may be ended) ─▶ taken as it is, or without some keywords, or refused

A keyword that makes the grammar fail or take too long is left to validation; what fails without
any such keyword is refused, naming the tool, the path and the keyword that weighs most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from threading import Lock
from typing import Literal

from f1.calling.judge import Judge, Verdict
from f1.calling.lowering import RELAXATIONS, Lowered, lower
from f1.calling.schema import schema_text
from f1.calling.source import MAX_WHITESPACE, Source, reason
from f1.calling.suspicion import Doubt, doubts
from f1.errors import F1Error, InvalidRequest, InvalidSchema, Overloaded
from f1.types import JsonSchema, Relaxed

REQUEST_SECONDS = 3.0  # in which all schemas of a request are judged
TRIAL_SECONDS = 1.4  # of processor time for one; together not more than 2 s
RETRIAL_SECONDS = 0.6  # without the keywords that can be left out
SLOW_SECONDS = 0.05  # beyond, others' grammars do not wait for it
MAX_VERDICTS = 16_384  # kept
MAX_RELAXED = 32  # told of one schema
TOO_MUCH_TIME = "its grammar takes too much time"

Given = JsonSchema | str  # a schema, or the text of a pattern or grammar


@dataclass(frozen=True)
class Subject:
    """What is to be judged, and the request's field that holds it."""

    kind: Literal["json_schema", "regex", "ebnf"]
    given: Given
    param: str
    freely: bool = False

    @cached_property
    def key(self) -> bytes:
        given = self.given
        text = given.encode() if isinstance(given, str) else schema_text(given, self.param)
        mark = f"{self.kind} {self.freely} ".encode()
        return blake2b(mark + text, digest_size=16).digest()

    def at(self, level: int) -> tuple[Lowered, Source]:
        """As it is tried without what that level of RELAXATIONS leaves out."""
        given = self.given
        if isinstance(given, str):
            return Lowered(""), Source("regex" if self.kind == "regex" else "ebnf", given)
        space = MAX_WHITESPACE if self.freely else 0
        lowered = lower(given, self.param, whitespace=space, without=RELAXATIONS[level])
        return lowered, Source("ebnf", lowered.ebnf)

    def refusal(self, why: str) -> InvalidRequest:
        if self.kind != "json_schema":
            message = f"{self.param}: the {self.kind} does not compile: {why}"
            return InvalidRequest(message, param=self.param)
        message = f"{self.param}: cannot be made into a grammar: {why}"
        return InvalidSchema(message, param=self.param)


@dataclass(frozen=True, slots=True)
class Admitted:
    """`level`: how many of lowering's RELAXATIONS it took. `refused`: why it is not admitted."""

    level: int = 0
    relaxed: tuple[Relaxed, ...] = ()
    slow: bool = False
    refused: str | None = None


class Verdicts:
    """Thread-safe; the latest are kept. Without a judge (for tests) nothing is doubtful."""

    def __init__(self, judge: Judge | None):
        self._judge = judge
        self._kept: OrderedDict[bytes, Admitted] = OrderedDict()
        self._lock = Lock()

    def admit(self, subjects: Sequence[Subject]) -> list[Admitted]:
        """Raises InvalidSchema or InvalidRequest for what is refused, or took the time in which
        others were to be judged, Overloaded where there was no time to tell."""
        found, trials = self._look_up(subjects)
        if trials:
            found |= self._try(trials)
        admitted = [found[subject.key] for subject in subjects]
        for subject, outcome in zip(subjects, admitted, strict=True):
            if outcome.refused is not None:
                raise subject.refusal(outcome.refused)
        return admitted

    def at_once(self, subjects: Sequence[Subject]) -> bool:
        """Whether admit() can tell without the judge."""
        _, trials = self._look_up(subjects)
        doubtful = [trial for trial in trials if trial.is_doubtful(self._judge)]
        for trial in trials:
            if trial.outcome is not None:
                self._keep(trial.key, trial.outcome)
        return not doubtful

    def known(self, subject: Subject) -> Admitted | None:
        with self._lock:
            return self._kept.get(subject.key)

    def _look_up(self, subjects: Sequence[Subject]) -> tuple[dict[bytes, Admitted], list[_Trial]]:
        keys = {subject.key: subject for subject in subjects}
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
        return found, [_Trial(key, s) for key, s in keys.items() if key not in found]

    def _try(self, trials: list[_Trial]) -> dict[bytes, Admitted]:
        found: dict[bytes, Admitted] = {}
        left, seconds = REQUEST_SECONDS, TRIAL_SECONDS
        while trials:
            doubtful = [trial for trial in trials if trial.is_doubtful(self._judge)]
            if doubtful and self._judge is not None:
                sources = [trial.source for trial in doubtful]
                verdicts = self._judge.ask(sources, cpu_seconds=seconds, seconds=left)
                for trial, verdict in zip(doubtful, verdicts, strict=True):
                    trial.hear(verdict)
                left -= sum(verdict.seconds for verdict in verdicts)
            for trial in trials:
                if trial.outcome is not None:
                    found[trial.key] = trial.outcome
                    self._keep(trial.key, trial.outcome)
            if not all(trial.sure for trial in trials):
                raise self._out_of_time(trials, REQUEST_SECONDS - left)
            trials = [trial for trial in trials if trial.outcome is None]
            seconds = RETRIAL_SECONDS
        return found

    def _out_of_time(self, trials: Sequence[_Trial], spent: float) -> F1Error:
        """Names what is refused, or took most of the time. What was not looked at for that is not
        judged by it: it may come again in better company."""
        for trial in trials:
            if trial.outcome is not None and trial.outcome.refused is not None:
                return trial.subject.refusal(trial.outcome.refused)
        costly = [trial for trial in trials if trial.sure and trial.outcome is None]
        if costly and spent > REQUEST_SECONDS / 2:
            worst = max(costly, key=lambda trial: trial.seconds)
            return worst.subject.refusal(worst.blaming(TOO_MUCH_TIME))
        return Overloaded("schemas could not be looked at in time; try again later")

    def _keep(self, key: bytes, outcome: Admitted) -> None:
        with self._lock:
            self._kept[key] = outcome
            while len(self._kept) > MAX_VERDICTS:
                self._kept.popitem(last=False)


class _Trial:
    """One subject on its way to an outcome."""

    def __init__(self, key: bytes, subject: Subject):
        self.key = key
        self.outcome: Admitted | None = None
        self.sure = True
        self.seconds = 0.0  # that it took so far
        self.subject = subject
        self._level = 0
        try:
            self._lowered, self.source = subject.at(0)
        except InvalidSchema as error:
            self._lowered, self.source = Lowered(""), Source("ebnf", "")
            self.outcome = Admitted(refused=error.message)
        self._doubts: list[Doubt] | None = None

    def is_doubtful(self, judge: Judge | None) -> bool:
        """Settles it at once where it is not."""
        while self.outcome is None:
            if judge is not None and self._is_suspect():
                return True
            try:
                self.source.grammar()
                self._pass(slow=False)
            except RuntimeError as error:
                self._relax(reason(error), self._level + 1)
        return False

    def blaming(self, why: str) -> str:
        """`why`, and what in the schema weighs most."""
        return why + _blame(self._doubts)

    def hear(self, verdict: Verdict) -> None:
        self.seconds += verdict.seconds
        if not verdict.sure:
            self.sure = False
        elif verdict.ended:
            why = TOO_MUCH_TIME if verdict.ended == "time" else "its grammar takes too much memory"
            self._relax(why, len(RELAXATIONS) - 1)
        elif verdict.error is not None:
            self._relax(verdict.error, self._level + 1)
        else:
            self._pass(slow=verdict.seconds > SLOW_SECONDS)

    def _is_suspect(self) -> bool:
        if isinstance(self.subject.given, str):
            return True
        found = doubts(self.subject.given, len(self.source.text))
        if self._doubts is None:  # an error names what weighs most of all
            self._doubts = found
        return bool(found)

    def _pass(self, *, slow: bool) -> None:
        self.outcome = Admitted(self._level, self._lowered.relaxed[:MAX_RELAXED], slow)

    def _relax(self, why: str, level: int) -> None:
        """On to that level, or the next one at which something else is left out."""
        if self.subject.kind == "json_schema":
            while level < len(RELAXATIONS):
                lowered, source = self.subject.at(level)
                if source.text != self.source.text:
                    self._level, self._lowered, self.source = level, lowered, source
                    return
                level += 1
        self.outcome = Admitted(refused=self.blaming(why))


def _blame(doubts: Sequence[Doubt] | None) -> str:
    if not doubts:
        return ""
    heaviest = doubts[0]
    place = ".".join(filter(None, (heaviest.path, heaviest.keyword)))
    return f"; what weighs most is {place or 'all of it'}: {heaviest.why}"
