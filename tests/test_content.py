"""Content is released in whole characters and cut exactly at a stop string, in whatever pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from f1.calling.text import ContentStream


def read(data: bytes, stops: list[str], size: int, hold: bool) -> tuple[str, str | None]:
    stream, text = ContentStream(stops, hold_whitespace=hold), ""
    for begin in range(0, len(data), size):
        text += stream.push(data[begin : begin + size])
        if stream.stopped:
            return text, stream.stop
    return text + stream.end(), stream.stop


@given(
    st.text("aXY é漢\n", max_size=20),
    st.lists(st.text("XYa", min_size=1, max_size=3), max_size=3),
    st.integers(1, 9),
    st.booleans(),
)
def test_cut_at_the_first_stop(text: str, stops: list[str], size: int, hold: bool) -> None:
    """Cut in any pieces: at the stop that is whole first, the longer of two that end together."""
    ends = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in stops if stop in text]
    _, cut, stop = min(ends, default=(0, len(text), None))
    assert read(text.encode(), stops, size, hold) == (text[:cut], stop)


def test_whitespace_before_a_call_is_dropped() -> None:
    stream = ContentStream([], hold_whitespace=True)
    assert stream.push(b"I will look. \n") == "I will look."
    assert stream.end_before_call() == ""


def test_broken_utf8_becomes_replacement_characters() -> None:
    stream = ContentStream([], hold_whitespace=False)
    assert stream.push(b"a\xe6\xbc") == "a"
    assert stream.end() == "�"


def test_nothing_follows_a_stop_string() -> None:
    """Not even half a character of the same token."""
    stream = ContentStream([" "], hold_whitespace=False)
    assert stream.push(b"a \xe2\x80") == "a"
    assert stream.end() == ""
