"""A tokenizer from the vocabulary inside a GGUF file (fields `tokenizer.ggml.*`)."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Encoder

from f1.errors import ModelFileError
from f1.models.encoder import plain_ids, refusals_of
from f1.models.spelling import SENTENCEPIECE_SPACE, byte_level_bytes, sentencepiece_bytes
from f1.models.tokenizer import STOP_SPELLINGS, AddedToken, Encode, Tokenizer, Vocabulary

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"


class _Kind(IntEnum):
    """`tokenizer.ggml.token_type`, as in SentencePiece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_UNHEARD_OF = 2**31  # kinds from here on
_MAX_SPLITS = 2**26  # characters of all splits of all pieces; of the largest vocabularies 2^24

_PLAIN_KINDS = (_Kind.NORMAL, _Kind.BYTE)
_ADDED_KINDS = (_Kind.UNKNOWN, _Kind.CONTROL, _Kind.USER_DEFINED)

Kinds = np.ndarray[Any, np.dtype[np.int64]]


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Builds the tokenizer; raises ModelFileError naming the field that is missing or wrong."""
    spellings = _spellings(metadata)
    kinds = _kinds(metadata, len(spellings))
    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise ModelFileError(f"tokenizer.ggml.model is {model!r}; known are 'gpt2' and 'llama'")
    token_bytes = _token_bytes(model, spellings, kinds)
    if model == "gpt2":
        encode = _byte_level_bpe(metadata, spellings, kinds)
    else:
        encode = _sentencepiece_bpe(metadata, spellings, kinds)
    vocabulary = Vocabulary(
        token_bytes=token_bytes,
        added=[
            AddedToken(token_id, spelling, control=kinds[token_id] != _Kind.USER_DEFINED)
            for token_id in np.flatnonzero(np.isin(kinds, _ADDED_KINDS)).tolist()
            if (spelling := spellings[token_id])
        ],
        stop_token_ids=_stop_token_ids(metadata, spellings, kinds),
        bos_token=_spelling_of(metadata, "bos", spellings),
        eos_token=_spelling_of(metadata, "eos", spellings),
        # SentencePiece models were trained with it, whether their files say so or not.
        leads_with_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", model == "llama")),
    )
    return Tokenizer(vocabulary, encode, encode)


def _byte_level_bpe(metadata: Mapping[str, Any], spellings: Sequence[str], kinds: Kinds) -> Encode:
    merges = [_pair(merge) for merge in _list(metadata, "tokenizer.ggml.merges", bytes)]
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    model = _bpe(_plain_ids(spellings, kinds), merges, ignore_merges=name in _LLAMA3_NAMES)
    encoder = Encoder(model)
    encoder.pre_tokenizer = _pre_tokenizer(name)
    if name in _QWEN2_NAMES:
        encoder.normalizer = normalizers.NFC()
    return _by_lines(partial(plain_ids, encoder))


def _by_lines(encode: Encode) -> Encode:
    """Remembers long lines, which in prompts are tools that come again with every request. No word
    of the byte-level pre-tokenizers crosses from a line break to a visible ASCII character, no
    normalisation does, and behind something visible the line break is a word whatever follows."""
    known = lru_cache(_MAX_LINES)(lambda line: array("i", encode(line)))

    def encode_lines(text: str) -> list[int]:
        token_ids: list[int] = []
        lines = _LINE_STARTS.split(text) if len(text) >= _LONG_LINE else [text]
        for is_long, run in groupby(lines, lambda line: _LONG_LINE <= len(line) <= _LONGEST_LINE):
            for piece in run if is_long else ["".join(run)]:
                token_ids += known(piece) if is_long else encode(piece)
        return token_ids

    return encode_lines


_LINE_STARTS = re.compile(r"(?<=\S\n)(?=[!-~])")
_LONG_LINE, _LONGEST_LINE = 128, 4096  # in characters
_MAX_LINES = 2048

_QWEN2_NAMES = frozenset(["qwen2"])
_LLAMA3_NAMES = frozenset(["llama-bpe", "llama3", "llama-v3"])
_GPT2_NAMES = frozenset(["default", "gpt-2"])


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if name in _QWEN2_NAMES | _LLAMA3_NAMES:
        pattern = Regex(_QWEN2 if name in _QWEN2_NAMES else _LLAMA3)
        split = pre_tokenizers.Split(pattern, behavior="isolated", invert=False)
        return pre_tokenizers.Sequence([split, byte_level])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in _GPT2_NAMES:
        return gpt2
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    raise ModelFileError(
        f"tokenizer.ggml.pre is {name!r}; known are qwen2, smollm, llama-bpe and gpt-2"
    )


def _sentencepiece_bpe(
    metadata: Mapping[str, Any], spellings: Sequence[str], kinds: Kinds
) -> Encode:
    """SentencePiece's BPE merges whatever pair makes the piece of the highest score. Listing every
    split of every piece into two pieces, by falling score, gives the same order as merges do."""
    scores = _list(metadata, "tokenizer.ggml.scores", float, int)
    if len(scores) != len(spellings):
        raise ModelFileError(
            f"tokenizer.ggml.scores has {len(scores)} entries for {len(spellings)} tokens"
        )
    ids = _plain_ids(spellings, kinds)
    normal = {piece for piece, token_id in ids.items() if kinds[token_id] == _Kind.NORMAL}
    if sum(len(piece) ** 2 for piece in normal) > _MAX_SPLITS:
        raise ModelFileError("tokenizer.ggml.tokens: pieces too long to be split everywhere")
    merges = [
        (-scores[ids[piece]], ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece in normal
        for cut in range(1, len(piece))
        if piece[:cut] in normal and piece[cut:] in normal
    ]
    merges.sort(key=lambda merge: merge[:3])
    unknown = _token_id(metadata, "unknown", spellings)
    if unknown is not None:
        ids[spellings[unknown]] = unknown
    model = _bpe(
        ids,
        [(left, right) for *_, left, right in merges],
        byte_fallback=True,
        unk_token=None if unknown is None else spellings[unknown],
        fuse_unk=True,
    )
    encoder = Encoder(model)
    to_pieces: list[normalizers.Normalizer] = [normalizers.Replace(" ", SENTENCEPIECE_SPACE)]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        to_pieces.insert(0, normalizers.Prepend(SENTENCEPIECE_SPACE))
    encoder.normalizer = normalizers.Sequence(to_pieces)
    return partial(plain_ids, encoder)


def _bpe(ids: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    with refusals_of("tokenizer.ggml.merges"):  # a merge of unknown tokens
        return models.BPE(ids, merges, **options)


def _plain_ids(spellings: Sequence[str], kinds: Kinds) -> dict[str, int]:
    """Ids of the tokens that merging may make. Added tokens must not be among them: a piece of
    text spelled just so would become one."""
    ids = dict(zip(spellings, range(len(spellings)), strict=True))
    for token_id in np.flatnonzero(~np.isin(kinds, _PLAIN_KINDS)).tolist():
        ids.pop(spellings[token_id], None)
    return ids


def _token_bytes(model: str, spellings: Sequence[str], kinds: Kinds) -> list[bytes]:
    """Added tokens stand for their spelling, padding rows for nothing."""
    token_bytes = [b""] * len(spellings)
    for token_id in np.flatnonzero(np.isin(kinds, _ADDED_KINDS)).tolist():
        token_bytes[token_id] = spellings[token_id].encode()
    plain = np.flatnonzero(np.isin(kinds, _PLAIN_KINDS)).tolist()
    plain_spellings = [spellings[token_id] for token_id in plain]
    found = (
        byte_level_bytes(plain_spellings)
        if model == "gpt2"
        else list(map(sentencepiece_bytes, plain_spellings))
    )
    for token_id, token in zip(plain, found, strict=True):
        token_bytes[token_id] = token
    return token_bytes


def _pair(merge: bytes) -> tuple[str, str]:
    left, space, right = merge.decode().partition(" ")
    if not space or not left or not right:
        raise ModelFileError(f"tokenizer.ggml.merges: {merge!r} is not two tokens")
    return left, right


def _stop_token_ids(
    metadata: Mapping[str, Any], spellings: Sequence[str], kinds: Kinds
) -> frozenset[int]:
    named = {_token_id(metadata, role, spellings) for role in ("eos", "eot", "eom")}
    spelled = np.flatnonzero(kinds == _Kind.CONTROL).tolist()
    stops = {token_id for token_id in spelled if spellings[token_id] in STOP_SPELLINGS}
    return frozenset(stops | {token_id for token_id in named if token_id is not None})


def _token_id(metadata: Mapping[str, Any], role: str, spellings: Sequence[str]) -> int | None:
    token_id = metadata.get(f"tokenizer.ggml.{role}_token_id")
    known = isinstance(token_id, int) and 0 <= token_id < len(spellings)
    return token_id if known else None


def _spelling_of(metadata: Mapping[str, Any], role: str, spellings: Sequence[str]) -> str:
    token_id = _token_id(metadata, role, spellings)
    return "" if token_id is None else spellings[token_id]


def _spellings(metadata: Mapping[str, Any]) -> list[str]:
    try:
        return [token.decode() for token in _list(metadata, "tokenizer.ggml.tokens", bytes)]
    except UnicodeDecodeError as error:
        raise ModelFileError(f"tokenizer.ggml.tokens: {error}") from error


def _kinds(metadata: Mapping[str, Any], num_tokens: int) -> Kinds:
    listed = _list(metadata, "tokenizer.ggml.token_type", int)
    kinds = np.asarray([min(kind, _UNHEARD_OF) for kind in listed], dtype=np.int64)
    if len(kinds) != num_tokens:
        raise ModelFileError(
            f"tokenizer.ggml.token_type has {len(kinds)} entries for {num_tokens} tokens"
        )
    return kinds


def _list(metadata: Mapping[str, Any], field: str, *types: type) -> list[Any]:
    """An array; the format makes all its items one type, so the first speaks for all."""
    value = metadata.get(field)
    if not isinstance(value, list) or not value or type(value[0]) not in types:
        raise ModelFileError(f"{field} is missing, empty or of the wrong type")
    return value
