"""What a turn needs to know of a model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from f1.calling.family import Family
from f1.calling.forced import Canonical
from f1.calling.grammar import Grammars, TokenMask
from f1.calling.spelling import Spelling
from f1.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    token_bytes: Sequence[bytes]
    text_mask: TokenMask  # everything that may stand in text, and the end of the turn
    call_text_mask: TokenMask  # the same and what opens a call
    no_call_mask: TokenMask  # text that does not begin as a call does
    canonical: Canonical | None = None  # None: nothing is forced


def make_vocabulary(
    tokenizer: Tokenizer, family: Family, grammars: Grammars, *, forced_text: bool
) -> Vocabulary:
    token_bytes = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    never = {i for i, data in enumerate(token_bytes) if not data} | tokenizer.control_token_ids
    never -= tokenizer.stop_token_ids
    if family.reasoning is not None:
        begin, end = family.reasoning.open, family.reasoning.close
        never -= {token_id for mark in (begin, end) if (token_id := tokenizer.token_id(mark))}
    marked = [form for form in family.forms if form.commits_at == "marker"]
    beginnings = [p.encode() for form in (family.form, *marked) for p in form.beginnings]
    markers = (tokenizer.token_id(form.marker) for form in marked)
    openers = {token_id for token_id in markers if token_id is not None}
    begins = {
        i
        for i, data in enumerate(token_bytes)
        if data and any(b.startswith(data) or data.startswith(b) for b in beginnings)
    }
    if family.reasoning is not None and tokenizer.token_id(begin) is None:
        # Spelled, it may have the first characters of a call.
        begins = {i for i in begins if not begin.encode().startswith(token_bytes[i])}
    return Vocabulary(
        token_bytes,
        text_mask=grammars.token_mask({*never, *openers}),
        call_text_mask=grammars.token_mask(never),
        no_call_mask=grammars.token_mask(never | begins),
        canonical=make_canonical(tokenizer) if forced_text else None,
    )


def make_canonical(tokenizer: Tokenizer) -> Canonical:
    token_bytes = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return Canonical(
        tokenizer.encode_prompt,
        token_bytes,
        Spelling(token_bytes),
        added=tokenizer.added_token_ids,
        never=tokenizer.control_token_ids,
    )
