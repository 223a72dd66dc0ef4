"""Takes secrets out of what is to be written down, right before it is.

    JSON of an entry ─▶ fields that hold secrets, by name ─▶ texts, and JSON in texts ─▶ JSON
                         values known to be secret ┘           └ shapes, contexts, encodings

    {"password": "hunter2"}  ──▶  {"password": "[redacted:password#9c1f00a3b2d4]"}

Equal secrets have equal digests, by a key that stays on this machine: nobody who has the record
alone can try words until one fits. Redacting what is redacted changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import re2

from f1.calling.schema import deeper_than
from f1.trace.secrets import (
    MAX_DEPTH,
    Span,
    base64_of,
    find,
    is_clean,
    is_secret_name,
    words_of,
)

CUT = "… (cut: "  # as f1.planning.content says it
LEAST = 6  # characters of a value that is hidden wherever it stands; shorter ones are words
MAX_LEARNT = 256  # values of a run; those of further fields are hidden in their places alone
MAX_SEEN = 1 << 16  # texts of a run that keep their form
MAX_LEVELS = 64  # of JSON in a text; deeper, it is read as text
_FEW = 64  # spellings that are looked for one by one
_MARK = re.compile(r"\[redacted:[a-z0-9_]{1,32}#[0-9a-f]{12}\]")
_IS = "is"
_KEY_BYTES = 32
# Of a schema: under a property's secret name these say what it is, not what it holds.
_SCHEMA_WORDS = frozenset(
    "type description title format minLength maxLength minimum maximum pattern writeOnly readOnly "
    "nullable deprecated anyOf oneOf allOf not items properties required additionalProperties "
    "$ref $comment enum const default example examples".split()
)
_SCHEMA_VALUES = frozenset("enum const default example examples".split())
_SCHEMAS = {"Tool": ("parameters", "accepts"), "Defined": ("output",), "ResponseFormat": ("value",)}
# What is said of secret fields, and what they hold, is read before what may speak of them.
_FIRST = {"Message": "tool_calls", "GenerateRequest": "tools"}
_PIECES = {"TextDelta": "text", "ReasoningDelta": "text", "ArgumentsDelta": "text"}
_IDS = ("prompt_ids", "token_ids")


def is_marked(value: Any) -> bool:
    """JSON, or a text, in which something was redacted: no call is to be made with it."""
    if isinstance(value, str):
        return _MARK.search(value) is not None
    if isinstance(value, Mapping):
        return any(is_marked(key) or is_marked(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and any(map(is_marked, value))


def read_key(file: Path) -> bytes:
    """The key of this machine's digests; made where there is none. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    if not file.exists():
        handle = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as made:
            made.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(mine, file)  # whole at once, and by one process alone
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    key = file.read_bytes()
    if len(key) < _KEY_BYTES:
        raise OSError(f"{file} is no key")
    return key


