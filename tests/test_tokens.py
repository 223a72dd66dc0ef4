"""/tokenize and /detokenize with a real model: what is counted is what is read, and text stays
text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import ScriptedEngine
from serving import serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.models.tokenizer import AddedToken, Tokenizer, Vocabulary
from f1.settings import Settings

MESSAGES = [{"role": "user", "content": "Write a token: <|im_end|>"}]
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time."}}


@pytest.fixture(scope="module")
def http(smollm_path: Path) -> Iterator[httpx.Client]:
    settings = Settings(kv_memory=2**26)
    with (
        serving(lambda: AsyncEngine.start(str(smollm_path), settings)) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        wait_until_loaded(client, server)
        yield client


def tokens(http: httpx.Client, **fields: Any) -> list[int]:
    answer = http.post("/tokenize", json=fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["count"] == len(body["tokens"])
    assert body["max_model_len"] > 0
    return body["tokens"]


def text(http: httpx.Client, token_ids: list[int]) -> str:
    answer = http.post("/detokenize", json={"tokens": token_ids})
    assert answer.status_code == 200, answer.text
    return answer.json()["prompt"]


@pytest.mark.parametrize("prompt", ["Hello, world", "", "é 漢字 🙂", "<|im_end|>", "a\u0000b"])
def test_text_comes_back(http: httpx.Client, prompt: str) -> None:
    for special in (False, True):
        assert text(http, tokens(http, prompt=prompt, parse_special=special)) == prompt


def test_text_becomes_control_tokens_only_where_that_is_said(http: httpx.Client) -> None:
    (end,) = tokens(http, prompt="<|im_end|>", parse_special=True, model="smollm2-135m")
    plain = tokens(http, prompt="<|im_end|>")
    assert end not in plain
    assert len(plain) > 1
    conversation = tokens(http, messages=MESSAGES)
    assert conversation.count(end) == 2  # of the template's system message, and of the user's
    assert text(http, conversation).count("<|im_end|>") == 3


@pytest.mark.parametrize("fields", [{}, {"tools": [CLOCK]}])
def test_a_conversation_has_the_tokens_that_a_completion_counts(
    http: httpx.Client, fields: dict[str, Any]
) -> None:
    body = {"model": "f1", "messages": MESSAGES, "max_tokens": 1} | fields
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    assert len(tokens(http, messages=MESSAGES, **fields)) == usage["prompt_tokens"]


def test_text_has_the_tokens_that_a_completion_counts(http: httpx.Client) -> None:
    body = {"model": "f1", "prompt": "Once <|im_end|> upon", "max_tokens": 1}
    usage = http.post("/v1/completions", json=body).json()["usage"]
    assert len(tokens(http, prompt=body["prompt"])) == usage["prompt_tokens"]


class Bytes(ScriptedEngine):
    """Reads bytes, behind a token that begins every text."""

    tokenizer = Tokenizer(
        Vocabulary(
            [*(bytes([n]) for n in range(256)), b"<s>"],
            [AddedToken(256, "<s>", control=True)],
            frozenset(),
            bos_token="<s>",
            leads_with_bos=True,
        ),
        lambda text: list(text.encode()),
        lambda text: list(text.encode()),
    )


def test_what_begins_every_text_can_be_left_out() -> None:
    with serving(lambda: Bytes("Hi.")) as server, httpx.Client(base_url=server.url) as http:
        wait_until_loaded(http, server)
        assert tokens(http, prompt="ab") == [256, 97, 98]
        assert tokens(http, prompt="ab", add_special_tokens=False) == [97, 98]
        assert text(http, [97, 0xC3]) == "a\ufffd"


def test_tokens_are_shown(http: httpx.Client) -> None:
    body = http.post("/tokenize", json={"prompt": "Hello there", "return_token_strs": True}).json()
    assert "".join(body["token_strs"]) == "Hello there"
    assert len(body["token_strs"]) == body["count"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"prompt": "x", "tools": [CLOCK]}, "tools"),
        ("/tokenize", {"messages": MESSAGES, "parse_special": True}, "parse_special"),
        ("/tokenize", {"messages": MESSAGES, "tools": [CLOCK, CLOCK]}, "tools"),
        ("/tokenize", {"prompt": "x", "add_special_tokens": "no"}, "add_special_tokens"),
        ("/tokenize", {"prompt": "x", "special": True}, "special"),
        ("/tokenize", {"prompt": "x", "model": "gpt-9"}, "model"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1] * 70_000}, "tokens"),
        ("/detokenize", {"tokens": [0, 10**6]}, "tokens[1]"),
        ("/detokenize", {"tokens": [0], "model": "gpt-9"}, "model"),
    ],
)
def test_a_wrong_field_is_named(
    http: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = http.post(path, json=fields)
    assert answer.status_code == (404 if param == "model" else 400)
    assert answer.json()["error"]["param"] == param
    assert len(tokens(http, prompt="x")) == 1
