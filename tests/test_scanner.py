"""The scanner finds the end of a value where json does, and numbers that are long enough."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from f1.calling.scanner import MAX_DIGITS, JsonScanner

containers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).filter(lambda value: isinstance(value, (dict, list, str)))


@given(containers, st.booleans(), st.integers(1, 5))
def test_finds_the_end_in_any_cut(value: object, ascii_only: bool, size: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1).encode()
    scanner, read = JsonScanner(), 0
    data = text + b'}]"tail'
    for begin in range(0, len(data), size):
        read += scanner.feed(data[begin : begin + size], remaining=10_000)
        if scanner.done:
            break
    assert data[:read] == text


def test_a_number_ends() -> None:
    scanner = JsonScanner()
    scanner.feed(b'{"a": ' + b"1" * (MAX_DIGITS - 1), remaining=1000)
    assert not scanner.number_is_full
    scanner.feed(b"1", remaining=1000)
    assert scanner.number_is_full