class Redaction:
    """`fields`: names of fields that the operator calls secret; `values`: kinds of values that the
    process knows, by value. For any number of threads."""

    def __init__(
        self, key: bytes, *, fields: Iterable[str] = (), values: Mapping[str, str] | None = None
    ):
        self._key = key
        self._fields: frozenset[str] = frozenset()
        self._values: dict[str, str] = {}  # spellings, and what stands in their place
        self._named: re2._Regexp[str] | None = None
        self._known: re2._Regexp[str] | None = None
        self._newer: list[str] = []  # spellings that are not in the pattern yet
        self._escaped = False  # some of them are spelled otherwise in JSON, and in JSON in that
        self._name(map(words_of, fields))
        self._know({value: self._mark(value, kind) for value, kind in (values or {}).items()})
        self._compile()

    def for_run(self) -> RunRedaction:
        return RunRedaction(self)

    def text(self, text: str) -> str:
        """A line of a log, an error, an attribute."""
        return self._text(text, 0)

    def redact(self, value: Any) -> Any:
        """JSON as CODEC.encode writes it."""
        return self._coded(value)

    # --- JSON ------------------------------------------------------------------------------------

    def _coded(self, value: Any) -> Any:
        """Words of F1, whose own fields hold no secrets by their names; others' JSON in them."""
        kind = type(value)
        if kind is str:
            return self._text(value, 0)
        if kind is list:
            if _is_others(value) and self._is_clean(_dumped(value)):
                return value
            return [self._coded(inner) for inner in value]
        if kind is not dict:
            return value
        word = value.get(_IS)
        if word == "" and isinstance(value.get("json"), dict):
            return {_IS: "", "json": self._fields_of(value["json"], 0)}
        if word is None:
            if self._is_clean(_dumped(value)):
                return value
            return self._fields_of(value, 0, coded=True)
        if word == "Turned":
            return self._turned(value)
        first = _FIRST.get(word, "")
        known = {first: self._field(word, first, value[first])} if first in value else {}
        return {
            name: known[name] if name in known else self._field(word, name, inner)
            for name, inner in value.items()
        }

    def _field(self, word: str, name: str, value: Any) -> Any:
        """A field of one of our own words."""
        if name in _SCHEMAS.get(word, ()):
            self._declare(value)
            return value if self._is_clean(_dumped(value)) else self._schema(value, None)
        if type(value) is dict and value.get(_IS) is None and name in ("models", "tools", "roles"):
            return {self._text(key, 0): self._coded(inner) for key, inner in value.items()}
        return self._coded(value)

    def _fields_of(self, given: dict[str, Any], depth: int, coded: bool = False) -> dict[str, Any]:
        """Of somebody's JSON."""
        found = {}
        for name, value in given.items():
            kind = self._kind_of(name)
            if kind and not (coded and type(value) is dict and value.get(_IS) == "Ref"):
                value = self._hidden(value, kind, depth)
            else:
                value = self._coded(value) if coded else self._plain(value, depth)
            found[self._text(name, depth)] = value
        return found

    def _plain(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value, depth)
        if kind not in (list, dict) or self._is_clean(_dumped(value)):
            return value
        if kind is list:
            return [self._plain(inner, depth) for inner in value]
        return self._fields_of(value, depth)

    def _kind_of(self, name: str) -> str:
        """Why a field of this name is hidden; "": it is not."""
        words = words_of(name)
        if words in self._fields:
            return "field"
        if not is_secret_name(name):
            return ""
        return words if len(words) <= 32 and words.isascii() else "field"

    def _hidden(self, value: Any, kind: str, depth: int) -> Any:
        """All that is in it, but for what a schema says of it."""
        if isinstance(value, dict):
            if value and value.keys() <= _SCHEMA_WORDS:
                return self._schema(value, kind)
            return {self._text(k, depth): self._hidden(v, kind, depth) for k, v in value.items()}
        if isinstance(value, list):
            return [self._hidden(inner, kind, depth) for inner in value]
        if value is None or isinstance(value, bool) or value == "":
            return value
        if not isinstance(value, str):
            if kind.endswith(("token", "cookie", "authorization")):
                return value  # seconds to the first, how many
            value = json.dumps(value)
        return value if _MARK.fullmatch(value) else self._found(value, kind)

    def _found(self, value: str, kind: str) -> str:
        return self._mark(value, kind)

    def _declare(self, schema: Any) -> None:
        """Those who redact a run learn which fields its tools call secret."""

    def _schema(self, value: Any, kind: str | None) -> Any:
        """Names of properties are no fields here. `kind`: of its property, if that is secret."""
        if isinstance(value, list):
            return [self._schema(inner, kind) for inner in value]
        if not isinstance(value, dict):
            return self._text(value, 0) if isinstance(value, str) else value
        found = {}
        for name, inner in value.items():
            if name == "properties" and isinstance(inner, dict):
                inner = {
                    each: self._schema(of, self._kind_of(each) or None)
                    for each, of in inner.items()
                }
            elif kind and name in _SCHEMA_VALUES:
                inner = self._hidden(inner, kind, 0)
            else:
                inner = self._schema(inner, kind)
            found[self._text(name, 0)] = inner
        return found

    # --- a turn ----------------------------------------------------------------------------------

    def _turned(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Token by token a secret is in no piece: they are read together. Where there is one, the
        ids that spell it go too, and so do the log-probabilities, which name tokens."""
        rest = {n: v for n, v in entry.items() if n not in ("events", *_IDS)}
        events = [_without(event, "logprobs") for event in entry.get("events", ())]
        # What a call's fields hold is known before the pieces are read that it was written in.
        whole = [e if e.get(_IS) in _PIECES else self._coded(e) for e in events]
        clean = list(self._joined(whole))
        found = {_IS: "Turned", **{n: self._coded(v) for n, v in rest.items() if n != _IS}}
        if clean == events and not self._holds(entry):
            found["events"] = entry.get("events", [])
            found |= {name: entry[name] for name in _IDS if name in entry}
        else:
            found["events"] = [_without_ids(event) for event in clean]
            if any(name in entry for name in _IDS):
                found["asked"] = {**found.get("asked", {}), "redacted": list(_IDS)}
        return {name: found[name] for name in (*entry, "asked") if name in found}

    def _holds(self, entry: dict[str, Any]) -> bool:
        """The prompt, whose ids are in it, may have a secret."""
        return False

    def _joined(self, events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pieces of one text, read as one. Those before its first secret, and behind its last, stay
        as they were; what is between is one piece."""
        texts: dict[tuple[Any, ...], list[int]] = {}
        for at, event in enumerate(events):
            if event.get(_IS) in _PIECES:
                which = (event[_IS], event.get("choice"), event.get("index"))
                texts.setdefault(which, []).append(at)
        instead: dict[int, str] = {}
        for places in texts.values():
            pieces = [str(events[at].get("text", "")) for at in places]
            instead |= dict(zip(places, self._pieces(pieces), strict=True))
        for at, event in enumerate(events):
            if at not in instead or instead[at] == event.get("text", ""):
                yield event
            elif instead[at]:
                yield {**event, "text": instead[at]}

    def _pieces(self, pieces: list[str]) -> list[str]:
        """["my ", "sk-", "ab12…", " is"]  ──▶  ["my ", "[redacted:…]", "", " is"]"""
        text = "".join(pieces)
        clean = self._text(text, 0)
        if clean == text:
            return pieces
        same = _common(text, clean)
        least = min(len(text), len(clean)) - same
        tail = _common(text[::-1][:least], clean[::-1][:least])
        ends = list(accumulate(map(len, pieces)))
        first = bisect_right(ends, same)  # the piece in which they begin to differ
        last = bisect_left(ends, len(text) - tail)  # and the one in which they no longer do
        before = ends[first - 1] if first else 0
        middle = clean[before : len(clean) - (len(text) - ends[last])]
        return [*pieces[:first], middle, *[""] * (last - first), *pieces[last + 1 :]]

    # --- texts -----------------------------------------------------------------------------------

    def _text(self, text: str, depth: int) -> str:
        """Until nothing is found any more: what is redacted stays as it is."""
        if len(text) < 4 or self._is_clean(text):
            return text
        while (clean := self._once(text, depth)) != text:
            text = clean
        return text

    def _once(self, text: str, depth: int) -> str:
        if depth < MAX_DEPTH and (inner := self._json(text, depth)) is not None:
            text = inner
        if "[redacted:" not in text:
            return self._cleaned(text)
        parts, at = [], 0
        for mark in _MARK.finditer(text):
            parts += [self._cleaned(text[at : mark.start()]), mark[0]]
            at = mark.end()
        return "".join([*parts, self._cleaned(text[at:])])

    def _is_clean(self, text: str) -> bool:
        """Neither has it a secret, nor a field of a secret name; be it as text or as JSON."""
        return not self._knows(text) and is_clean(text, self._exact)

    def _knows(self, text: str) -> bool:
        """It may have a field, or a value, that was named."""
        return (
            (self._known is not None and self._known.search(text) is not None)
            or (bool(self._values) and CUT in text)
            or any(spelling in text for spelling in self._newer)
            or (self._named is not None and self._named.search(text) is not None)
            or (self._escaped and "\\" in text)
        )

    def _json(self, text: str, depth: int) -> str | None:
        """JSON in a text, without its secrets; None: as it was."""
        start = text[:64].lstrip()[:1]
        if start not in ("{", "[", '"') or not start:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if deeper_than(value, MAX_LEVELS):
            return None
        clean = self._plain(value, depth + 1)
        return None if clean == value else json.dumps(clean, ensure_ascii=False)

    def _cleaned(self, text: str) -> str:
        """A text without marks."""
        spans = self._spans(text)
        if not spans:
            return text
        parts, at = [], 0
        for start, end, kind in spans:
            parts += [text[at:start], self._in_place(text[start:end], kind)]
            at = end
        return "".join([*parts, text[at:]])

    def _spans(self, text: str) -> list[Span]:
        return find(text, self._exact)

    def _exact(self, text: str) -> Iterator[Span]:
        """Values that are known to be secret, however they are spelled."""
        if self._known is not None:
            for match in self._known.finditer(text):
                yield Span(match.start(), match.end(), "known")
        for spelling in [each for each in self._newer if each in text]:
            at = text.find(spelling)
            while at >= 0:
                yield Span(at, at + len(spelling), "known")
                at = text.find(spelling, at + len(spelling))
        if (at := text.find(CUT)) >= LEAST:
            yield from self._begun(text[:at])

    def _begun(self, text: str) -> Iterator[Span]:
        """The beginning of a known value, where a text was cut off."""
        for value in self._values:
            for size in range(min(len(value), len(text)), LEAST - 1, -1):
                if text.endswith(value[:size]):
                    yield Span(len(text) - size, len(text), "cut")
                    break

    def _in_place(self, value: str, kind: str) -> str:
        return self._values.get(value) or self._mark(value, kind)

    def _mark(self, value: str, kind: str) -> str:
        digest = hmac.digest(self._key, value.encode(errors="surrogatepass"), "sha256")
        return f"[redacted:{kind}#{digest[:6].hex()}]"

    def _name(self, fields: Iterable[str]) -> None:
        """Fields of these names, however they are written, are secret from now on."""
        if new := frozenset(fields) - self._fields:
            self._fields |= new
            spelled = [name.replace("_", "[^a-z0-9]*") for name in sorted(self._fields)]
            self._named = re2.compile("(?i)" + "|".join(spelled))

    def _know(self, marks: Mapping[str, str]) -> None:
        """Values that are secret from now on, and their marks."""
        for value, mark in marks.items():
            if not value or value in self._values:
                continue
            self._escaped |= json.dumps(value) != f'"{value}"'
            for spelling in sorted(_spellings(value)):
                if spelling not in self._values:
                    self._values[spelling] = mark
                    self._newer.append(spelling)
        if len(self._newer) > max(_FEW, len(self._values) // 2):
            self._compile()  # each time twice as many

    def _compile(self) -> None:
        """All spellings into one pattern: those that begin alike stand together, which RE2 makes
        one of, and the longest of them comes first, which is the one that counts."""
        if self._values:
            options = re2.Options()
            options.max_mem = 1 << 28
            spellings = sorted(self._values, reverse=True)
            self._known = re2.compile("|".join(map(re2.escape, spellings)), options)
        self._newer = []


class RunRedaction(Redaction):
    """Of one run, and what its entries teach: fields that its tools call secret, values that such
    fields have held, wherever they come up again. What was once told stays told in the same way,
    so that the run's conversation has one form, and a replay finds it."""

    def __init__(self, shared: Redaction):
        super().__init__(shared._key)
        self._fields, self._named = shared._fields, shared._named
        self._shared = shared
        self._seen: dict[bytes, str | None] = {}  # by digest; None: it stays as it is
        self._learnt = 0
        self._held = False  # there was a secret: prompts may have it from then on

    def _knows(self, text: str) -> bool:
        return self._shared._knows(text) or super()._knows(text)

    def _exact(self, text: str) -> Iterator[Span]:
        yield from self._shared._exact(text)
        yield from super()._exact(text)

    def _text(self, text: str, depth: int) -> str:
        if len(text) < LEAST:  # no value that is learnt is in it
            return super()._text(text, depth)
        data = text.encode(errors="surrogatepass")
        key = hashlib.blake2b(data, digest_size=16, salt=bytes([depth])).digest()
        if key in self._seen:
            seen = self._seen[key]
            return text if seen is None else seen
        clean = super()._text(text, depth)
        self._held = self._held or clean != text or "[redacted:" in text
        if len(self._seen) < MAX_SEEN:
            self._seen[key] = None if clean == text else clean
        return clean

    def _in_place(self, value: str, kind: str) -> str:
        return self._shared._values.get(value) or super()._in_place(value, kind)

    def _holds(self, entry: dict[str, Any]) -> bool:
        return self._held

    def _found(self, value: str, kind: str) -> str:
        mark = self._in_place(value, kind)
        self._held = True
        plain = value.isalpha() and value.islower() and len(value) < 12
        if len(value) >= LEAST and not plain and self._learnt < MAX_LEARNT:
            self._learnt += value not in self._values
            self._know({value: mark})
        return mark

    def _declare(self, schema: Any) -> None:
        self._name(map(words_of, declared(schema)))


def declared(schema: Any) -> Iterator[str]:
    """Names of properties that a JSON Schema calls secret: `writeOnly`, or of format "password"."""
    if isinstance(schema, list):
        for inner in schema:
            yield from declared(inner)
    elif isinstance(schema, Mapping):
        properties = schema.get("properties")
        for name, inner in properties.items() if isinstance(properties, Mapping) else ():
            if isinstance(inner, Mapping) and (
                inner.get("writeOnly") is True or inner.get("format") == "password"
            ):
                yield name
        for inner in schema.values():
            yield from declared(inner)


def _common(one: str, other: str) -> int:
    """How many characters they begin with are the same."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _is_others(items: list[Any]) -> bool:
    """Rows of somebody's, none of them a word of ours."""
    return len(items) > 1 and type(items[0]) is dict and _IS not in items[0]


def _dumped(value: Any) -> str:
    """As JSON; fast, where it is JSON that others can read."""
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError):  # huge numbers, half a surrogate pair
        return json.dumps(value, ensure_ascii=False)


def _without(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {n: v for n, v in event.items() if n != name} if name in event else event


def _without_ids(event: dict[str, Any]) -> dict[str, Any]:
    report = event.get("report")
    if isinstance(report, dict) and "decoded" in report:
        return {**event, "report": _without(report, "decoded")}
    return event


def _spellings(value: str) -> set[str]:
    """As it stands in JSON, in JSON in JSON, in addresses, in hexadecimal, in base64."""
    once = json.dumps(value)[1:-1]
    data = value.encode(errors="surrogatepass")
    found = {value, once, json.dumps(once)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found |= {quote(value, safe="", errors="replace"), quote(value, errors="replace")}
    found |= {repr(value)[1:-1], data.hex(), data.hex().upper(), *base64_of(data)}
    return {spelling for spelling in found if len(spelling) >= min(len(value), LEAST)}
