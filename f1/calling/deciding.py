"""What a turn decides while it is decoded, read off the probabilities of tokens: whether to call,
and which tool.

    text      ┬ "<tool_call>", "```", …    what a call begins with
              └ all else, the end
    name      "get_" ┬ "weather"           where the names of tools part
                     └ "time"
    behind a  "}\\n</tool_call>" ┬ "\\n<tool_call>…"
    call                        └ the end of the turn

Every option is a text (some tools' names differ late), and a token leaves open those options whose
text goes on with it, in whatever pieces. How likely an option is found is the product, token by
token, of all tokens that leave it open: what the model would write in other pieces is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from f1.calling.family import Form
from f1.calling.latest import Latest
from f1.calling.opening import Opening
from f1.calling.spelling import Spelling
from f1.types import Choosing

_KEPT_BYTES = 16 << 20  # of watches
_LONGEST = 48  # bytes of a text in which tokens that begin it are looked for
_WHITESPACE = b" \n\t\r"

# A token's log-probability, those of the tokens watched for, how likely the model found all that
# was not legal; among the legal.
Reading = tuple[float, NDArray[np.float32], float]


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Tokens whose probabilities tell how a decision goes."""

    token_ids: NDArray[np.int32]  # ascending
    options: tuple[int, ...]  # of each token: what it leaves open, a bit an option; -1: any tool
    ends: NDArray[np.bool_]  # of each: it ends the turn
    always: bool  # else only where one of them is sampled


@dataclass(frozen=True, slots=True)
class Options:
    """`texts`: what may be written from some point on, and `read`: what has been since. With more
    texts than labels they go through the labels again and again."""

    what: Literal["call", "tool"]
    labels: tuple[str, ...]
    texts: tuple[bytes, ...]
    read: bytes
    ends: str = ""  # the label of a token that ends the turn


class Watches:
    """Makes them for one model, and keeps the latest: the same tools come again. Thread-safe."""

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        spelling: Spelling,
        forms: Sequence[Form],
        stop_token_ids: Iterable[int],
    ):
        self.token_bytes = token_bytes
        self.forms = forms
        self._spelling = spelling
        self._stops = sorted(stop_token_ids)
        opening = Opening(forms, ())
        self.openers = frozenset(i for i, data in enumerate(token_bytes) if opening.takes(data))
        found = dict.fromkeys(self.openers, -1) | dict.fromkeys(self._stops, 0)
        self.at_start, self.in_text = (self._watch(found, always=a) for a in (True, False))
        self.of = Latest(self._of, _KEPT_BYTES, _weight)

    def _of(self, num_labels: int, texts: tuple[bytes, ...], read: bytes, ends: int) -> Watch:
        """`ends`: what a token leaves open that ends the turn."""
        begun: dict[bytes, int] = {}
        for index, text in enumerate(texts):
            rest = _behind(text, read)
            if rest is None:
                continue
            lead = rest[: len(rest) - len(rest.lstrip(_WHITESPACE))]
            bare = rest[len(lead) :]
            for spelled in {rest, bare, b" " + bare, b"\n" + bare} if bare else ():
                part = spelled[:_LONGEST]
                begun[part] = begun.get(part, 0) | 1 << index % num_labels
        found: dict[int, int] = {}
        for part, bits in begun.items():
            for token_id in self._spelling.beginnings(part):
                found[token_id] = found.get(token_id, 0) | bits
        found |= dict.fromkeys(self._stops, ends)
        return self._watch(found, always=True)

    def _watch(self, found: dict[int, int], *, always: bool) -> Watch:
        token_ids = np.array(sorted(found), np.int32)
        options = tuple(found[i] for i in token_ids.tolist())
        return Watch(token_ids, options, np.isin(token_ids, self._stops), always)


