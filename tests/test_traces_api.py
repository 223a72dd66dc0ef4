"""Traces over HTTP: the caller's own, as they are kept; and `f1 trace --url`, which reads them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator
from recorded import open_store, record, wrong_turns
from scripted import ScriptedEngine
from serving import HELLO, Running, serving, wait_until_loaded

from f1.errors import F1Error
from f1.serve import answers
from f1.serve.access import Access
from f1.store.database import NotStored
from f1.store.runs import RunRow, Write
from f1.trace.export import write_entry
from f1.trace.recorder import Recorder
from f1.trace.sources import LocalRuns

KEYS = {"F1_API_KEYS": "alice:alice-key-0123456789,bob:bob-key-0123456789"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("cache")
    asyncio.run(fill(folder))
    access = Access.from_env(dict(KEYS), "127.0.0.1")
    recorder = Recorder(open_store(folder))
    with serving(lambda: ScriptedEngine("Hello."), access=access, recorder=recorder) as server:
        yield server


async def fill(folder: Path) -> None:
    store = open_store(folder)
    for run_id in ("run_1", "run_2", "run_3"):
        await record(store, run_id, wrong_turns(), tenant="alice")
    await record(store, "run_1", ["Hello."], tenant="bob")
    await store.close()


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


def test_runs_are_listed_page_by_page_and_shown_whole(
    clients: list[httpx.Client], server: Running
) -> None:
    alice, bob = clients
    page = alice.get("/traces", params={"limit": 2}).json()
    Draft202012Validator(answers.TRACES).validate(page)
    assert [row["id"] for row in page["data"]] == ["run_3", "run_2"]
    assert page["has_more"] is True
    rest = alice.get("/traces", params={"before": page["data"][-1]["began"]}).json()
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == (["run_1"], False)
    assert alice.get("/traces", params={"status": "running"}).json()["data"] == []

    whole = alice.get("/traces/run_1").json()
    Draft202012Validator(answers.TRACE).validate(whole)
    assert len(whole["entries"]) == whole["num_entries"] > 5
    assert whole["about"]["failed"] == 1
    assert "SK999" in str(whole)
    assert "SK999" not in str(bob.get("/traces/run_1").json())  # his own of that id
    recorder = server.state.recorder
    assert recorder is not None
    kept = asyncio.run(recorder.store.entries("alice", "run_1"))
    assert whole["entries"] == [write_entry(row) for row in kept]


def test_what_a_server_has_done_is_there_for_who_asked(clients: list[httpx.Client]) -> None:
    alice, bob = clients
    body = HELLO | {"f1": {"run_id": "mine", "strategy": "react"}}
    assert alice.post("/chat/completions", json=body).status_code == 200
    assert alice.get("/traces").json()["data"][0]["id"] == "mine"
    assert bob.get("/traces/mine").status_code == 404
    assert bob.delete("/traces/mine").status_code == 404
    assert alice.delete("/traces/mine").json() == {"id": "mine", "object": "trace", "deleted": True}
    for answer in (alice.get("/traces/mine"), alice.delete("/traces/mine")):
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "run_id")


def test_a_run_that_is_under_way_is_not_forgotten(
    clients: list[httpx.Client], server: Running
) -> None:
    recorder = server.state.recorder
    assert recorder is not None
    store = recorder.store
    asyncio.run(store.begin(RunRow("busy", "alice"), []))
    answer = clients[0].delete("/traces/busy")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "run_busy")
    assert answer.headers["retry-after"] == "1"
    source = LocalRuns(store)
    with closing(source._loop), pytest.raises(F1Error, match="under way"):
        source.delete(RunRow("busy", "alice"))
    asyncio.run(store.write(Write("busy", "alice", status="ended")))
    assert clients[0].delete("/traces/busy").status_code == 200


def test_when_to_try_again_is_told(clients: list[httpx.Client], server: Running) -> None:
    """A store that has no room knows when it may have some."""
    recorder = server.state.recorder
    assert recorder is not None

    async def full(*_: object) -> bool:
        raise NotStored("no room", retry_after=59.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder.store, "begin", full)
        body = HELLO | {"f1": {"run_id": "new", "strategy": "react"}}
        answer = clients[0].post("/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_stored")
    advice = (answer.headers["retry-after"], answer.headers["x-should-retry"])
    assert advice == ("60", "false")


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "0"), ("limit", "101"), ("limit", "x"), ("before", "nan"), ("before", "1e999"),
     ("before", ""), ("status", "gone"), ("status", ""), ("other", "1"), ("session_id", "\0")],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_refused_by_name(
    clients: list[httpx.Client], name: str, value: str
) -> None:
    answer = clients[0].get("/traces", params={name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize("run_id", ["nothing", "%00", "x" * 3000, "%F0%9F%98%80", "..%2Fx"])
def test_ids_of_any_kind_are_not_there(clients: list[httpx.Client], run_id: str) -> None:
    assert clients[0].get(f"/traces/{run_id}").status_code == 404


def test_the_command_reads_a_server(server: Running, clients: list[httpx.Client]) -> None:
    def run(*arguments: str, key: str = "alice") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "110"}
        return subprocess.run(
            [sys.executable, "-P", "-m", "f1.cli", "trace", *arguments, "--url", server.url],
            env=environment | {"F1_API_KEY": f"{key}-key-0123456789"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    listed = run("list").stdout.splitlines()[1:]
    assert [line.split()[0] for line in listed] == ["run_3", "run_2", "run_1"]
    assert "flight, seats" in run("show", "run_2", "--why", "2").stdout
    assert "may be any of 3 runs" in run("show", "run_").stderr
    assert "no run 'run_2'" in run("show", "run_2", key="bob").stderr
