"""How vocabularies spell the bytes of their tokens in printable characters.

byte-level      every byte has one printable stand-in (GPT-2): "Ġthe" is b" the"
SentencePiece   a space is "▁", a lone byte is "<0x0A>", the rest is itself
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

import numpy as np

from f1.errors import ModelFileError

SENTENCEPIECE_SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def byte_level_alphabet() -> Mapping[str, int]:
    """Stand-in → byte. Printable Latin-1 stands for itself, the other 68 bytes for the characters
    from U+0100 on."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(itself))
    stand_ins = {chr(b): b for b in itself} | {chr(0x100 + n): b for n, b in enumerate(others)}
    return MappingProxyType(stand_ins)


def byte_level_bytes(spellings: Sequence[str]) -> list[bytes]:
    """The bytes of each token, all at once because vocabularies have 10^5 of them."""
    table = np.full(0x110000, -1, dtype=np.int16)
    for character, byte in byte_level_alphabet().items():
        table[ord(character)] = byte
    codes = table[np.frombuffer("".join(spellings).encode("utf-32-le"), dtype=np.uint32)]
    ends = np.cumsum([len(spelling) for spelling in spellings])
    if len(strange := np.flatnonzero(codes < 0)):
        token_id = int(np.searchsorted(ends, strange[0], side="right"))
        raise ModelFileError(
            f"token {token_id}, {spellings[token_id]!r}, is not in the byte-level alphabet"
        )
    joined, begin = codes.astype(np.uint8).tobytes(), 0
    token_bytes = []
    for end in ends.tolist():
        token_bytes.append(joined[begin:end])
        begin = end
    return token_bytes


def sentencepiece_bytes(spelling: str) -> bytes:
    """The bytes of one piece."""
    if byte := _BYTE_TOKEN.fullmatch(spelling):
        return bytes.fromhex(byte[1])
    return spelling.replace(SENTENCEPIECE_SPACE, " ").encode()
