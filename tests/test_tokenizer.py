"""Our tokenizers against transformers, sentencepiece and a byte-pair merger in plain Python."""

from __future__ import annotations

import inspect
import json
import random
import threading
import time
import unicodedata
from argparse import ArgumentParser
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from f1 import _core
from f1.errors import ModelFileError
from f1.models.spelling import byte_level_alphabet
from f1.models.tokenizer import Tokenizer
from f1.models.tokenizer_gguf import tokenizer_from_gguf
from f1.models.tokenizer_json import tokenizer_from_folder

Metadata = Mapping[str, Any]


def _random_text(rng: random.Random) -> str:
    """Characters of one alphabet or of all, with spaces, digits and apostrophes strewn in. Only
    such as every Unicode table since 3.2 knows: libraries differ in their tables' age."""
    end = rng.choice([0x80, 0x250, 0x600, 0x3000, 0xD7FF, 0x1FFFF])
    characters = [chr(rng.randrange(1, end)) for _ in range(rng.randrange(1, 40))]
    old = unicodedata.ucd_3_2_0
    known = [c for c in characters if old.category(c) not in ("Cn", "Cs", "Co")]
    return "".join(
        rng.choice([" ", "  ", "\n", "\t", "1", "42", "'s", c]) if rng.random() < 0.3 else c
        for c in known
    )


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(0)
    code = [*inspect.getsource(ArgumentParser).split("\n\n"), inspect.getsource(json)]
    data = [
        json.dumps({"a": [1, 22, 333], "b": {"c": None, "é": "\u4f60\u597d"}}, indent=i)
        for i in (None, 2)
    ]
    prose = [
        "I'll say it's 3.14159, DON'T you?",
        "  two  spaces ",
        "\r\n\r\n x\n\n",
        "e\u0301 \u1112\u1161\u11ab",
    ]
    emoji = ["\U0001f468\u200d\U0001f469\u200d\U0001f467 ok \U0001f1e9\U0001f1ea!", "🙂" * 9]
    lines = [
        "\n".join(
            "".join(_random_text(rng) for _ in range(rng.randrange(12)))
            for _ in range(rng.randrange(2, 6))
        )
        for _ in range(300)
    ]
    return code + data + prose + emoji + lines + [_random_text(rng) for _ in range(3000)]


@pytest.fixture(scope="module")
def qwen_metadata(qwen_path: Path) -> Metadata:
    return _read_metadata(qwen_path)


@pytest.fixture(scope="module")
def smollm_metadata(smollm_path: Path) -> Metadata:
    return _read_metadata(smollm_path)


def _read_metadata(path: Path) -> Metadata:
    return _core.read_gguf(str(path)).metadata


@pytest.fixture(scope="module")
def qwen(qwen_metadata: Metadata) -> Tokenizer:
    return tokenizer_from_gguf(qwen_metadata)


@pytest.fixture(scope="module")
def smollm(smollm_metadata: Metadata) -> Tokenizer:
    return tokenizer_from_gguf(smollm_metadata)


# --- GGUF, byte-level ----------------------------------------------------------------------------


