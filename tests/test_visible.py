"""Nothing of others steers, hides or turns around on a terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from f1.trace.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Grüße, 東京 ✓ e\u0301", "Grüße, 東京 ✓ e\u0301"),
        ("a\x1b[2Kb\rc\x9b", "a<U+001B>[2Kb<U+000D>c<U+009B>"),
        ("\u202etxt.exe\u2066", "<U+202E>txt.exe<U+2066>"),
        ("a\u200bb\u3164c\U000e0041\ufe01", "a<U+200B>b<U+3164>c<U+E0041><U+FE01>"),
        ("\ud800", "<U+D800>"),
        ("a\nb\tc", "a<U+000A>b<U+0009>c"),
    ],
)
def test_what_would_not_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_no_character_steers_whatever_it_is() -> None:
    for code in range(sys.maxunicode + 1):
        shown = visible(chr(code), lines=True)
        if shown == chr(code) and shown not in "\n\t":
            assert unicodedata.category(shown)[0] not in "CZ" or shown == " ", hex(code)


def test_lines_may_stay() -> None:
    assert visible("a\n\tb\r", lines=True) == "a\n\tb<U+000D>"