class Deciding:
    """The decisions of one turn. For each token `watch` what is to be known, `note` what was found
    before the turn takes it, `settle` afterwards."""

    def __init__(self, watches: Watches, names: Sequence[str]):
        self.made: list[Choosing] = []
        self._watches = watches
        self._names = tuple(names)
        self._free = True  # it is open whether what is read is a call
        self._fresh = True  # nothing but white space was said, thoughts apart
        self._options: Options | None = None
        self._watch: Watch | None = None
        self._call: _Opening | None = None
        self._fork: _Fork | None = None  # which tool, or whether to call again

    # --- before a token ------------------------------------------------------------------------

    def in_text(self, pending: bytes) -> Watch:
        """Text, or a call that begins with what is `pending`."""
        if pending:
            return self._before_name(self._texts, pending)
        self._free, self._options = True, None
        self._watch = self._watches.at_start if self._fresh else self._watches.in_text
        return self._watch

    def near(self, pending: bytes) -> bool:
        """Whether the next token decides something in text, or may."""
        return self._fresh or bool(pending)

    def before_opener(self, draft: Sequence[int]) -> Sequence[int]:
        """As much of it as begins no call."""
        openers = self._watches.openers
        return draft[: next((i for i, t in enumerate(draft) if t in openers), len(draft))]

    def in_content(self, form: Form, read: bytes) -> Watch:
        """Content, or the call in this form that may stand in its place."""
        return self._before_name(call_texts(form, form.open, self._names), read)

    def among(self, options: Options | None) -> Watch | None:
        """A call's name, or what follows it."""
        self._free, self._options, self._watch = False, options, None
        if options is None or len(options.labels) < 2:
            return None
        ends = 1 << options.labels.index(options.ends) if options.ends else 0
        watch = self._watches.of(len(options.labels), options.texts, options.read, ends)
        if len(set(watch.options) - {0}) > 1:
            self._watch = watch
        return self._watch

    def _before_name(self, texts: tuple[bytes, ...], read: bytes) -> Watch:
        self._free, self._options = True, Options("tool", self._names, texts, read)
        self._watch = self._watches.of(len(self._names), texts, read, 0)
        return self._watch

    @cached_property
    def _texts(self) -> tuple[bytes, ...]:
        forms = self._watches.forms
        return tuple(text for f in forms for text in call_texts(f, f.open, self._names))

    # --- with it -------------------------------------------------------------------------------

    def note(self, at: int, token_id: int, reading: Reading) -> None:
        """`at`: its index among the turn's tokens."""
        watch, options = self._watch, self._options
        if watch is None:
            return
        found = np.exp(reading[1].astype(np.float64))
        if self._free:
            self._note_call(at, token_id, reading, watch, found)
        if options is None:
            return
        if self._fork is None or self._fork.labels != options.labels:
            self._fork = _Fork(options.what, options.labels)
        self._fork.step(at, token_id, reading, watch, found)
        if options.what == "call" and (choosing := self._fork.taken()) is not None:
            self.made.append(choosing)
            self._fork = None

    def _note_call(
        self, at: int, token_id: int, reading: Reading, watch: Watch, found: NDArray[np.float64]
    ) -> None:
        ends = float(found[watch.ends].sum())
        calls = float(found.sum()) - ends
        place = int(np.searchsorted(watch.token_ids, token_id))
        known = place < len(watch.token_ids) and watch.token_ids[place] == token_id
        if known and watch.ends[place]:
            again = _log(calls) + (self._call.log if self._call else 0.0)
            self.made.append(Choosing(at, "call", "end", _log(ends), "call", again, reading[2]))
            self._call = None
            return
        if self._call is not None:
            self._call.log += _log(calls)
        elif self._watches.token_bytes[token_id].strip():
            self._call = _Opening(at, _log(calls), ends, reading[2], self._fresh)

    # --- behind it -----------------------------------------------------------------------------

    def settle(self, now: Literal["open", "text", "thought", "called"], name: str | None) -> None:
        """What came of it: it is `open`, or it was text, or a call has begun, of the tool `name` if
        that is known."""
        call, self._call = self._call, None
        if now == "open":
            self._call = call
        elif now == "text" and call is not None and call.fresh:
            self._fresh = False
            self.made.append(call.not_taken())
        elif now == "called" and call is not None:
            self._fresh = False
            self.made.append(call.taken())
        if now in ("text", "thought"):
            self._fork = None
        elif now == "called" and self._fork is not None:
            if (choosing := self._fork.taken(name)) is not None:
                self.made.append(choosing)
            if choosing is not None or name is not None:
                self._fork = None


