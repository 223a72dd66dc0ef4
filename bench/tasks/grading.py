"""Judges how a task ended: the world as it is now, and what the answer says."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from task import Fact, Placed, Task, World

_NUMBER = re.compile(r"-?\d+(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_CLOCK = re.compile(r"\b(\d{1,2})(?::(\d\d))?\s*([ap])\.?m\b\.?")
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ASKS = re.compile(
    r"\?|\b(please|could you|needs?|provide|specify|tell me|let me know|which|missing|clarify)\b"
)
_DONE = re.compile(
    r"\b(successfully|done|all set|has been|have been|is now|are now|was|were|i(?:'ve| have)|i)\s+"
    r"(?:\w+ )?(added|booked|cancell?ed|changed|confirmed|created|deleted|locked|moved|ordered|paid"
    r"|placed|played|refunded|reserved|saved|scheduled|sent|set|started|transferred|turned|updated"
    r"|written|wrote|called)\b"
)
_NOT = re.compile(r"\b(not|never|no|cannot|unable|if|once|when|after|would)\b|n't")


@dataclass(frozen=True, slots=True)
class Verdict:
    """`why` is "" where the task was done, else the first thing that was wrong."""

    why: str

    @property
    def passed(self) -> bool:
        return not self.why


def play_oracle(placed: Placed) -> tuple[World, list[Any]]:
    """The world after the oracle's calls, and what they returned. A call that fails is a result."""
    world = placed.world()
    tools = {tool.tool.name: tool for tool in world.tools()}
    results: list[Any] = []
    for name, arguments in placed.task.calls:
        try:
            results.append(tools[name](**arguments))
        except Exception as error:  # the tool's own: what the model would be told
            results.append(f"{type(error).__name__}: {error}")
    return world, results


def grade(placed: Placed, world: World, answer: str) -> Verdict:
    task = placed.task
    if not answer.strip():
        return Verdict("no answer")
    if task.category == "irrelevant" and world.log:
        return Verdict("called")
    if world.state() != play_oracle(placed)[0].state():
        return Verdict("state")
    if absent := [fact for fact in task.facts if not has_fact(answer, fact)]:
        return Verdict(f"fact {absent[0]!r}")
    if not task.calls:
        return _said_nothing_untrue(task, answer)
    return Verdict("")


def _said_nothing_untrue(task: Task, answer: str) -> Verdict:
    if claims_success(answer):
        return Verdict("invented success")
    if task.category == "missing" and not _ASKS.search(_plain(answer)):
        return Verdict("did not ask")
    return Verdict("")


def claims_success(answer: str) -> bool:
    """Some sentence says that something was done, and nothing in it takes that back."""
    return any(
        _DONE.search(sentence) and not _NOT.search(sentence)
        for sentence in re.split(r"[.!?;\n]", _plain(answer))
    )


def has_fact(answer: str, fact: Fact) -> bool:
    if isinstance(fact, tuple):
        return any(has_fact(answer, one) for one in fact)
    text = _plain(answer)
    if isinstance(fact, str):
        return _plain(fact) in text or _plain(fact) in _twenty_four_hours(text)
    # A result such as 83.333 may be told to one digit; a whole number has to be right.
    slack = 0.005 if float(fact).is_integer() else 0.051
    return any(abs(number - fact) <= slack for number in _numbers(text))


def _numbers(text: str) -> list[float]:
    found = [float(match.replace(",", "")) for match in _NUMBER.findall(text)]
    return found + [float(_WORDS.index(w)) for w in re.findall(r"[a-z]+", text) if w in _WORDS]


def _plain(text: str) -> str:
    """Lower case, no accents, one kind of quotes, dashes and spaces."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    bare = bare.replace("\u2019", "'").replace("\u2013", "-").replace("\u2212", "-")
    return " ".join(bare.split())


def _twenty_four_hours(text: str) -> str:
    """`2:30 pm` as `14:30`."""

    def write(match: re.Match[str]) -> str:
        hour = int(match[1]) % 12 + (12 if match[3] == "p" else 0)
        return f"{hour:02d}:{match[2] or '00'}"

    return _CLOCK.sub(write, text)
