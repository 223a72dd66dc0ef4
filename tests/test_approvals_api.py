"""A call that waits for a person, over HTTP: who sees it, who may say what, and how it goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted import ScriptedEngine, call
from serving import serving, wait_until_loaded

from f1.config import ApprovalOptions
from f1.serve.access import Access
from f1.serve.registrar import Registrar
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.tools.policy import Rule, Rules
from f1.tools.registry import OPERATOR, Registry
from f1.tools.spec import CallLimits, Output, ToolSpec
from f1.trace.recorder import Recorder
from f1.trace.redaction import Redaction
from f1.types import Tool

NAMES = ("alice", "bob")
KEYS = {"F1_API_KEYS": ",".join(f"{name}:{name}-key-0123456789" for name in NAMES)}
TO, PIN = {"type": "string"}, {"type": "string", "writeOnly": True}
SCHEMA = {"type": "object", "properties": {"to": TO, "pin": PIN}, "required": ["to"]}
ASK = Rules((Rule("ask", "policy[0]", ("send",)),))
ANN, BOB = '{"to": "ann@x.org"}', '{"to": "bob@x.org"}'


@dataclass
class Post:
    sent: list[str] = field(default_factory=list)

    async def call(self, arguments: Mapping[str, Any], limits: CallLimits) -> Output:
        self.sent.append(json.dumps(arguments))
        return Output("sent")


@dataclass
class Asked:
    url: str
    post: Post
    engine: ScriptedEngine

    def http(self, who: str) -> httpx.Client:
        key = {"authorization": f"Bearer {who}-key-0123456789"}
        return httpx.Client(base_url=f"{self.url}/v1", headers=key, timeout=60)

    def ask(self, who: str, run_id: str = "r1", **more: Any) -> Any:
        body = {"model": "f1", "messages": [{"role": "user", "content": "Write to Ann"}]}
        options = {"tools": ["send"], "run_id": run_id, "strategy": "direct", **more}
        with self.http(who) as http:
            return http.post("/chat/completions", json=body | {"f1": options})

    def waiting(self, who: str, run_id: str = "r1") -> str:
        """The id of what it waits for."""
        answer = self.ask(who, run_id).json()["choices"][0]
        assert answer["finish_reason"] == "stop", answer
        assert "tool_calls" not in answer["message"]
        assert answer["f1"]["ending"] == "needs_approval"
        (approval,) = answer["f1"]["approvals"]
        assert approval["arguments"] == ANN
        return str(approval["id"])


@contextmanager
def asking(folder: Path, approvers: tuple[str, ...] | None = None) -> Iterator[Asked]:
    registrar, post = Registrar(Registry()), Post()
    registrar.registry.put_tool(OPERATOR, ToolSpec(Tool("send", "Sends.", SCHEMA), post))
    store = open_runs(Settings(cache=folder))
    assert store is not None
    engine = ScriptedEngine([call("send", to="ann@x.org")], "It is done.")
    access = Access.from_env(dict(KEYS), "127.0.0.1")
    recorder = Recorder(store, Redaction(bytes(32)))
    options = {"recorder": recorder, "policy": ASK, "registrar": registrar}
    with serving(
        lambda: engine, access=access, approvals=ApprovalOptions(approvers), **options
    ) as server:
        asked = Asked(server.url, post, engine)
        with asked.http("alice") as http:
            wait_until_loaded(http, server)
        yield asked


def test_a_person_edits_and_the_run_goes_on(tmp_path: Path) -> None:
    """Also where the server was started again in between."""
    with asking(tmp_path) as asked:
        id_ = asked.waiting("bob")
    with asking(tmp_path) as asked, asked.http("bob") as bob:
        asked.engine.turns = ["It is done."]
        (one,) = bob.get("/approvals").json()["data"]
        assert one["id"] == id_
        assert one["run_id"] == "r1"
        assert one["status"] == "waiting"
        assert "ann@x.org" in one["text"]
        assert bob.get(f"/approvals/{id_}").json() == one
        said = bob.post(f"/approvals/{id_}", json={"edit": {"to": "bob@x.org"}})
        assert said.json()["status"] == "edited"
        assert asked.post.sent == []
        assert bob.get("/approvals").json()["data"] == []
        assert bob.get(f"/approvals/{id_}").json()["verdict"] == {"edit": {"to": "bob@x.org"}}
        answer = asked.ask("bob").json()
        assert answer["choices"][0]["message"]["content"].strip() == "It is done."
        assert asked.post.sent == [BOB]
        again = bob.post(f"/approvals/{id_}", json={"approve": True})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "approval_decided")


def test_what_a_tool_calls_secret_is_in_no_verdict(tmp_path: Path) -> None:
    with asking(tmp_path) as asked, asked.http("bob") as bob:
        id_ = asked.waiting("bob")
        said = bob.post(f"/approvals/{id_}", json={"edit": {"to": "bob@x.org", "pin": "73-19-55"}})
        assert (said.status_code, said.json()["error"]["param"]) == (400, "edit")
        assert bob.get(f"/approvals/{id_}").json()["status"] == "waiting"
    kept = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert b"73-19-55" not in kept


def test_with_the_client_of_openai(tmp_path: Path) -> None:
    with asking(tmp_path) as asked:
        client = openai.OpenAI(base_url=f"{asked.url}/v1", api_key="bob-key-0123456789")
        f1: dict[str, Any] = {"tools": ["send"], "run_id": "r1", "strategy": "direct"}

        def ask(**more: Any) -> Any:
            return client.chat.completions.create(
                model="f1",
                messages=[{"role": "user", "content": "Write to Ann"}],
                extra_body={"f1": f1 | more},
            ).choices[0]

        (approval,) = ask().f1["approvals"]
        answer = ask(verdicts={approval["id"]: {"reject": "she is away"}})
        assert answer.message.content.strip() == "It is done."
        assert asked.post.sent == []
        assert "she is away" in asked.engine.requests[-1].messages[-1].content
        with pytest.raises(openai.ConflictError):
            ask(verdicts={approval["id"]: {"approve": True}})
        assert asked.post.sent == []


def test_nobody_else_sees_or_decides(tmp_path: Path) -> None:
    with asking(tmp_path) as asked, asked.http("alice") as alice, asked.http("bob") as bob:
        id_ = asked.waiting("bob")
        assert alice.get("/approvals").json()["data"] == []
        for wrong in (id_, id_.upper(), "apr_1", "%00", "' OR 1=1 --"):
            assert alice.get(f"/approvals/{wrong}").status_code == 404
            assert alice.post(f"/approvals/{wrong}", json={"approve": True}).status_code == 404
        assert httpx.get(f"{asked.url}/v1/approvals").status_code == 401
        body = {"approve": True}
        assert httpx.post(f"{asked.url}/v1/approvals/{id_}", json=body).status_code == 401
        theirs = asked.ask("alice", "r2", verdicts={id_: body})
        assert theirs.json()["error"]["code"] == "approval_not_found"
        assert asked.post.sent == []
        assert bob.post(f"/approvals/{id_}", json=body).json()["status"] == "approved"
        asked.ask("bob")
        assert asked.post.sent == [ANN]


@pytest.mark.parametrize("approvers", [("alice",), ()])
def test_only_who_is_named_decides(tmp_path: Path, approvers: tuple[str, ...]) -> None:
    with (
        asking(tmp_path, approvers) as asked,
        asked.http("alice") as alice,
        asked.http("bob") as bob,
    ):
        id_ = asked.waiting("bob")
        yes = {"approve": True}
        assert bob.post(f"/approvals/{id_}", json=yes).status_code == 403
        assert asked.ask("bob", verdicts={id_: yes}).status_code == 403
        assert asked.post.sent == []
        if not approvers:
            assert alice.post(f"/approvals/{id_}", json=yes).status_code == 404
            return
        assert [one["id"] for one in alice.get("/approvals").json()["data"]] == [id_]
        assert alice.post(f"/approvals/{id_}", json=yes).json()["status"] == "approved"
        assert asked.ask("bob").status_code == 200
        assert asked.post.sent == [ANN]


def test_what_is_no_verdict_changes_nothing(tmp_path: Path) -> None:
    with asking(tmp_path) as asked, asked.http("bob") as bob:
        id_ = asked.waiting("bob")
        for body, param in (
            ({}, "body"), ({"approve": False}, "approve"), ({"approve": 1}, "approve"),
            ({"edit": {"to": 1}}, "edit"), ({"edit": {}}, "edit"), ({"edit": "x"}, "edit"),
            ({"approve": True, "reject": "x"}, "body"), ({"yes": True}, "yes"), ([], "body"),
        ):  # fmt: skip
            answer = bob.post(f"/approvals/{id_}", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), body
        assert bob.get(f"/approvals/{id_}").json()["status"] == "waiting"
        both = [threading.Thread(target=asked.ask, args=("bob",)) for _ in range(2)]
        assert bob.post(f"/approvals/{id_}", json={"approve": True}).status_code == 200
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        asked.ask("bob")
        assert asked.post.sent == [ANN]
