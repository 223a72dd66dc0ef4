"""Grammars of a turn's segments, compiled for one vocabulary; the only place that knows xgrammar.

A turn is decoded segment by segment, each under a grammar of its own, so that a tool's schema is
compiled once whatever company it keeps:

    head        [rest of `open`] "name" `arguments`        the name is one of those given
    arguments   {…} then `next` or `close`                 the schema of that tool
    content     a value in the response format

A call is written in one way: white space as in the family's form and as `json.dumps` leaves it,
which leaves long texts with one continuation. `freely` lets any white space stand between its
pieces; a model that began a call in such a way may go on so.

Segments meet after a colon and before a space or quote, where no token of a canonical
tokenisation crosses over (the pre-tokenisers split there).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from threading import Lock
from typing import Any

import numpy as np
import orjson
import xgrammar
from numpy.typing import NDArray

from f1.calling.compiler import Compiler
from f1.calling.family import Form, elements, pieces, tools_key
from f1.calling.judge import Judge
from f1.calling.lowering import lower
from f1.calling.scanner import Closer
from f1.calling.source import MAX_WHITESPACE, Source
from f1.calling.verdicts import Subject, Verdicts
from f1.errors import Overloaded
from f1.types import JsonSchema, Relaxed, ResponseFormat, Tool

MAX_PREPARED = 64  # tools whose arguments are compiled before one of them is called

TokenMask = NDArray[np.int32]


class Recent:
    """What was seen lately; thread-safe. The same tools come with every request."""

    def __init__(self, capacity: int = 256):
        self._seen: OrderedDict[object, None] = OrderedDict()
        self._capacity = capacity
        self._lock = Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
            return key in self._seen

    def add(self, key: object) -> None:
        with self._lock:
            self._seen[key] = None
            if len(self._seen) > self._capacity:
                self._seen.popitem(last=False)


def _given_key(tools: Sequence[Tool], format: ResponseFormat) -> bytes:
    """A hash: the schemas of a request may be large."""
    given = orjson.dumps((format.kind, format.value))
    return blake2b(tools_key(tools) + b"\0" + given, digest_size=16).digest()


class Grammars:
    """Compiles segments for one model's vocabulary and keeps the latest; thread-safe.

    In the `background` what a request gives is judged before it is used (`admit`), and compiled
    beside the caller's thread: a segment may not be `ready` yet. Else all is done on the spot.
    """

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        vocab_size: int,
        stop_token_ids: Sequence[int],
        *,
        freely: bool = False,
        background: bool = True,
    ):
        self._freely = freely
        given = (vocabulary, vocab_size, stop_token_ids)
        self._compiler = Compiler(*given, background=background)
        common = [lower(schema, "").ebnf for schema in _COMMON]
        self._judge = Judge(*given, common) if background else None
        self._verdicts = Verdicts(self._judge)
        self._admitted, self._prepared = Recent(), Recent()
        self._vocab_size = vocab_size
        self._closers = _closer_masks(vocabulary, vocab_size)

    def close(self) -> None:
        """Ends what is compiled and judged for nobody now."""
        self._compiler.close()
        if self._judge is not None:
            self._judge.close()

    def stats(self) -> dict[str, float]:
        compiler = self._compiler
        return {
            "num_grammars_compiled": compiler.num_compiled,
            "grammar_compile_seconds": compiler.compile_seconds,
        }

    # --- what requests give --------------------------------------------------------------------

    def warm(self) -> None:
        """Starts the process that judges, and compiles what most schemas have in common."""
        sources = [Source("ebnf", lower(schema, "").ebnf) for schema in _COMMON]
        for source in sources:
            self._compiler.get(source.key, source.grammar, slow=True)
        if self._judge is not None:
            self._judge.ask(sources, cpu_seconds=60.0, seconds=60.0)

    def admit(self, tools: Sequence[Tool], format: ResponseFormat) -> None:
        """Decides once for each schema whether a grammar can be made of it. Raises InvalidSchema
        and its kin, Overloaded where there was no time to tell. Takes up to 3 s, and as long as
        others take that asked before."""
        key = _given_key(tools, format)
        if key not in self._admitted:
            self._verdicts.admit(self._subjects(tools, format))
            self._admitted.add(key)

    def admits_at_once(self, tools: Sequence[Tool], format: ResponseFormat) -> bool:
        """Whether admit() takes no time worth mentioning."""
        if _given_key(tools, format) in self._admitted:
            return True
        return self._verdicts.at_once(self._subjects(tools, format))

    def relaxed(self, given: Tool | ResponseFormat) -> tuple[Relaxed, ...]:
        """What the grammar of an admitted schema leaves to validation."""
        where = given.name if isinstance(given, Tool) else "response_format"
        admitted = self._verdicts.known(self._subject(given))
        return tuple(replace(r, where=where) for r in (admitted.relaxed if admitted else ()))

    def _subjects(self, tools: Iterable[Tool], format: ResponseFormat) -> list[Subject]:
        subjects = [self._subject(tool) for tool in tools]
        return subjects if format.kind == "text" else [*subjects, self._subject(format)]

    def _subject(self, given: Tool | ResponseFormat) -> Subject:
        if isinstance(given, Tool):
            param = f"tools.{given.name}.parameters"
            return Subject("json_schema", _object(given.parameters), param, self._freely)
        if given.kind in ("regex", "ebnf"):
            return Subject(given.kind, str(given.value), "response_format")
        schema = given.value if isinstance(given.value, Mapping) else _ANY_OBJECT
        return Subject("json_schema", schema, "response_format.json_schema.schema", freely=True)

    # --- segments ------------------------------------------------------------------------------

    def head(
        self, form: Form, names: Iterable[str], opened: str | None, *, freely: bool = False
    ) -> Segment:
        """A call's name and what follows it up to the arguments.

        `opened` is the part of `form.open` already read; None means all of it, or `form.next`.
        """
        choice = "(" + " | ".join(_quote(f'"{name}"') for name in names) + ")"
        if not (freely or self._freely):
            rest = "" if opened is None else form.open[form.open.index(opened) + len(opened) :]
            return self._segment(f"root ::= {_quote(rest + ' ')} {choice} {_quote(form.arguments)}")
        parts = [] if opened is None else elements(form.open)[len(elements(opened)) :]
        behind = elements(form.arguments)
        rule = " ws ".join([*map(_quote, parts), choice, *map(_quote, behind)])
        return self._segment(f"root ::= ws {rule}\n{_WS}")

    def middle(self, form: Form, *, freely: bool = False) -> Segment:
        """From behind a call's name to its arguments."""
        if not (freely or self._freely):
            return self._segment(f"root ::= {_quote(form.arguments)}")
        rule = " ws ".join(map(_quote, elements(form.arguments)))
        return self._segment(f"root ::= ws {rule}\n{_WS}")

    def arguments(self, form: Form, tool: Tool, *, last: bool) -> Segment:
        """A call's arguments and what follows them; the `last` call can only be closed."""
        before, after = self._around(form, last=last)
        return self._compiled(self._subject(tool), before, after)

    def content(self, format: ResponseFormat) -> Segment:
        """All of a turn's content under a response format other than text."""
        return self._compiled(self._subject(format))

    def prepare(self, forms: Iterable[Form], tools: Sequence[Tool], *, single: bool) -> None:
        """Makes what calls of these tools need first, and what they may need if there is time."""
        key = blake2b(
            tools_key(tools), digest_size=16, person=b"single" if single else b""
        ).digest()
        if key in self._prepared:
            return
        self._prepared.add(key)
        names = [tool.name for tool in tools]
        for form in forms:
            for freely in {self._freely, True}:
                self.head(form, names, opened=form.marker, freely=freely)
                self.middle(form, freely=freely)
            if not single:
                self.head(form, names, opened=None)
            around = self._around(form, last=single)
            for tool in tools if len(tools) <= MAX_PREPARED else ():
                subject = self._subject(tool)
                if not self._is_slow(subject):
                    self._compiler.prepare(*self._recipe(subject, *around))

    def _segment(self, ebnf: str) -> Segment:
        source = Source("ebnf", ebnf)
        return Segment(self._compiler.now(source.key, source.grammar), self._vocab_size)

    def _compiled(self, subject: Subject, before: str = "", after: str = "") -> Segment:
        recipe = self._recipe(subject, before, after)
        compiled = self._compiler.get(*recipe, slow=self._is_slow(subject))
        return Segment(compiled, self._vocab_size)

    def _recipe(
        self, subject: Subject, before: str = "", after: str = ""
    ) -> tuple[bytes, Callable[[], Any]]:
        """What a compiled grammar is kept by, and what makes it."""

        def make() -> Any:
            (admitted,) = self._verdicts.admit([subject])
            _, source = subject.at(admitted.level)
            return replace(source, before=before, after=after).grammar()

        around = f"{before}\0{after}".encode()
        return blake2b(subject.key + around, digest_size=16).digest(), make

    def _is_slow(self, subject: Subject) -> bool:
        admitted = self._verdicts.known(subject)
        return admitted is None or admitted.slow

    def _around(self, form: Form, *, last: bool) -> tuple[str, str]:
        """EBNF of what stands before and after a call's arguments."""
        ends = [form.close] if last else [form.close, form.next]
        if self._freely:
            tail = " | ".join(" ".join(map(_piece, pieces(end))) for end in ends)
            return f"root ::= ws\n{_WS}", f"root ::= ws ({tail})\n{_WS}"
        return 'root ::= " "', f"root ::= {' | '.join(map(_quote, ends))}"

    # --- masks ---------------------------------------------------------------------------------

    def token_mask(self, forbidden: Iterable[int]) -> TokenMask:
        """Everything in the vocabulary is legal but `forbidden`."""
        legal = np.ones(self._vocab_size, bool)
        legal[list(forbidden)] = False
        return _pack(legal)

    def narrowed(self, mask: TokenMask, closer: Closer) -> TokenMask | None:
        """The part of `mask` that begins to close what is open; None when there is none."""
        narrowed: TokenMask = mask & self._closers[closer]
        return narrowed if narrowed.any() else None