@dataclass(slots=True)
class _Opening:
    """Whether to call, while what may be a call's beginning is read."""

    at: int
    log: float  # of a call
    ends: float  # how likely the end was instead
    masked_mass: float
    fresh: bool  # it is how the turn begins

    def taken(self) -> Choosing:
        ends, text = _log(self.ends), _log(1 - math.exp(self.log) - self.ends)
        second = ("text", text) if text >= ends else ("end", ends)
        return Choosing(self.at, "call", "call", self.log, *second, self.masked_mass)

    def not_taken(self) -> Choosing:
        text = _log(1 - math.exp(self.log) - self.ends)
        return Choosing(self.at, "call", "text", text, "call", self.log, self.masked_mass)


class _Fork:
    """One of several options, while it is written."""

    def __init__(self, what: Literal["call", "tool"], labels: tuple[str, ...]):
        self.labels = labels
        self._what = what
        self._open = (1 << len(labels)) - 1
        self._log = 0.0
        self._at = -1  # no two have parted
        self._masked_mass = 0.0
        self._second: tuple[str, float | None] = ("", None)

    def step(
        self, at: int, token_id: int, reading: Reading, watch: Watch, found: NDArray[np.float64]
    ) -> None:
        place = int(np.searchsorted(watch.token_ids, token_id))
        if place == len(watch.token_ids) or watch.token_ids[place] != token_id:
            return  # white space more than there has to be
        left = watch.options[place] & self._open
        if left in (0, self._open):
            return  # no option is out, or all are
        each = list(zip(watch.options, found.tolist(), strict=True))
        likeliest, other = max(
            ((p, bits & self._open) for bits, p in each if bits & self._open and not bits & left),
            default=(0.0, 0),
        )
        if likeliest > 0:
            mass = sum(p for bits, p in each if bits & other and not bits & left)
            second = self._log + _log(mass)
            if self._second[1] is None or second > self._second[1]:
                self._second = self._label(other), second
        if self._at < 0:
            self._at, self._masked_mass = at, reading[2]
        self._log += _log(sum(p for bits, p in each if bits & left))
        self._open = left

    def taken(self, name: str | None = None) -> Choosing | None:
        """None: it is not decided yet, or there was nothing to decide."""
        if name is None and self._open.bit_count() == 1:
            name = self.labels[self._open.bit_length() - 1]
        if name is None or self._at < 0:
            return None
        log, mass = self._log, self._masked_mass
        return Choosing(self._at, self._what, name, log, *self._second, mass)

    def _label(self, bits: int) -> str:
        """The one, or what the names of several have in common."""
        of_them = [label for i, label in enumerate(self.labels) if bits >> i & 1]
        if len(of_them) == 1:
            return of_them[0]
        first, last = min(of_them), max(of_them)
        size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
        return first[:size] + "*"


def call_texts(form: Form, lead: str, names: Iterable[str]) -> tuple[bytes, ...]:
    """What a call of each is written like, from `lead` up to its arguments."""
    return tuple(f'{lead} "{name}"{form.arguments}'.encode() for name in names)


def _behind(text: bytes, read: bytes) -> bytes | None:
    """The rest of `text` behind what was `read` of it, with whatever white space; None: it is not
    what was read."""
    if text.startswith(read):
        return text[len(read) :]
    at = 0
    for byte in read:
        if byte in _WHITESPACE:
            at += at < len(text) and text[at] in _WHITESPACE
            continue
        while at < len(text) and text[at] in _WHITESPACE:
            at += 1
        if at == len(text) or text[at] != byte:
            return None
        at += 1
    return text[at:]


def _weight(watch: Watch, num_labels: int, texts: tuple[bytes, ...], read: bytes, ends: int) -> int:
    return 300 + 60 * len(watch.options) + sum(60 + len(text) for text in texts)


def _log(probability: float) -> float:
    return math.log(min(max(probability, 1e-300), 1.0))
