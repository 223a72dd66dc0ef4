"""Runs that have a name, over HTTP with OpenAI's client: asked for again, stopped for a person, and
gone on with by the next process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted import ScriptedEngine, Turn, call
from serving import Running, serving, wait_until_loaded

from f1 import F1
from f1.serve.access import Access
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.tools.function import make_tool
from f1.tools.policy import Rule, Rules
from f1.tools.registry import OPERATOR
from f1.trace.recorder import Recorder

Ask = Callable[..., Any]
CALLS: Sequence[Turn] = ([call("pay", "c1", to="Ann", euros=5)], "Ann has 5 euros.")
QUESTION = "Pay Ann 5 euros"


class Bank:
    """What is paid."""

    def __init__(self) -> None:
        self.paid: list[tuple[str, int]] = []

    def pay(self, to: str, euros: int) -> str:
        """Pays someone."""
        self.paid.append((to, euros))
        return "paid"


@contextmanager
def life(folder: Path, bank: Bank, *turns: Turn, **options: Any) -> Iterator[Running]:
    """A server process's."""
    store = open_runs(Settings(cache=folder))
    assert store is not None
    registrar = Registrar()
    registrar.registry.put_tool(OPERATOR, make_tool(bank.pay).spec)
    engine = ScriptedEngine(*turns)
    with (
        serving(lambda: engine, recorder=Recorder(store), registrar=registrar, **options) as server,
        httpx.Client() as http,
    ):
        wait_until_loaded(http, server)
        yield server


def asker(server: Running, key: str = "none") -> Ask:
    def ask(question: str | None = QUESTION, **f1: Any) -> Any:
        messages = [{"role": "user", "content": question}] if question is not None else []
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            return client.chat.completions.create(
                model="f1", messages=messages, extra_body={"f1": {"tools": ["pay"], **f1}}
            )

    return ask


def test_a_run_that_is_asked_for_again_is_told_again(tmp_path: Path) -> None:
    bank = Bank()
    with life(tmp_path, bank, *CALLS) as server:
        ask = asker(server)
        first = ask(run_id="pay-ann")
        again, by_name = ask(run_id="pay-ann"), ask(None, run_id="pay-ann")
        with pytest.raises(openai.BadRequestError) as refused:
            ask("Pay Bob 5 euros", run_id="pay-ann")
        unnamed = ask()
    assert bank.paid == [("Ann", 5)]
    assert [c.choices[0].message.content.strip() for c in (first, again, by_name)] == [CALLS[1]] * 3
    assert first.choices[0].f1["run_id"] == "pay-ann"
    assert (refused.value.code, refused.value.param) == ("run_id_taken", "f1.run_id")
    assert unnamed.choices[0].f1["run_id"] == unnamed._request_id.replace("req_", "run_")
    with life(tmp_path, bank, "never asked") as server:
        told = asker(server)(None, run_id="pay-ann")
    assert told.choices[0].message == first.choices[0].message
    assert told.choices[0].f1["results"][0]["content"] == "paid"
    assert bank.paid == [("Ann", 5)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("inline", [False, True])
def test_a_person_edits_a_call_and_the_run_goes_on(
    tmp_path: Path, inline: bool, stream: bool
) -> None:
    bank = Bank()
    rules = Rules((Rule("ask", "policy[0]", tools=("pay",), why="it is money"),))
    with life(tmp_path, bank, *CALLS, policy=rules) as server:
        waiting = _whole(server, stream, run_id="r1")
        assert bank.paid == []
        assert waiting["finish_reason"] == "stop"
        assert not waiting["message"].get("tool_calls")
        assert waiting["f1"]["ending"] == "needs_approval"
        (approval,) = waiting["f1"]["approvals"]
        assert json.loads(approval["arguments"]) == {"to": "Ann", "euros": 5}
        assert "it is money" in approval["text"]
    edit = {"edit": {"to": "Ann", "euros": 3}}
    with life(tmp_path, bank, "Ann has 3 euros.", policy=rules) as server:
        verdicts = {}
        if inline:
            verdicts = {"verdicts": {approval["id"]: edit}}
        else:
            url = f"{server.url}/v1/approvals/{approval['id']}"
            said = httpx.post(url, json=edit).json()
            assert said["status"] == "edited", said
        done = _whole(server, stream, run_id="r1", **verdicts)
        assert done["message"]["content"].strip() == "Ann has 3 euros."
        assert bank.paid == [("Ann", 3)]
        again = _whole(server, stream, run_id="r1")
    assert again["message"] == done["message"]
    assert bank.paid == [("Ann", 3)]


def test_f1s_own_client_says_yes(tmp_path: Path) -> None:
    bank = Bank()
    rules = Rules((Rule("ask", "policy[0]", tools=("pay",)),))
    options: dict[str, Any] = {"tools": ["pay"], "run_id": "r1"}
    with (
        life(tmp_path, bank, *CALLS, policy=rules) as server,
        F1(base_url=server.url) as f1,
    ):
        waiting = f1.chat(QUESTION, f1=options)
        (approval,) = waiting.approvals
        assert json.loads(approval.call.arguments) == {"to": "Ann", "euros": 5}
        verdicts = {approval.id: {"approve": True}}
        done = f1.chat([], f1=options | {"verdicts": verdicts})
    assert (waiting.run_id, done.run_id) == ("r1", "r1")
    assert done.text.strip() == CALLS[1]
    assert bank.paid == [("Ann", 5)]


def _whole(server: Running, stream: bool, **f1: Any) -> dict[str, Any]:
    """The choice, put together where it is streamed."""
    body = {"model": "f1", "messages": [{"role": "user", "content": QUESTION}], "stream": stream,
            "f1": {"tools": ["pay"], **f1}}  # fmt: skip
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    if not stream:
        choice: dict[str, Any] = answer.json()["choices"][0]
        return choice
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    chunks = [json.loads(line)["choices"] for line in lines if line != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    last = next(choice for choice in choices if choice["finish_reason"])
    return {"message": {"role": "assistant", "content": text}, **last}


def test_a_run_is_its_tenants_alone(tmp_path: Path) -> None:
    bank = Bank()
    keys = {"F1_API_KEYS": "alice:alice-key-0123456789,bob:bob-key-0123456789"}
    access = Access.from_env(keys, "127.0.0.1")
    with life(tmp_path, bank, *CALLS, "Bob's own.", access=access) as server:
        asker(server, "alice-key-0123456789")(run_id="r1")
        with pytest.raises(openai.BadRequestError):
            asker(server, "bob-key-0123456789")(None, run_id="r1")
        bobs = asker(server, "bob-key-0123456789")("Mine", run_id="r1")
    assert bobs.choices[0].message.content.strip() == "Bob's own."
    assert len(bank.paid) == 1


def test_models_asked_by_name_keep_no_runs(tmp_path: Path) -> None:
    with life(tmp_path, Bank(), "Hello.") as server:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hello"}]}
        answer = httpx.post(
            f"{server.url}/v1/chat/completions", json=body | {"f1": {"session_id": "s"}}
        )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "f1.session_id"
