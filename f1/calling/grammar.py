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

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import xgrammar
from numpy.typing import NDArray

from f1.calling.family import Form, elements, pieces
from f1.calling.lowering import RELAXATIONS, Lowered, lower
from f1.calling.scanner import Closer
from f1.calling.schema import schema_text
from f1.errors import InvalidRequest, InvalidSchema
from f1.types import JsonSchema, Relaxed, ResponseFormat, Tool

MAX_WHITESPACE = 24  # between two pieces of JSON: room for an indented line, not for a loop
MAX_CACHE_BYTES = 256 << 20  # of compiled grammars kept
MAX_RELAXED = 4096  # schemas of which it is kept what their grammars leave to validation
TokenMask = NDArray[np.int32]


class Grammars:
    """Compiles segments for one model's vocabulary and keeps the latest; thread-safe."""

    def __init__(
        self,
        vocabulary: Sequence[bytes],
        vocab_size: int,
        stop_token_ids: Sequence[int],
        *,
        freely: bool = False,
    ):
        self._freely = freely
        self._info = xgrammar.TokenizerInfo(
            list(vocabulary), vocab_size=vocab_size, stop_token_ids=list(stop_token_ids)
        )
        self._compiler = xgrammar.GrammarCompiler(self._info, max_threads=2, cache_enabled=False)
        self._compiled: OrderedDict[object, Any] = OrderedDict()
        self._compiled_bytes = 0
        self._relaxed: OrderedDict[bytes, tuple[Relaxed, ...]] = OrderedDict()
        self._lock = Lock()
        self._vocab_size = vocab_size
        self._closers = _closer_masks(vocabulary, vocab_size)

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
        text = schema_text(tool.parameters, f"tools.{tool.name}.parameters")
        key = ("arguments", form.next, form.close, text, last)
        return self._get(key, lambda: self._compile_arguments(form, tool, last=last))

    def content(self, format: ResponseFormat) -> Segment:
        """All of a turn's content under a response format other than text."""
        value = format.value
        key = (
            "content",
            format.kind,
            value if isinstance(value, str) else schema_text(value or {}, "schema"),
        )
        return self._get(key, lambda: self._compile_content(format))

    def relaxed(self, given: Tool | ResponseFormat) -> tuple[Relaxed, ...]:
        """What the grammar made last for this schema leaves to validation."""
        where: str = "response_format"
        schema: JsonSchema | str | None
        if isinstance(given, Tool):
            where, schema = given.name, given.parameters
        else:
            schema = given.value
        if not isinstance(schema, Mapping):
            return ()
        with self._lock:
            found = self._relaxed.get(schema_text(schema, "schema"), ())
        return tuple(replace(relaxed, where=where) for relaxed in found)

    def _segment(self, ebnf: str) -> Segment:
        return self._get(ebnf, lambda: self._compiler.compile_grammar(ebnf))

    def _get(self, key: object, compile: Callable[[], Any]) -> Segment:
        with self._lock:
            compiled = self._compiled.pop(key, None)
            if compiled is None:
                compiled = compile()
                self._compiled_bytes += compiled.memory_size_bytes
            self._compiled[key] = compiled
            while self._compiled_bytes > MAX_CACHE_BYTES and len(self._compiled) > 1:
                _, oldest = self._compiled.popitem(last=False)
                self._compiled_bytes -= oldest.memory_size_bytes
        return Segment(compiled, self._vocab_size)

    def _compile_arguments(self, form: Form, tool: Tool, *, last: bool) -> Any:
        ends = [form.close] if last else [form.close, form.next]
        if self._freely:
            tail = " | ".join(" ".join(map(_piece, pieces(end))) for end in ends)
            after = xgrammar.Grammar.from_ebnf(f"root ::= ws ({tail})\n{_WS}")
            before = xgrammar.Grammar.from_ebnf(f"root ::= ws\n{_WS}")
        else:
            after = xgrammar.Grammar.from_ebnf(f"root ::= {' | '.join(map(_quote, ends))}")
            before = xgrammar.Grammar.from_ebnf('root ::= " "')

        def compile(lowered: Lowered) -> Any:
            schema = {"type": "object", **lowered.schema}
            body = _json_grammar(schema, freely=self._freely)
            return self._compiler.compile_grammar(xgrammar.Grammar.concat(before, body, after))

        return self._compile_relaxing(compile, tool.parameters, f"tools.{tool.name}.parameters")

    def _compile_content(self, format: ResponseFormat) -> Any:
        kind, value = format.kind, format.value
        if kind in ("json_object", "json_schema"):
            schema = value if isinstance(value, Mapping) else _ANY_OBJECT

            def compile(lowered: Lowered) -> Any:
                return self._compiler.compile_grammar(_json_grammar(lowered.schema, freely=True))

            param = "response_format.json_schema.schema"
            return self._compile_relaxing(compile, schema, param)
        try:
            if kind == "regex":
                return self._compiler.compile_regex(str(value))
            return self._compiler.compile_grammar(xgrammar.Grammar.from_ebnf(str(value)))
        except RuntimeError as error:
            message = f"response_format: the {kind} does not compile: {_reason(error)}"
            raise InvalidRequest(message, param="response_format") from None

    def _compile_relaxing(
        self, compile: Callable[[Lowered], Any], schema: JsonSchema, param: str
    ) -> Any:
        for keywords in RELAXATIONS:
            lowered = lower(schema, param, without=keywords)
            try:
                compiled = compile(lowered)
            except RuntimeError as error:
                reason = _reason(error)
                continue
            if lowered.relaxed:
                self._relaxed[schema_text(schema, param)] = lowered.relaxed
                if len(self._relaxed) > MAX_RELAXED:
                    self._relaxed.popitem(last=False)
            return compiled
        raise InvalidSchema(f"{param}: cannot be made into a grammar: {reason}", param=param)

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

    def __init__(self, compiled: Any, vocab_size: int):
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._mask = np.zeros((1, (vocab_size + 31) // 32), np.int32)
        self._scratch = np.zeros_like(self._mask)

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
_WS = f"ws ::= [ \\n\\t]{{0,{MAX_WHITESPACE}}}"


def _json_grammar(schema: JsonSchema, *, freely: bool) -> Any:
    text = schema_text(schema, "schema").decode()
    return xgrammar.Grammar.from_json_schema(
        text,
        any_whitespace=freely,
        max_whitespace_cnt=MAX_WHITESPACE if freely else None,
        strict_mode=True,
    )


def _piece(piece: str) -> str:
    return _quote(piece) if piece.isspace() else f"ws {_quote(piece)}"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _reason(error: RuntimeError) -> str:
    """xgrammar's message without the source position it starts with."""
    text = str(error).strip() or "internal limit"
    return re.sub(r"^(\[[^\]]*\]\s*)?(\S+:\d+:\s*)?", "", text.splitlines()[-1])


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
