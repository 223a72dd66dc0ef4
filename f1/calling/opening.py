"""Finds where a call begins in free text, as early as it can be told, and not before.

Linear in the text: what is held back is the beginning of one call at most, which is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from f1.calling.family import Form, elements
from f1.calling.source import MAX_WHITESPACE

_WHITESPACE = b" \n\t\r"


@dataclass(frozen=True, slots=True)
class Opened:
    """A call has begun: `name` is known when the form commits at the name, else still to come."""

    form: Form
    name: str | None
    text: bytes  # everything read from where the call begins
    rest: bytes  # its part behind the point of commitment


class Opening:
    """Splits a turn's bytes into text that is certainly text and a call's beginning."""

    def __init__(self, forms: Sequence[Form], names: Sequence[str]):
        self._forms = [(form, [e.encode() for e in elements(form.open)]) for form in forms]
        self._names = [name.encode() for name in names]
        self._first = frozenset(parts[0][0] for _, parts in self._forms)
        self._pending = b""  # what may be a call's beginning
        self._at_start = True

    def push(self, data: bytes) -> tuple[bytes, Opened | None]:
        """Returns the bytes now known to be text, and the call if one has begun."""
        pending, self._pending = self._pending + data, b""
        for start in self._starts(pending):
            only_white = self._at_start and not pending[:start].strip()
            for form, parts in self._forms:
                if form.only_at_start and not only_white:
                    continue
                found = self._match(form, parts, pending, start)
                if found is None:
                    continue
                self._at_start = only_white
                if isinstance(found, Opened):
                    return pending[:start], found
                self._pending = pending[start:]
                return pending[:start], None
        self._at_start = self._at_start and not pending.strip()
        return pending, None

    def _starts(self, text: bytes) -> list[int]:
        """Where a form may begin."""
        if self._first.isdisjoint(text):
            return []
        return [at for at, byte in enumerate(text) if byte in self._first]

    @property
    def pending(self) -> bytes:
        """What was read of something that may be a call."""
        return self._pending

    def takes(self, data: bytes) -> bool:
        """Whether a call may begin in `data`, were it read now."""
        if self._first.isdisjoint(data):
            return False
        twin = self.copy()
        _, opened = twin.push(data)
        return opened is not None or bool(twin.pending)

    def copy(self) -> Opening:
        twin = Opening((), ())
        twin._forms, twin._names, twin._first = self._forms, self._names, self._first
        twin._pending, twin._at_start = self._pending, self._at_start
        return twin

    def flush(self) -> bytes:
        """The turn is over: what was held back is text after all."""
        pending, self._pending = self._pending, b""
        return pending

    def _match(self, form: Form, parts: list[bytes], text: bytes, at: int) -> Opened | bytes | None:
        """Opened: a call begins at `at`; the partial match: it may; None: it does not."""
        begin = at
        for index, part in enumerate(parts):
            if index and (at := _skip(text, at)) < 0:
                return None
            if not text.startswith(part, at):
                return text[at:] if part.startswith(text[at:]) else None
            at += len(part)
            if form.commits_at == "marker":
                return Opened(form, None, text[begin:], text[at:])
        if (at := _skip(text, at)) < 0:
            return None
        for name in self._names:
            quoted = b'"' + name + b'"'
            if text.startswith(quoted, at):
                return Opened(form, name.decode(), text[begin:], text[at + len(quoted) :])
        possible = any((b'"' + name + b'"').startswith(text[at:]) for name in self._names)
        return text[at:] if possible else None


def _skip(text: bytes, at: int) -> int:
    """Behind the white space at `at`; negative where that is more than a grammar would take."""
    end = at
    while end < len(text) and text[end] in _WHITESPACE:
        end += 1
    return end if end - at <= MAX_WHITESPACE else -1
