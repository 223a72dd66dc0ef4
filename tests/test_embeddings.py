"""Embeddings: the encoder against transformers, the endpoint with the official client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
import transformers
from scripted import ScriptedEngine
from serving import Running, serving, wait_until_loaded

from f1.errors import ModelFileError
from f1.models.embedding import SentenceEncoder
from f1.models.pull import pull
from f1.serve.limits import Limits
from f1.settings import Settings
from f1.tools.embedder import Embedder

MODEL = "all-minilm-l6-v2"
TEXTS = [
    "A man is eating pasta.",
    "Naïve café: 漢字 and 🙂, “quotes”… and a_very_long_unhyphenated_identifier_name()",
    "x",
    "The [CLS] and [SEP] of a text are words, or less.",
    "word " * 200,
    "Someone has a plate of noodles.",
    "The stock market fell by three percent on Monday.",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return pull(MODEL, Settings.from_env())


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    torch.set_num_threads(1)  # as the endpoint has it
    return SentenceEncoder.load(folder)


def embed(encoder: SentenceEncoder, texts: list[str]) -> np.ndarray:
    return np.concatenate(list(encoder.embed([encoder.tokenize(text) for text in texts])))


def test_ids_are_those_of_transformers_but_for_tokens_spelled_in_text(
    encoder: SentenceEncoder, folder: Path
) -> None:
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for text in TEXTS:
        if "[SEP]" not in text:
            expected = theirs(text, truncation=False, padding=False)["input_ids"]
            assert encoder.tokenize(text) == expected
    spelled = encoder.tokenize("[CLS] a [SEP] b")
    assert [spelled.count(token) for token in encoder.frame] == [1, 1]


def test_vectors_are_those_of_transformers(encoder: SentenceEncoder, folder: Path) -> None:
    bert = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ours = embed(encoder, TEXTS)
    assert ours.shape == (len(TEXTS), 384)
    for text, vector in zip(TEXTS, ours, strict=True):
        with torch.inference_mode():
            hidden = bert(torch.tensor([encoder.tokenize(text)])).last_hidden_state
        expected = torch.nn.functional.normalize(hidden.mean(1))[0].numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        # What it is computed with does not matter.
        np.testing.assert_allclose(embed(encoder, [text])[0], vector, atol=1e-6)


def test_vectors_of_many_batches_are_in_order(encoder: SentenceEncoder) -> None:
    sentences = [encoder.tokenize(text) for text in TEXTS] * 10
    batches = list(encoder.embed(sentences))
    assert len(batches) > 1
    expected = np.tile(embed(encoder, TEXTS), (10, 1))
    np.testing.assert_allclose(np.concatenate(batches), expected, atol=1e-6)


def test_what_means_the_same_is_near(encoder: SentenceEncoder) -> None:
    vectors = embed(encoder, TEXTS)
    near = vectors @ vectors[0]
    assert near[0] == pytest.approx(1, abs=1e-5)
    assert near[5] > 0.5 > near[6]  # pasta and noodles, pasta and the stock market


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{}"),
        ("sentence_bert_config.json", b"[]"),
        ("tokenizer.json", b'{"model": {"vocab": {"[CLS]": 1, "[SEP]": 2}}}'),
        ("model.safetensors", b"\2\0\0\0\0\0\0\0{}"),
    ],
)
def test_a_broken_folder_is_refused(
    folder: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError):
        SentenceEncoder.load(tmp_path)


# --- the endpoint --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    limits = Limits(max_embedding_tokens=1000, max_embedding_inputs=500)
    embedder = Embedder(Settings.from_env())
    engine = ScriptedEngine("Hello.")
    with serving(lambda: engine, limits, embedder=embedder) as running, httpx.Client() as http:
        wait_until_loaded(http, running)
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


def test_the_client_gets_vectors_in_order(client: openai.OpenAI, encoder: SentenceEncoder) -> None:
    """It asks for base64 unless it is told to ask for numbers."""
    expected = embed(encoder, TEXTS)
    for options in ({}, {"encoding_format": "float"}, {"dimensions": 384, "user": "me"}):
        found = client.embeddings.create(model=MODEL, input=TEXTS, **options)
        assert [item.index for item in found.data] == list(range(len(TEXTS)))
        vectors = np.array([item.embedding for item in found.data])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        assert found.model == MODEL
        num_tokens = sum(len(encoder.tokenize(text)) for text in TEXTS)
        assert found.usage.prompt_tokens == found.usage.total_tokens == num_tokens
    one = client.embeddings.create(model=MODEL, input=TEXTS[0])
    np.testing.assert_allclose(one.data[0].embedding, expected[0], atol=1e-6)


def test_the_model_is_listed_and_decodes_nothing(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["f1", "scripted", MODEL]
    with pytest.raises(openai.NotFoundError, match="f1, scripted"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    for model in ("f1", "text-embedding-3-small"):
        with pytest.raises(openai.NotFoundError, match=MODEL):
            client.embeddings.create(model=model, input="x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, 2, 3]}, "input[0]"),
        ({"input": [[1, 2, 3]]}, "input[0]"),
        ({"input": ["x"] * 501}, "input"),
        ({"input": ["x", "word " * 300]}, "input[1]"),
        ({"input": ["word " * 200] * 6}, "input"),
        ({"dimensions": 256}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"user": 3}, "user"),
        ({"timeout": -1}, "timeout"),
        ({"task": "search"}, "task"),
    ],
)
def test_a_wrong_field_is_named(server: Running, fields: dict[str, Any], param: str) -> None:
    url = f"{server.url}/v1/embeddings"
    answer = httpx.post(url, json={"model": MODEL, "input": "x"} | fields, timeout=120)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert httpx.post(url, json={"model": MODEL, "input": "x"}).status_code == 200


def test_a_text_too_long_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match=r"302 tokens, and the model reads 256"
    ) as told:
        client.embeddings.create(model=MODEL, input="word " * 300)
    assert told.value.code == "context_length_exceeded"
    client.embeddings.create(model=MODEL, input="word " * 254)
    with pytest.raises(openai.BadRequestError, match=r"1000 tokens.*input\[4\]' there are 1010"):
        client.embeddings.create(model=MODEL, input=["word " * 200] * 6)


def test_files_that_cannot_be_had_are_told_of(tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    embedder = Embedder(Settings(cache=tmp_path))
    with serving(lambda: ScriptedEngine("Hi."), embedder=embedder) as running:
        asked = {"model": MODEL, "input": "x"}
        answer = httpx.post(f"{running.url}/v1/embeddings", json=asked, timeout=120)
        assert answer.status_code == 404
        assert f"f1 pull {MODEL}" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text


def test_a_client_that_leaves_stops_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    batches: list[int] = []

    class Slow:
        num_dimensions, max_tokens = 1, 9

        def tokenize(self, text: str) -> list[int]:
            return [0]

        def embed(self, sentences: Any) -> Iterator[np.ndarray]:
            for number in range(5):
                batches.append(number)
                begun.set()
                assert may_go_on.wait(60)
                yield np.zeros((1, 1), np.float32)

    embedder = Embedder(Settings())
    monkeypatch.setattr(embedder, "_load", Slow)
    with serving(lambda: ScriptedEngine("Hi."), embedder=embedder) as running:
        body = {"model": MODEL, "input": "x", "timeout": 0.05}
        answer = httpx.post(f"{running.url}/v1/embeddings", json=body, timeout=60)
        assert answer.status_code == 408
        assert begun.wait(60)
        assert not running.state.busy()
        may_go_on.set()
    assert batches == [0]
