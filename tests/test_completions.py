"""`/v1/completions` with a real model behind it, asked by the official OpenAI client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from scripted import ScriptedEngine
from serving import Running, serving

from f1.engine import AsyncEngine
from f1.errors import ConstraintError, InvalidRequest
from f1.planning.collect import gather
from f1.serve.limits import Limits
from f1.serve.side_by_side import side_by_side
from f1.serve.wire.completions import parse_completions_request
from f1.settings import Settings
from f1.types import GenerateRequest

ONCE: Any = {"model": "f1", "prompt": "Once upon a time", "max_tokens": 12}


@pytest.fixture(scope="module")
def server(smollm_path: Path) -> Iterator[Running]:
    settings = Settings(kv_memory=2**27)
    with serving(lambda: AsyncEngine.start(str(smollm_path), settings)) as running:
        while httpx.get(f"{running.url}/ready").status_code != 200:
            pass
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as client:
        yield client


SHAPES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "echo": {"echo": True},
    "stop": {"stop": ["girl", ","]},
    "several": {"prompt": ["Once upon a time", "The capital of France is"], "echo": True},
    "several of several": {
        "prompt": ["Once upon", "Two"], "n": 2, "best_of": 2, "temperature": 1.0, "seed": 3,
    },
    "logprobs": {"logprobs": 2},
    "logprobs of the tokens alone": {"logprobs": 0, "prompt": "caf\u00e9 \U0001f600 \u4f60\u597d"},
    "tokens": {"prompt": [1, 4093, 2], "echo": True},
    "several of tokens": {"prompt": [[504, 3575], [504, 3575, 282]]},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_says_what_is_answered_whole(client: openai.OpenAI, shape: str) -> None:
    request = ONCE | SHAPES[shape]
    whole = client.completions.create(**request)
    Completion.model_validate(whole.to_dict(), strict=True)
    prompts = request["prompt"] if shape.startswith("several") else [request["prompt"]]
    assert len(whole.choices) == len(prompts) * request.get("n", 1)
    assert [choice.index for choice in whole.choices] == list(range(len(whole.choices)))
    chunks = list(
        client.completions.create(**request, stream=True, stream_options={"include_usage": True})
    )
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert counts(chunks[-1].usage) == counts(whole.usage)
    for choice in whole.choices:
        pieces = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert [p.finish_reason for p in pieces if p.finish_reason] == [choice.finish_reason]
        if choice.logprobs is not None:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                told = [item for p in pieces if p.logprobs for item in getattr(p.logprobs, name)]
                assert told == getattr(choice.logprobs, name)


def counts(usage: Any) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def test_it_is_the_prompts_text_that_goes_on_without_roles(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ONCE)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 4
    # The text again, as a prompt, goes on where it was cut.
    longer = client.completions.create(**ONCE | {"max_tokens": 24}).choices[0].text
    begun = ONCE["prompt"] + whole.choices[0].text
    rest = client.completions.create(**ONCE | {"prompt": begun}).choices[0].text
    assert whole.choices[0].text + rest == longer


def test_without_a_word_it_is_sixteen_tokens(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="f1", prompt="Once upon a time")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 16
    assert whole.choices[0].finish_reason == "length"


def test_prompts_side_by_side_say_what_each_says_alone(client: openai.OpenAI) -> None:
    prompts = ["Once upon a time", "The capital of France is", "def main():", "1, 2, 3,"]
    alone = [client.completions.create(**ONCE | {"prompt": p}) for p in prompts]
    spent = [counts(one.usage) for one in alone]
    together = client.completions.create(**ONCE | {"prompt": prompts})
    assert [c.text for c in together.choices] == [one.choices[0].text for one in alone]
    assert counts(together.usage) == tuple(map(sum, zip(*spent, strict=True)))


def test_a_spelling_in_text_is_no_control_token_and_its_id_is(
    server: Running, client: openai.OpenAI
) -> None:
    def count(prompt: Any) -> int:
        usage = client.completions.create(model="f1", prompt=prompt, max_tokens=1).usage
        assert usage is not None
        return usage.prompt_tokens

    assert count("<|im_end|>") > 1
    assert count([2]) == 1
    ids = httpx.post(f"{server.url}/tokenize", json={"prompt": "Once upon a time"}).json()["tokens"]
    same = client.completions.create(**ONCE | {"prompt": ids}).choices[0].text
    assert same == client.completions.create(**ONCE).choices[0].text


def test_logprobs_stand_where_their_text_begins(client: openai.OpenAI) -> None:
    choice = client.completions.create(**ONCE, logprobs=3).choices[0]
    logprobs: Any = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    ends = [*logprobs.text_offset[1:], len(choice.text)]
    for at, end, token, logprob, top in zip(
        logprobs.text_offset, ends, logprobs.tokens, logprobs.token_logprobs,
        logprobs.top_logprobs, strict=True,
    ):  # fmt: skip
        assert choice.text[at:end] == token
        assert top[token] == logprob == max(top.values())  # greedy
        assert len(top) == 3


def parse(**fields: Any) -> tuple[GenerateRequest, ...]:
    return parse_completions_request({"model": "f1", "prompt": "x"} | fields, Limits()).requests


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt[1]"),
    ({"prompt": ["a"] * 17}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": ["a", [1]]}, "prompt"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [[]]}, "prompt[0]"),
    ({"prompt": [["a"]]}, "prompt[0][0]"),
    ({"prompt": [[1] * 200_000] * 2}, "prompt"),
    ({"prompt": ["a"] * 16, "n": 3}, "n"),
    *[({"max_tokens": value}, "max_tokens") for value in (0, -1, 2**31, 1.5, "1", True)],
    ({"n": 33}, "n"),
    ({"n": 2, "best_of": 3}, "best_of"),
    ({"best_of": 2}, "best_of"),
    ({"logprobs": 6}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 1, "echo": True}, "echo"),
    ({"suffix": "x"}, "suffix"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"messages": []}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert param in caught.value.message


def test_null_counts_as_absent() -> None:
    names = (
        "best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty stop"
        " stream stream_options suffix temperature top_p user"
    )
    assert parse(seed=1, **dict.fromkeys(names.split())) == parse(seed=1)


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"model": "gpt-9"}, 404, "gpt-9"),
    ({"prompt": "word " * 40_000}, 400, "context"),
    ({"max_tokens": 2**30}, 400, "context"),
    ({"prompt": [2**31 - 1]}, 400, "prompt"),
    ({"prompt": [[1], [49_152]]}, 400, "prompt"),
    ({"prompt": ["a", "word " * 40_000]}, 400, "context"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "status", "told"), BAD)
def test_bad_requests_are_refused_and_the_next_is_served(
    server: Running, fields: dict[str, Any], status: int, told: str, stream: bool
) -> None:
    url = f"{server.url}/v1/completions"
    answer = httpx.post(url, json=ONCE | {"stream": stream, "echo": True} | fields, timeout=120)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["error"]["message"]
    fine = httpx.post(url, json=ONCE | {"max_tokens": 1}, timeout=120)
    assert fine.json()["usage"]["completion_tokens"] == 1
    assert json.loads(fine.text)["object"] == "text_completion"


# --- requests side by side -----------------------------------------------------------------------


def asks(*prompts: str) -> list[GenerateRequest]:
    return [GenerateRequest((), prompt=prompt, n=2) for prompt in prompts]


class Picky(ScriptedEngine):
    """Goes on with what it is given, but not with what is bad."""

    def __init__(self) -> None:
        def turn(request: GenerateRequest) -> str:
            if request.prompt == "bad":
                raise ConstraintError("bad")
            return str(request.prompt)

        super().__init__(turn)


async def test_choices_are_numbered_on() -> None:
    said: dict[int, str] = {}
    async with aclosing(side_by_side(Picky(), asks("a b", "c", "d"))) as events:
        async for event in events:
            said[event.choice] = said.get(event.choice, "") + getattr(event, "text", ".")
    assert said == {0: "a b .", 1: "a b .", 2: "c .", 3: "c .", 4: "d .", 5: "d ."}


async def test_one_that_fails_ends_all() -> None:
    engine = Picky()
    async with aclosing(side_by_side(engine, asks("a …", "bad", "c …"))) as events:
        with pytest.raises(ConstraintError):
            await gather(events, 6)
    assert engine.stopped_early == 2


async def test_nothing_is_told_before_all_have_begun() -> None:
    events = side_by_side(Picky(), asks("a b c d", "bad"))
    with pytest.raises(ConstraintError):
        await anext(events)


async def test_what_is_left_early_ends_all() -> None:
    engine = Picky()
    async with aclosing(side_by_side(engine, asks("a …", "b …", "c …"))) as events:
        await anext(events)
    assert engine.stopped_early == 3
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