def test_qwen2_equals_transformers(qwen: Tokenizer, qwen_metadata: Metadata, texts: list[str]):
    spellings = [token.decode() for token in qwen_metadata["tokenizer.ggml.tokens"]]
    merges = [tuple(m.decode().split(" ")) for m in qwen_metadata["tokenizer.ggml.merges"]]
    vocab = {spelling: n for n, spelling in enumerate(spellings)}
    theirs = transformers.Qwen2Tokenizer(vocab=vocab, merges=merges)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert [qwen.encode(text) for text in texts] == expected


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPLITS = {
    "gpt-2": [_GPT2],
    "smollm": [r"\p{N}", _GPT2],
    "llama-bpe": [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
}


@pytest.mark.parametrize("pre", _SPLITS)
def test_pre_tokenizers_equal_plain_merging(smollm_metadata: Metadata, texts: list[str], pre: str):
    """SmolLM2's vocabulary under each way to split text: split, then always merge the pair that
    comes first in the list of merges."""
    ours = tokenizer_from_gguf({**smollm_metadata, "tokenizer.ggml.pre": pre})
    tokens = [token.decode() for token in smollm_metadata["tokenizer.ggml.tokens"]]
    ids = {
        t: n for n, t in enumerate(tokens) if smollm_metadata["tokenizer.ggml.token_type"][n] == 1
    }
    ranks = {
        tuple(m.decode().split(" ")): n
        for n, m in enumerate(smollm_metadata["tokenizer.ggml.merges"])
    }
    for text in texts[::3]:
        pieces = [text]
        for pattern in _SPLITS[pre]:
            pieces = [part for piece in pieces for part in _isolated(pattern, piece)]
        expected = [
            i for piece in pieces for i in _merge(piece, ids, ranks, whole=pre == "llama-bpe")
        ]
        assert ours.encode(text) == expected, repr(text)


def _isolated(pattern: str, text: str) -> list[str]:
    """Matches and what lies between them, in order."""
    return [part for part in regex.split(f"({pattern})", text) if part]


def _merge(piece: str, ids: dict[str, int], ranks: dict[Any, int], *, whole: bool) -> list[int]:
    stand_ins = {byte: character for character, byte in byte_level_alphabet().items()}
    parts = [stand_ins[byte] for byte in piece.encode()]
    if whole and "".join(parts) in ids:
        return [ids["".join(parts)]]
    parts = [part for part in parts if part in ids]  # SmolLM2 has no token for some bytes
    while True:
        ranked = [(ranks.get(pair, len(ranks)), n) for n, pair in enumerate(pairwise(parts))]
        rank, n = min(ranked, default=(len(ranks), 0))
        if rank == len(ranks):
            return [ids[part] for part in parts]
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


def test_tokens_spell_the_text(qwen: Tokenizer, texts: list[str]):
    for text in texts:
        nfc = unicodedata.normalize("NFC", text)
        assert qwen.decode(qwen.encode(text)) == nfc.encode()


def test_stop_and_control_tokens(qwen: Tokenizer, smollm: Tokenizer):
    assert {qwen.token_bytes(i) for i in qwen.stop_token_ids} == {b"<|im_end|>", b"<|endoftext|>"}
    assert smollm.stop_token_ids == {0, 2}
    assert qwen.token_id("<|im_start|>") in qwen.control_token_ids
    assert qwen.token_id("<tool_call>") not in qwen.control_token_ids
    assert qwen.vocab_size == 151936


def test_text_without_a_template_leads_with_what_the_file_says(
    qwen: Tokenizer, smollm: Tokenizer, smollm_metadata: Metadata
):
    assert qwen.leading_token_ids == smollm.leading_token_ids == []
    leads = tokenizer_from_gguf(smollm_metadata | {"tokenizer.ggml.add_bos_token": True})
    assert leads.leading_token_ids == [leads.token_id("<|im_start|>")]


def test_grammar_vocabulary_has_no_control_token(qwen: Tokenizer):
    vocabulary = qwen.vocabulary()
    assert len(vocabulary) == qwen.vocab_size
    assert not any(vocabulary[i] for i in qwen.control_token_ids)
    assert vocabulary[-1] == b""
    assert vocabulary[qwen.token_id("<tool_call>") or 0] == b"<tool_call>"
    assert vocabulary[qwen.encode(" the")[0]] == b" the"


# --- the wall ------------------------------------------------------------------------------------


def test_text_never_becomes_an_added_token(qwen: Tokenizer, smollm: Tokenizer):
    for tokenizer in (qwen, smollm):
        added = set(tokenizer.control_token_ids) | {tokenizer.token_id("<tool_call>")}
        for spelling in [tokenizer.token_bytes(i).decode() for i in added - {None}]:
            for text in (spelling, f"a{spelling}b", spelling * 3, f"{spelling[:-1]}{spelling}"):
                token_ids = tokenizer.encode(text)
                assert not added & set(token_ids)
                assert tokenizer.decode(token_ids).decode() == text


def test_protected_spellings_stay_text(qwen: Tokenizer):
    text = "<|im_end|><tool_call>"
    assert qwen.encode_prompt(qwen.protect(text, "\ue000"), "\ue000") == qwen.encode(text)
    mixed = qwen.encode_prompt(qwen.protect_control(text, "\ue000"), "\ue000")
    assert mixed == [*qwen.encode("<|im_end|>"), qwen.token_id("<tool_call>")]


@pytest.mark.parametrize("text", ["\ud800", "a\udfff\ud800b", "\x00", ""])
def test_odd_text(qwen: Tokenizer, text: str):
    expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert qwen.decode(qwen.encode(text)).decode() == expected


def test_others_go_on_while_a_long_text_is_read(smollm: Tokenizer):
    begun, done = threading.Event(), threading.Event()
    found: list[int] = []
    moments: list[float] = []

    def read() -> None:
        begun.wait()
        moments.append(time.perf_counter())
        found.extend(smollm.encode(" word" * 200_000))
        moments.append(time.perf_counter())
        done.set()

    thread = threading.Thread(target=read)
    thread.start()
    begun.set()
    longest, last = 0.0, time.perf_counter()
    while not done.wait(0.001):
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    longest = max(longest, time.perf_counter() - last)
    thread.join()
    assert longest < (moments[1] - moments[0]) / 2  # the library's plain way has all stand still
    assert found == smollm.encode(" word") * 200_000


def test_token_bytes_out_of_range(qwen: Tokenizer):
    for token_id in (-1, qwen.vocab_size):
        with pytest.raises(IndexError):
            qwen.token_bytes(token_id)


# --- GGUF, SentencePiece -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> sentencepiece.SentencePieceProcessor:
    """A small SentencePiece model as Llama 2's was made: BPE, byte fallback, text left as it is."""
    folder = tmp_path_factory.mktemp("pieces")
    lines = [line for text in texts[:60] for line in text.splitlines() if line.strip()]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "pieces"),
        model_type="bpe",
        vocab_size=1000,
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))


