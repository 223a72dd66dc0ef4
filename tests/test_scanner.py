"""The scanner finds the end of a value where json does, and says what to close when it must."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from f1.calling.scanner import MAX_DIGITS, Closer, JsonScanner

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


def test_a_string_over_half_the_budget_is_to_be_closed() -> None:
    scanner = JsonScanner()
    scanner.feed(b'{"a": "', remaining=100)
    assert scanner.overdue(51) is None
    assert scanner.overdue(50) is Closer.QUOTE
    scanner.feed(b"\\", remaining=49)
    assert scanner.overdue(40) is None  # not in the middle of an escape
    scanner.feed(b'n"', remaining=40)
    assert scanner.overdue(40) is Closer.BRACE
    scanner.feed(b', "b": [1', remaining=40)
    assert scanner.overdue(39) is None
    assert scanner.overdue(20) is Closer.BRACKET


def test_a_number_ends() -> None:
    scanner = JsonScanner()
    scanner.feed(b'{"a": ' + b"1" * MAX_DIGITS, remaining=1000)
    assert scanner.overdue(1000) is Closer.NON_DIGIT
