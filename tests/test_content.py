"""Content is released in whole characters and cut exactly at a stop string, in whatever pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from f1.calling.text import ContentStream


def read(data: bytes, stops: list[str], size: int, hold: bool) -> tuple[str, bool]:
    stream, text = ContentStream(stops, hold_whitespace=hold), ""
    for begin in range(0, len(data), size):
        text += stream.push(data[begin : begin + size])
        if stream.stopped:
            return text, True
    return text + stream.end(), stream.stopped


@given(
    st.text("aXY é漢\n", max_size=20),
    st.lists(st.text("XYa", min_size=1, max_size=3), max_size=3),
    st.integers(1, 9),
    st.booleans(),
)
def test_cut_at_the_first_stop(text: str, stops: list[str], size: int, hold: bool) -> None:
    shown, stopped = read(text.encode(), stops, size, hold)
    found = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(found)
    if not found:
        assert shown == text
    elif size >= len(text.encode()):
        assert shown == text[: min(found)]
    else:
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_whitespace_before_a_call_is_dropped() -> None:
    stream = ContentStream([], hold_whitespace=True)
    assert stream.push(b"I will look. \n") == "I will look."
    assert stream.end_before_call() == ""


def test_broken_utf8_becomes_replacement_characters() -> None:
    stream = ContentStream([], hold_whitespace=False)
    assert stream.push(b"a\xe6\xbc") == "a"
    assert stream.end() == "�"