class TokenSet:
    """Some tokens, to be looked up in masks."""

    def __init__(self, token_ids: NDArray[np.int32]):
        self._words = token_ids >> 5
        self._bits = np.left_shift(np.uint32(1), (token_ids & 31).astype(np.uint32)).view(np.int32)

    def __len__(self) -> int:
        return len(self._words)

    def meets(self, mask: TokenMask) -> bool:
        """Whether one of them is legal."""
        return bool((mask[self._words] & self._bits).any())


class Segment:
    """One sequence's way through one compiled segment."""

    def __init__(self, compiled: Future[Any], vocab_size: int):
        self._compiled = compiled
        self._mask = np.zeros((1, (vocab_size + 31) // 32), np.int32)
        self._scratch = np.zeros_like(self._mask)

    @property
    def ready(self) -> bool:
        """Whether it is compiled. All else waits until it is, and raises where it cannot be."""
        return self._compiled.done()

    def when_ready(self, call: Callable[[], None]) -> None:
        """Calls once, from any thread."""
        self._compiled.add_done_callback(lambda _: call())

    def wait(self, seconds: float) -> None:
        """Until it is ready. Raises Overloaded where that takes too long."""
        if not wait([self._compiled], seconds).done:
            raise Overloaded("too many grammars wait to be compiled; try again later")

    @cached_property
    def _matcher(self) -> Any:
        return xgrammar.GrammarMatcher(self._compiled.result())

    def mask(self) -> TokenMask:
        """What may follow, as bits; valid until the next call."""
        if not self._matcher.fill_next_token_bitmask(self._mask):
            self._mask.fill(-1)
        mask: TokenMask = self._mask[0]
        return mask

    def accept(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))

    def rollback(self, num_tokens: int) -> None:
        """Takes back the tokens accepted last."""
        if num_tokens:
            self._matcher.rollback(num_tokens)

    def accept_bytes(self, data: bytes) -> bool:
        return bool(self._matcher.accept_string(data))

    def forced(self) -> bytes:
        """What must follow, as far as there is no choice."""
        try:
            data: bytes = self._matcher.find_jump_forward_string().encode()
        except UnicodeDecodeError:  # it begins or ends inside a character
            return b""
        return data if data and self._matcher.fork().accept_string(data) else b""

    def where_legal(self, data: bytes, candidates: Iterable[tuple[int, TokenSet]]) -> Iterator[int]:
        """Of ascending offsets into `data`, which may follow, those where one of the tokens given
        for that offset may stand. Leaves the segment as it is."""
        matcher, at = self._matcher, 0
        for offset, tokens in candidates:
            if offset > at:
                matcher = matcher.fork() if at == 0 else matcher
                matcher.accept_string(data[at:offset])
                at = offset
            everything = not matcher.fill_next_token_bitmask(self._scratch)
            if everything or tokens.meets(self._scratch[0]):
                yield offset

    @property
    def complete(self) -> bool:
        """What was read is a whole sentence of the segment (it may still go on)."""
        return bool(self._matcher.is_completed())


_ANY_OBJECT: JsonSchema = {"type": "object", "additionalProperties": True}
# What many schemas hold: the judge compiles it once, for all that it tries.
_COMMON: tuple[JsonSchema, ...] = ({"type": "object"}, {"type": "string", "minLength": 1})
_WS = f"ws ::= [ \\n\\t]{{0,{MAX_WHITESPACE}}}"


def _object(schema: JsonSchema) -> JsonSchema:
    return {"type": "object", **schema}


def _piece(piece: str) -> str:
    return _quote(piece) if piece.isspace() else f"ws {_quote(piece)}"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _closer_masks(vocabulary: Sequence[bytes], vocab_size: int) -> dict[Closer, TokenMask]:
    first = np.zeros(vocab_size, np.uint8)
    first[: len(vocabulary)] = [token[0] if token else 0 for token in vocabulary]
    starts = {closer: first == ord(closer.value) for closer in Closer if len(closer.value) == 1}
    starts[Closer.NON_DIGIT] = ~np.isin(first, np.frombuffer(b"0123456789+-.eE\0", np.uint8))
    return {closer: _pack(legal) for closer, legal in starts.items()}


def _pack(legal: NDArray[np.bool_]) -> TokenMask:
    padded = np.zeros((len(legal) + 31) // 32 * 32, bool)
    padded[: len(legal)] = legal
    mask: TokenMask = np.packbits(padded, bitorder="little").view(np.int32)
    return mask
