"""Masks behind drafts: what will be legal if the next tokens are these, as far as it can be told.

A row tells what `Turn.mask()` would, were the drafts before it sampled. Where more than the grammar
decides that (a value or a call ends, something must be closed, text is forced) there is no row:
what comes there is not drafted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from f1.calling.forced import CONTEXT_BYTES, Canonical, forced_tokens
from f1.calling.grammar import Segment, TokenMask
from f1.calling.opening import Opening
from f1.calling.scanner import JsonScanner
from f1.calling.thought import Thought

TEXT_MATCH = 3  # tokens that must have stood together before for the next ones to be drafted
STRING_MATCH = 2  # the same in a string of JSON, which is often a copy


def rows_in_text(
    first: TokenMask,
    behind: TokenMask,
    draft: Sequence[int],
    token_bytes: Sequence[bytes],
    reader: Opening | Thought,
) -> TokenMask:
    """[rows, words]: `first`, then `behind` for each draft that opens no call, ends no thought."""
    reader = reader.copy()
    num_rows, mask = 1, first
    for token_id in draft:
        if not _is_legal(mask, token_id):
            break
        _, over = reader.push(token_bytes[token_id])
        if over is not None:
            break
        num_rows, mask = num_rows + 1, behind
    rows = np.empty((num_rows, len(first)), np.int32)
    rows[0], rows[1:] = first, behind
    return rows


def rows_in_segment(
    first: TokenMask,
    draft: Sequence[int],
    token_bytes: Sequence[bytes],
    segment: Segment,
    scanner: JsonScanner | None,
    remaining: int,
    tail: bytes,
    canonical: Canonical | None,
) -> TokenMask:
    """[rows, words]; the segment is as it was afterwards. `scanner` follows its JSON; None: it has
    none. `first` is narrowed where a number must end: then there is one row."""
    rows = [first.copy()]
    num_read = 0
    scanner = scanner.copy() if scanner else None
    full = scanner is not None and scanner.number_is_full
    for token_id in () if full else draft:
        if not _is_legal(rows[-1], token_id):
            break
        data = token_bytes[token_id]
        remaining -= 1
        if scanner is not None:
            scanner.feed(data, remaining)
            if scanner.done or scanner.number_is_full:
                break
        if not segment.accept(token_id):
            break
        num_read += 1
        tail = (tail + data)[-CONTEXT_BYTES:]
        if canonical is not None and forced_tokens(segment, tail, canonical):
            break
        rows.append(segment.mask().copy())
    segment.rollback(num_read)
    return np.stack(rows)


def _is_legal(mask: TokenMask, token_id: int) -> bool:
    return bool(int(mask[token_id >> 5]) >> (token_id & 31) & 1)
