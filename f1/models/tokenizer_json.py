"""A tokenizer from a Hugging Face folder: tokenizer.json and its small companions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer as Encoder

from f1.errors import ModelFileError
from f1.models.encoder import plain_ids, refusals_of
from f1.models.files import read_file
from f1.models.spelling import byte_level_bytes, sentencepiece_bytes
from f1.models.tokenizer import STOP_SPELLINGS, AddedToken, Encode, Tokenizer, Vocabulary

_MAX_JSON = 64 * 2**20  # bytes; the largest tokenizers have half of that
_OUT_OF_REACH = " "  # in front of a piece: normalised text has no plain spaces (SentencePiece)


def tokenizer_from_folder(folder: Path, vocab_size: int) -> Tokenizer:
    """`vocab_size` is the number of logits, often padded beyond the tokens there are.

    Raises ModelFileError naming the file.
    """
    spec = read_json(folder / "tokenizer.json")
    try:
        return _from_spec(spec, folder, vocab_size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"tokenizer.json: {type(error).__name__}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; raises ModelFileError naming the file."""
    try:
        value = orjson.loads(read_file(path, _MAX_JSON))
    except orjson.JSONDecodeError as error:
        raise ModelFileError(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path.name} is not an object")
    return value


def _from_spec(spec: dict[str, Any], folder: Path, vocab_size: int) -> Tokenizer:
    added = [_added_token(entry) for entry in spec.get("added_tokens") or ()]
    spellings = _spellings(spec["model"], added)
    _check_ids(spellings, vocab_size)
    config = _optional_json(folder / "tokenizer_config.json")
    vocabulary = Vocabulary(
        token_bytes=_token_bytes(spec, spellings, vocab_size),
        added=added,
        stop_token_ids=_stop_token_ids(folder, config, added) & set(range(vocab_size)),
        bos_token=_content(config.get("bos_token")),
        eos_token=_content(config.get("eos_token")),
        leads_with_bos=bool(config.get("add_bos_token")),
    )
    return Tokenizer(vocabulary, *_encoders(spec, added))


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    if not isinstance(entry["content"], str) or not entry["content"]:
        raise ModelFileError(f"tokenizer.json: an added token is {entry['content']!r}")
    return AddedToken(
        id=entry["id"],
        text=entry["content"],
        control=bool(entry.get("special")),
        strips_left=bool(entry.get("lstrip")),
        strips_right=bool(entry.get("rstrip")),
    )


def _spellings(model: Mapping[str, Any], added: list[AddedToken]) -> dict[int, tuple[str, bool]]:
    """id → (spelling, is it an added token)."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: [piece, score] in the order of ids
        spellings = {token_id: (piece, False) for token_id, (piece, _) in enumerate(vocab)}
    else:
        spellings = {token_id: (spelling, False) for spelling, token_id in vocab.items()}
    return spellings | {token.id: (token.text, True) for token in added}


def _check_ids(spellings: Mapping[int, Any], vocab_size: int) -> None:
    for token_id in spellings:
        if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
            raise ModelFileError(
                f"tokenizer.json has token id {token_id}, the model {vocab_size} rows"
            )


def _token_bytes(
    spec: Mapping[str, Any], spellings: Mapping[int, tuple[str, bool]], vocab_size: int
) -> list[bytes]:
    token_bytes = [b""] * vocab_size
    plain = {token_id: spelling for token_id, (spelling, added) in spellings.items() if not added}
    steps = {step["type"] for step in _steps(spec.get("decoder"), spec.get("pre_tokenizer"))}
    found = (
        byte_level_bytes(list(plain.values()))
        if "ByteLevel" in steps
        else list(map(sentencepiece_bytes, plain.values()))
    )
    for token_id, token in zip(plain, found, strict=True):
        token_bytes[token_id] = token
    for token_id, (spelling, is_added) in spellings.items():
        if is_added:
            token_bytes[token_id] = spelling.encode()
    return token_bytes


def _steps(*parts: Any) -> Iterator[dict[str, Any]]:
    """All parts of a pipeline, nested sequences opened."""
    for part in parts:
        if isinstance(part, dict):
            yield part
            for value in part.values():
                yield from _steps(*value) if isinstance(value, list) else ()


def _encoders(spec: dict[str, Any], added: list[AddedToken]) -> tuple[Encode, Encode]:
    """Encoders of plain text, for the start of a prompt and for what follows an added token."""
    plain = {**spec, "added_tokens": [], "post_processor": None, "truncation": None}
    plain |= {"padding": None, "model": _without(spec["model"], added)}
    first = _encoder(plain)
    steps = list(_steps(plain.get("pre_tokenizer")))
    only_first = [step for step in steps if step.get("prepend_scheme") == "first"]
    if not only_first:
        return first, first
    for step in only_first:  # Metaspace: a space in front of the prompt's first piece alone
        step["prepend_scheme"] = "never"
    return first, _encoder(plain)


def _encoder(spec: Mapping[str, Any]) -> Encode:
    with refusals_of("tokenizer.json"):
        encoder = Encoder.from_buffer(orjson.dumps(spec))
        encoder.encode("a\U0010fffd")  # of a character without a token the unknown one is made
    return partial(plain_ids, encoder)


def _without(model: dict[str, Any], added: list[AddedToken]) -> dict[str, Any]:
    """The model unable to make added tokens out of text, neither by spelling nor by id. The unknown
    token must stay in."""
    texts, ids = {token.text for token in added}, {token.id for token in added}
    if isinstance(model["vocab"], list):
        unknown = model.get("unk_id")
        vocab = [
            [
                _OUT_OF_REACH + piece if n != unknown and (piece in texts or n in ids) else piece,
                score,
            ]
            for n, (piece, score) in enumerate(model["vocab"])
        ]
        return {**model, "vocab": vocab}
    unknown = model.get("unk_token") or ""
    plain = {
        k: v for k, v in model["vocab"].items() if k == unknown or not (k in texts or v in ids)
    }
    return {**model, "vocab": plain}


def _stop_token_ids(
    folder: Path, config: Mapping[str, Any], added: list[AddedToken]
) -> frozenset[int]:
    ends = {_content(config.get("eos_token"))} | STOP_SPELLINGS
    stops = {token.id for token in added if token.text in ends}
    for name in ("generation_config.json", "config.json"):
        eos = _optional_json(folder / name).get("eos_token_id")
        stops |= {i for i in (eos if isinstance(eos, list) else [eos]) if type(i) is int}
    return frozenset(stops)


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str:
    """A token in tokenizer_config.json is its text or an object around it."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else ""
