"""Conversations that the server keeps, over HTTP: what was said, whose it is, how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import ScriptedEngine
from serving import HELLO, Running, serving, wait_until_loaded

from f1.serve.access import Access
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.store.sql_runs import SqlRuns
from f1.trace.recorder import Recorder

KEYS = {"F1_API_KEYS": "alice:alice-key-0123456789,bob:bob-key-0123456789"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    store = open_runs(Settings(cache=tmp_path))
    assert store is not None
    access = Access.from_env(dict(KEYS), "127.0.0.1")
    engine = ScriptedEngine("Hello.")
    with serving(lambda: engine, access=access, recorder=Recorder(store)) as server:
        yield server


@pytest.fixture
def clients(server: Running) -> Iterator[list[httpx.Client]]:
    clients = [
        httpx.Client(
            base_url=f"{server.url}/v1",
            headers={"authorization": f"Bearer {name}-key-0123456789"},
            timeout=60,
        )
        for name in ("alice", "bob")
    ]
    wait_until_loaded(clients[0], server)
    yield clients
    for client in clients:
        client.close()


def say(client: httpx.Client, session_id: str, text: str = "Hello") -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    body = HELLO | {"messages": messages, "f1": {"session_id": session_id}}
    answer = client.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: httpx.Response) -> list[str]:
    return [session["id"] for session in answer.json()["data"]]


def test_a_conversation_is_kept_shown_to_its_owner_and_forgotten(
    clients: list[httpx.Client],
) -> None:
    alice, bob = clients
    for text in ("Hello", "And again"):
        say(alice, "trip", text)
    found = alice.get("/sessions/trip").json()
    said = [(message["role"], message["content"].strip()) for message in found.pop("messages")]
    assert said == [
        ("user", "Hello"), ("assistant", "Hello."), ("user", "And again"), ("assistant", "Hello."),
    ]  # fmt: skip
    assert found["num_messages"] == 4
    assert alice.get("/sessions").json()["data"] == [found]

    say(bob, "trip")  # one of his own
    assert bob.get("/sessions/trip").json()["num_messages"] == 2
    assert bob.delete("/sessions/trip").json()["deleted"]
    assert alice.get("/sessions/trip").json()["num_messages"] == 4
    for answer in (bob.get("/sessions/trip"), bob.delete("/sessions/trip")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert alice.delete("/sessions/trip").json() == {
        "id": "trip", "object": "session", "deleted": True,
    }  # fmt: skip
    assert alice.get("/sessions/trip").status_code == 404
    say(alice, "trip")
    assert alice.get("/sessions/trip").json()["num_messages"] == 2


def test_lists_are_paged_the_last_used_first(clients: list[httpx.Client]) -> None:
    alice, bob = clients
    for name in ("a", "b", "c", "a"):
        say(alice, name)
    assert ids(alice.get("/sessions")) == ["a", "c", "b"]
    page = alice.get("/sessions", params={"limit": 2})
    assert (ids(page), page.json()["has_more"]) == (["a", "c"], True)
    rest = alice.get("/sessions", params={"limit": 2, "after": page.json()["last_id"]}).json()
    assert (rest["first_id"], rest["last_id"], rest["has_more"]) == ("b", "b", False)
    assert ids(alice.get("/sessions", params={"after": "none"})) == []
    assert bob.get("/sessions").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    for wrong in ({"limit": 0}, {"limit": "x"}, {"order": "asc"}, {"tenant": "bob"}):
        answer = alice.get("/sessions", params=wrong)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(wrong)))


@pytest.mark.parametrize("name", ["x%00y", "%00"])
def test_names_that_no_database_takes_are_not_there(
    clients: list[httpx.Client], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        pytest.fail("the database was asked")

    for asked in ("session", "messages", "sessions", "delete_session", "approval"):
        monkeypatch.setattr(SqlRuns, asked, refuse)
    alice, _ = clients
    assert alice.get(f"/sessions/{name}").status_code == 404
    assert alice.delete(f"/sessions/{name}").status_code == 404
    assert ids(alice.get(f"/sessions?after={name}")) == []
    assert alice.get(f"/approvals/{name}").status_code == 404


def test_where_nothing_is_kept_there_is_nothing() -> None:
    with (
        serving(lambda: ScriptedEngine("Hello.")) as server,
        httpx.Client(base_url=f"{server.url}/v1") as client,
    ):
        wait_until_loaded(client, server)
        assert ids(client.get("/sessions")) == []
        assert client.get("/sessions/a").status_code == 404
        assert client.delete("/sessions/a").status_code == 404


def test_a_disk_that_fails_is_a_503_with_a_code_and_no_restart_is_needed(
    clients: list[httpx.Client], tmp_path: Path
) -> None:
    alice, _ = clients
    say(alice, "before")
    file = tmp_path / "runs.sqlite"
    away = file.rename(tmp_path / "away")
    file.mkdir()  # no file can be opened there
    body = HELLO | {"f1": {"session_id": "trip"}}
    for answer in (
        alice.post("/chat/completions", json=body),
        alice.post("/chat/completions", json=body | {"stream": True}),
        alice.get("/sessions"),
        alice.get("/sessions/before"),
        alice.delete("/sessions/before"),
    ):
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "not_stored"
        assert str(tmp_path) not in answer.text
    file.rmdir()
    away.rename(file)
    say(alice, "trip")
    assert ids(alice.get("/sessions")) == ["trip", "before"]
