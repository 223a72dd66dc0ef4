"""Text ↔ token ids, with a wall between what people write and the tokens that steer the model.

Three kinds of tokens matter here:

    plain     made by merging bytes or characters of text
    added     matched whole, by spelling, before any merging: `<tool_call>`, `<|im_start|>`
    control   the added tokens that end turns or name roles: `<|im_start|>`, `</s>`

The encoder behind this class knows plain tokens only. Added ones are found here, and only in text
handed to `encode_prompt`; `encode` never makes one, whatever the text says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from f1.errors import ModelFileError

MAX_ADDED = 10_000  # each is looked for wherever a spelling may begin; Gemma 3 has 6,414

# Control tokens that end a turn or a document in every model that has them; the files' own
# `eos_token_id` often names only one of two.
STOP_SPELLINGS = frozenset(
    [
        *("<|im_end|>", "<|endoftext|>", "<|end|>", "<end_of_turn>", "</s>"),
        *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    ]
)


@dataclass(frozen=True, slots=True)
class AddedToken:
    """`strips_left`/`strips_right`: white space on that side belongs to the match."""

    id: int
    text: str
    control: bool
    strips_left: bool = False
    strips_right: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model file says about its tokens.

    `token_bytes[i]` are the bytes token i stands for, b"" if it never occurs (padding rows).
    """

    token_bytes: Sequence[bytes]
    added: Sequence[AddedToken]
    stop_token_ids: frozenset[int]
    bos_token: str = ""
    eos_token: str = ""
    leads_with_bos: bool = False  # text without a template begins with it, as in training


Encode = Callable[[str], list[int]]


class Tokenizer:
    """A model's tokenizer. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary, encode: Encode, encode_after_token: Encode):
        """`encode` takes text that opens a prompt, `encode_after_token` text that follows an added
        token (SentencePiece-style tokenizers put a space in front of the first only)."""
        self._token_bytes = vocabulary.token_bytes
        self._encode_first = encode
        self._encode_after = encode_after_token
        self._added = {token.text: token.id for token in vocabulary.added}
        if len(vocabulary.added) > MAX_ADDED:
            raise ModelFileError(
                f"{len(vocabulary.added)} added tokens: at most {MAX_ADDED} are looked for"
            )
        longest_first = sorted(vocabulary.added, key=lambda token: -len(token.text))
        self._added_pattern = re.compile("|".join(map(_matched, longest_first)) or "(?!)")
        self._any_start = _starts_of(longest_first)
        self._control_start = _starts_of([t for t in longest_first if t.control])
        self.stop_token_ids = vocabulary.stop_token_ids
        self.added_token_ids = frozenset(t.id for t in vocabulary.added)
        self.control_token_ids = frozenset(t.id for t in vocabulary.added if t.control)
        self.bos_token = vocabulary.bos_token
        self.eos_token = vocabulary.eos_token
        leads = vocabulary.leads_with_bos and vocabulary.bos_token in self._added
        # Of text without a template.
        self.leading_token_ids = [self._added[self.bos_token]] if leads else []

    @property
    def vocab_size(self) -> int:
        """V: as many ids as the model has logits, padding rows included."""
        return len(self._token_bytes)

    def encode(self, text: str) -> list[int]:
        """Plain tokens only: no spelling in `text` becomes an added or control token."""
        return self._encode_first(_without_surrogates(text)) if text else []

    def encode_prompt(self, text: str, marker: str = "") -> list[int]:
        """Text of a trusted author: spellings of added tokens become those tokens.

        `marker` is what `protect` put into spellings that must stay text; it is taken out again.
        """
        token_ids: list[int] = []
        begin = 0
        for match in self._added_pattern.finditer(text):
            if marker and text.startswith(marker, match.end()):
                continue  # a protected spelling of one character
            token_ids += self._encode_piece(text[begin : match.start()], marker, begin)
            spelling = match[0] if match[0] in self._added else match[0].strip()
            token_ids.append(self._added[spelling])
            begin = match.end()
        return token_ids + self._encode_piece(text[begin:], marker, begin)

    def protect(self, text: str, marker: str) -> str:
        """`text` with `marker` inside every spelling of an added token, so that
        `encode_prompt(…, marker)` leaves it text. `marker` must not occur in `text`."""
        return self._any_start.sub(lambda match: match[0] + marker, text)

    def protect_control(self, text: str, marker: str) -> str:
        """As `protect`, for control tokens only: text by us or the model may say `<tool_call>`."""
        return self._control_start.sub(lambda match: match[0] + marker, text)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; of an added one, its spelling. IndexError if out of range."""
        if token_id < 0:
            raise IndexError(f"token id {token_id} is negative")
        return self._token_bytes[token_id]

    def decode(self, token_ids: Iterable[int]) -> bytes:
        """All bytes in a row; they may end inside a character."""
        return b"".join(map(self.token_bytes, token_ids))

    def token_id(self, text: str) -> int | None:
        """The added token spelled `text`, if there is one."""
        return self._added.get(text)

    def vocabulary(self) -> list[bytes]:
        """Bytes per id [V] for a grammar: b"" for tokens no grammar may produce, which are control
        tokens and padding rows."""
        vocabulary = list(self._token_bytes)
        for token_id in self.control_token_ids:
            vocabulary[token_id] = b""
        return vocabulary

    def _encode_piece(self, text: str, marker: str, begin: int) -> list[int]:
        if marker:
            text = text.replace(marker, "")
        if not text:
            return []
        encode = self._encode_first if begin == 0 else self._encode_after
        return encode(_without_surrogates(text))


def _without_surrogates(text: str) -> str:
    """Lone surrogates are no characters; they become U+FFFD as in every UTF-8 decoder."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _matched(token: AddedToken) -> str:
    # From the first of several spaces alone: to begin at each of them would take quadratic time.
    left = r"(?:(?<!\s)\s+)?" if token.strips_left and not token.text.isspace() else ""
    right = r"\s*" if token.strips_right and not token.text.isspace() else ""
    return f"{left}{re.escape(token.text)}{right}"


def _starts_of(tokens: Iterable[AddedToken]) -> re.Pattern[str]:
    """Matches the first character of each spelling, overlapping ones too. Tokens of a single
    character are left alone (a line feed, a tab), unless they steer."""
    behind: dict[str, list[str]] = {}  # by first character: `re` is quick to look for those
    for token in tokens:
        if len(token.text) > 1 or token.control:
            behind.setdefault(token.text[0], []).append(re.escape(token.text[1:]))
    starts = [f"{re.escape(first)}(?={'|'.join(rests)})" for first, rests in behind.items()]
    return re.compile("|".join(starts) or "(?!)")
