"""Text of others on a terminal: what would steer it, or hide, or turn the order of what is read, is
written out.

    "rm\x1b[2K ls \u202etxt.exe"  ─▶  rm<U+001B>[2K ls <U+202E>txt.exe
"""

from __future__ import annotations

# Printable by their category, and yet nothing is seen of them: fillers, blanks, selectors.
_BLANK = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0))
) | frozenset(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


def visible(text: str, *, lines: bool = False) -> str:
    """Every character is seen, in the order in which it stands there. With `lines` line feeds and
    tabs stay what they are."""
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        c if (c.isprintable() and c not in _BLANK) or c in kept else f"<U+{ord(c):04X}>"
        for c in text
    )