def _as_gguf(pieces: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    def kind(i: int) -> int:
        return (
            6
            if pieces.is_byte(i)
            else 3
            if pieces.is_control(i)
            else 2
            if pieces.is_unknown(i)
            else 1
        )

    ids = range(pieces.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i).encode() for i in ids],
        "tokenizer.ggml.scores": [pieces.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
        "tokenizer.ggml.unknown_token_id": pieces.unk_id(),
        "tokenizer.ggml.eos_token_id": pieces.eos_id(),
    }


def test_sentencepiece_equals_sentencepiece(
    pieces: sentencepiece.SentencePieceProcessor, texts: list[str]
):
    ours = tokenizer_from_gguf(_as_gguf(pieces))
    for text in texts:
        assert ours.encode(text) == pieces.encode(text), repr(text)
        shown = f" {text}".replace("\u2581", " ") if text else ""  # a space is written as U+2581
        assert ours.decode(ours.encode(text)).decode() == shown
    assert ours.stop_token_ids == {pieces.eos_id()}
    assert ours.encode("<s></s><unk>") == pieces.encode("<s></s><unk>")


# --- tokenizer.json ------------------------------------------------------------------------------


def _byte_level() -> tuple[tokenizers.Tokenizer, Any]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, show_progress=False
    )


def _metaspace(scheme: str) -> tuple[tokenizers.Tokenizer, Any]:
    tokenizer = tokenizers.Tokenizer(
        models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return tokenizer, _piece_trainer(trainers.BpeTrainer)


def _legacy() -> tuple[tokenizers.Tokenizer, Any]:
    tokenizer, trainer = _metaspace("first")
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return tokenizer, trainer


def _unigram() -> tuple[tokenizers.Tokenizer, Any]:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, _piece_trainer(trainers.UnigramTrainer, unk_token="<unk>")


def _piece_trainer(trainer: Any, **options: Any) -> Any:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    return trainer(
        vocab_size=900,
        special_tokens=["<unk>", "</s>", *byte_tokens],
        show_progress=False,
        **options,
    )


@pytest.fixture(scope="module", params=["byte_level", "first", "legacy", "unigram"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> Path:
    """A folder as transformers saves it, around a tokenizer trained on the spot."""
    makers = {"byte_level": _byte_level, "legacy": _legacy, "unigram": _unigram}
    tokenizer, trainer = makers.get(request.param, lambda: _metaspace("first"))()
    tokenizer.train_from_iterator(texts[:60], trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["content"].startswith("<0x")]
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(spec)),
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    wrapped.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
    folder = tmp_path_factory.mktemp(request.param)
    wrapped.save_pretrained(folder)
    return folder


def test_folder_equals_transformers(folder: Path, texts: list[str]):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = tokenizer_from_folder(folder, vocab_size=1024)
    for text in texts:
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<tool_call>{text} </s>"
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), repr(text)
        assert ours.encode_prompt(prompt) == theirs.encode(prompt, add_special_tokens=False)
    assert ours.stop_token_ids == {theirs.eos_token_id, theirs.convert_tokens_to_ids("<|im_end|>")}
    assert ours.vocab_size == 1024


def test_folder_text_never_becomes_an_added_token(folder: Path):
    ours = tokenizer_from_folder(folder, vocab_size=1024)
    spellings = ["</s>", "<|im_end|>", "<|im_start|>", "<tool_call>"]
    added = {ours.token_id(spelling) for spelling in spellings}
    assert None not in added
    for spelling in spellings:
        for text in (spelling, f"a{spelling}", f"a {spelling} b", f" {spelling}"):
            assert not added & set(ours.encode(text))


# --- broken files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokenizer.ggml.model", "wordpiece"),
        ("tokenizer.ggml.pre", "unheard-of"),
        ("tokenizer.ggml.tokens", None),
        ("tokenizer.ggml.tokens", [1, 2, 3]),
        ("tokenizer.ggml.tokens", [b"\xff"] * 3),
        ("tokenizer.ggml.tokens", ["日".encode()] * 3),
        ("tokenizer.ggml.token_type", [1]),
        ("tokenizer.ggml.token_type", [b"1", b"1", b"1"]),
        ("tokenizer.ggml.pre", ["qwen2"]),
        ("tokenizer.ggml.merges", [b"ab"]),
        ("tokenizer.ggml.merges", [b"x y"]),
        ("tokenizer.ggml.merges", None),
    ],
)
def test_broken_vocabulary_names_the_field(field: str, value: Any):
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [b"a", b"b", b"ab"],
        "tokenizer.ggml.token_type": [1, 1, 1],
        "tokenizer.ggml.merges": [b"a b"],
    }
    assert tokenizer_from_gguf(metadata).encode("ab") == [2]
    with pytest.raises(ModelFileError, match=f"{field}|alphabet"):
        tokenizer_from_gguf({**metadata, field: value})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": {"a": 9999}}}']
)
def test_broken_tokenizer_json(tmp_path: Path, text: str):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        tokenizer_from_folder(tmp_path, vocab_size=10)
