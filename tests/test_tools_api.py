"""Registering over HTTP: whose a tool is, what is refused by which name, what outlives a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import ScriptedEngine
from serving import Running, serving, wait_until_loaded

from f1.engine import AsyncEngine
from f1.roles import Models
from f1.serve.access import Access
from f1.serve.admission import Admission
from f1.serve.limits import Limits
from f1.serve.registrar import Registrar
from f1.serve.server import Server
from f1.serve.tools import prepare_operators
from f1.settings import Settings
from f1.store.tools import ToolStore
from f1.tools.registry import OPERATOR, Registry
from f1.tools.spec import Annotations, ToolSpec
from f1.types import RunOptions, Tool

KEYS = {"F1_API_KEYS": "alice:alice-key-0123456789,bob:bob-key-0123456789"}
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Current weather",
    "parameters": CITY,
    "output": {"type": "object", "properties": {"celsius": {"type": "number"}}},
    "examples": [{"city": "Oslo"}],
    "annotations": {"read_only": True},
}


class Runner:
    async def call(self, *_: object) -> Any: ...


@contextmanager
def asked(
    path: Path | None = None, limits: Limits | None = None
) -> Iterator[tuple[dict[str, httpx.Client], Running, ScriptedEngine]]:
    """Clients with alice's and bob's keys, and one of no server's."""
    limits = limits or Limits()
    registrar = Registrar(Registry(max_bytes=limits.max_registered_bytes), ToolStore(path))
    registrar.load()
    for_all = ToolSpec(Tool("shared", "The operator's", CITY), runner=Runner())
    registrar.registry.put_tool(OPERATOR, for_all)
    registrar.registry.put_toolset(OPERATOR, "house", [for_all])
    engine = ScriptedEngine("Hello.")
    access = Access.from_env(dict(KEYS), "127.0.0.1")
    with serving(lambda: engine, limits, access=access, registrar=registrar) as server:
        clients = {
            name: httpx.Client(
                base_url=f"{server.url}/v1",
                headers={"authorization": f"Bearer {name}-key-0123456789"},
                timeout=60,
            )
            for name in ("alice", "bob")
        }
        wait_until_loaded(clients["alice"], server)
        while not engine.registered:  # the operator's own
            pass
        assert engine.registered.pop() == ["shared"]
        try:
            yield clients, server, engine
        finally:
            for client in clients.values():
                client.close()


@pytest.fixture
def alice_and_bob() -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with asked() as (clients, _, _):
        yield clients["alice"], clients["bob"]


def names(answer: httpx.Response) -> list[str]:
    return [entry["name"] for entry in answer.json()["data"]]


def test_a_tool_is_put_got_listed_and_deleted(
    alice_and_bob: tuple[httpx.Client, httpx.Client],
) -> None:
    alice, bob = alice_and_bob
    made = alice.post("/tools", json={"type": "function", "runner": "client", **WEATHER})
    assert made.status_code == 200, made.text
    body = made.json()
    expected = WEATHER | {"id": "get_weather", "owner": "tenant", "runner": "client"}
    expected["annotations"] = asdict(Annotations(read_only=True))
    assert {key: body[key] for key in expected} == expected
    assert alice.get("/tools/get_weather").json() == body
    assert alice.post("/tools", json=WEATHER).json() == body  # the same again does no harm
    other = alice.post("/tools", json=WEATHER | {"description": "Otherwise"})
    assert (other.status_code, other.json()["error"]["code"]) == (400, "name_taken")
    put = alice.put("/tools/get_weather", json={"description": "Otherwise"}).json()
    assert (put["description"], put["output"]) == ("Otherwise", None)
    assert names(alice.get("/tools")) == ["get_weather", "shared"]
    assert names(bob.get("/tools")) == ["shared"]
    assert bob.get("/tools/get_weather").status_code == 404
    assert bob.delete("/tools/get_weather").status_code == 404
    gone = alice.delete("/tools/get_weather").json()
    assert gone == {"id": "get_weather", "object": "tool", "deleted": True}
    assert alice.get("/tools/get_weather").status_code == 404


def test_what_is_the_operators_is_seen_and_not_changed(
    alice_and_bob: tuple[httpx.Client, httpx.Client],
) -> None:
    alice, _ = alice_and_bob
    shared = alice.get("/tools/shared").json()
    assert (shared["owner"], shared["runner"]) == ("operator", "server")
    for path in ("/tools/shared", "/toolsets/house", "/toolsets/house@1"):
        refused = alice.delete(path)
        assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    mixed = alice.put("/toolsets/mine", json={"tools": ["shared"]})
    assert mixed.json()["error"]["code"] == "runner_not_allowed"
    assert mixed.json()["error"]["param"] == "tools[0]"


@pytest.mark.parametrize("runner", ["python", "http", "server", {"kind": "python"}, 1, ["client"]])
def test_no_request_chooses_what_runs_on_the_server(
    alice_and_bob: tuple[httpx.Client, httpx.Client], runner: object
) -> None:
    alice, _ = alice_and_bob
    for path, body, param in (
        ("/tools", WEATHER | {"runner": runner}, "runner"),
        ("/toolsets", {"name": "s", "tools": [WEATHER | {"runner": runner}]}, "tools[0].runner"),
    ):
        error = alice.post(path, json=body).json()["error"]
        assert (error["param"], error["code"]) == (param, "runner_not_allowed")
        assert "f1.toml" in error["message"]
    for field in ("python", "http", "function", "url", "command", "limits"):
        error = alice.post("/tools", json=WEATHER | {field: "os:system"}).json()["error"]
        assert (error["param"], error["code"]) == (field, "unknown_field")
    assert alice.get("/tools/get_weather").status_code == 404


def test_a_toolset_has_versions(alice_and_bob: tuple[httpx.Client, httpx.Client]) -> None:
    alice, bob = alice_and_bob
    alice.post("/tools", json=WEATHER)
    trains = {"name": "trains", "parameters": CITY}
    first = alice.post("/toolsets", json={"name": "travel", "tools": ["get_weather", trains]})
    assert first.status_code == 200, first.text
    assert first.json()["id"] == "travel@1"
    same = alice.put("/toolsets/travel", json={"tools": ["get_weather", trains]})
    assert same.json() == first.json()
    alice.put("/tools/get_weather", json=WEATHER | {"description": "Changed"})
    second = alice.put("/toolsets/travel", json={"tools": ["get_weather", trains]}).json()
    assert (second["id"], second["num_tools"]) == ("travel@2", 2)
    for name, told in (("travel", "Changed"), ("travel@2", "Changed"), ("travel@1", "Current")):
        tools = alice.get(f"/toolsets/{name}").json()["tools"]
        assert [tool["name"] for tool in tools] == ["get_weather", "trains"]
        assert tools[0]["description"].startswith(told)
    assert names(alice.get("/toolsets")) == ["house", "travel"]
    assert names(bob.get("/toolsets")) == ["house"]
    taken = alice.post("/toolsets", json={"name": "travel", "tools": [trains]})
    assert taken.json()["error"]["code"] == "name_taken"
    assert alice.delete("/toolsets/travel@1").json()["deleted"]
    assert alice.get("/toolsets/travel@1").status_code == 404
    assert alice.get("/toolsets/travel").json()["version"] == 2
    assert alice.delete("/toolsets/travel").json()["deleted"]
    assert alice.delete("/toolsets/travel").status_code == 404


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": "no blank"}, "name"),
        ({"parameters": {"type": "string"}}, "parameters.type"),
        ({"parameters": {"properties": {"a": {"type": "text"}}}}, "parameters.properties.a.type"),
        ({"parameters": {"properties": {"a": {"$ref": "#/x"}}}}, "parameters.properties.a.$ref"),
        ({"output": {"minimum": "x"}}, "output.minimum"),
        ({"examples": [{"city": "Oslo"}, {"town": "Oslo"}]}, "examples[1]"),
        ({"annotations": {"read_only": "yes"}}, "annotations.read_only"),
        ({"annotations": {"safe": True}}, "annotations.safe"),
    ],
)
def test_what_is_wrong_is_named(
    alice_and_bob: tuple[httpx.Client, httpx.Client], change: dict[str, Any], param: str
) -> None:
    alice, _ = alice_and_bob
    alone = alice.post("/tools", json=WEATHER | change)
    among = alice.post("/toolsets", json={"name": "s", "tools": [{"name": "ok"}, WEATHER | change]})
    for answer, where in ((alone, param), (among, f"tools[1].{param}")):
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == where, answer.text
    assert names(alice.get("/tools")) == ["shared"]
    assert names(alice.get("/toolsets")) == ["house"]


def test_names_in_the_path_and_in_the_set(
    alice_and_bob: tuple[httpx.Client, httpx.Client],
) -> None:
    alice, _ = alice_and_bob
    assert alice.put("/tools/get_weather", json=WEATHER).status_code == 200
    for path, body, param in (
        ("/tools/other", WEATHER, "name"),
        ("/tools/a@1", {}, "name"),
        ("/toolsets/a@1", {"tools": [{"name": "a"}]}, "name"),
        ("/toolsets/s", {"tools": [{"name": "a"}, {"name": "a"}]}, "tools[1].name"),
        ("/toolsets/s", {"tools": ["get_weather", "nothing"]}, "tools[1]"),
        ("/toolsets/s", {"tools": []}, "tools"),
    ):
        answer = alice.put(path, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_lists_come_in_pages(alice_and_bob: tuple[httpx.Client, httpx.Client]) -> None:
    alice, _ = alice_and_bob
    for number in range(5):
        assert alice.put(f"/tools/tool_{number}", json={}).status_code == 200
    first = alice.get("/tools?limit=2").json()
    assert (first["first_id"], first["last_id"], first["has_more"]) == ("shared", "tool_0", True)
    rest = alice.get("/tools", params={"after": first["last_id"]}).json()
    assert [entry["id"] for entry in rest["data"]] == ["tool_1", "tool_2", "tool_3", "tool_4"]
    assert not rest["has_more"]
    back = alice.get("/tools?order=desc&limit=1&after=tool_3")
    assert names(back) == ["tool_2"]
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "before=x"):
        assert alice.get(f"/tools?{query}").status_code == 400
        assert alice.get(f"/toolsets?{query}").status_code == 400


def test_what_is_registered_outlives_the_server_but_not_what_the_operator_set(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tools.sqlite"
    with asked(path) as (clients, _, _):
        alice, bob = clients["alice"], clients["bob"]
        alice.put("/tools/kept", json=WEATHER | {"name": "kept"})
        alice.put("/tools/gone", json={})
        alice.delete("/tools/gone")
        for told in ("first", "second", "third"):
            alice.put("/toolsets/s", json={"tools": [WEATHER | {"description": told}]})
        alice.delete("/toolsets/s@2")
        for removed in ("/toolsets/once", "/toolsets/twice"):
            alice.put(removed, json={"tools": [WEATHER]})
            alice.delete(removed)
        alice.put("/toolsets/twice", json={"tools": [WEATHER]})
        alice.put("/toolsets/twice", json={"tools": [{"name": "a"}]})
        alice.delete("/toolsets/twice@3")
        bob.put("/toolsets/s", json={"tools": [{"name": "bobs"}]})
        before = {
            (name, where): clients[name].get(where).json()
            for name in clients
            for where in ("/tools", "/toolsets", "/toolsets/s", "/toolsets/s@1", "/toolsets/s@2")
        }
    with asked(path) as (clients, _, _):
        for (name, where), told in before.items():
            found = clients[name].get(where).json()
            for entry in found.get("data", ()):  # the operator's are new at each start
                entry.pop("created")
            for entry in told.get("data", ()):
                entry.pop("created")
            assert found == told, (name, where)
        fourth = clients["alice"].put("/toolsets/s", json={"tools": [{"name": "a"}]})
        assert fourth.json()["id"] == "s@4"
        for name, id in (("once", "once@2"), ("twice", "twice@4")):  # nor is a number given again
            put = clients["alice"].put(f"/toolsets/{name}", json={"tools": [{"name": "b"}]})
            assert put.json()["id"] == id
    stored = {entry.name for entry in ToolStore(path).load()}
    assert "shared" not in stored
    assert "house" not in stored


def test_a_small_set_is_computed_ahead_and_a_large_one_judged() -> None:
    with asked() as (clients, _, engine):
        tools = [f"t{number}" for number in range(100)]
        for name, some in (("small", tools[:3]), ("large", tools)):
            body = {"tools": [{"name": name} for name in some]}
            assert clients["alice"].put(f"/toolsets/{name}", json=body).status_code == 200
        assert (engine.registered, engine.judged) == ([tools[:3]], [tools])


def test_what_requests_need_not_say_counts_for_what_is_done_ahead() -> None:
    limits = Limits(defaults=RunOptions(max_tools=2))
    with asked(limits=limits) as (clients, _, engine):
        tools = [{"name": name} for name in ("a", "b", "c")]
        assert clients["alice"].put("/toolsets/three", json={"tools": tools}).status_code == 200
        assert (engine.registered, engine.judged) == ([], [["a", "b", "c"]])


async def test_the_operators_toolsets_are_indexed_ahead() -> None:
    registrar, engine = Registrar(), ScriptedEngine()
    house = registrar.registry.put_toolset(OPERATOR, "house", [ToolSpec(Tool("a", "", CITY))])
    models = Models.of(engine)
    server = Server(Limits(), Admission(Limits()), models=models, registrar=registrar)
    await models.start()
    await prepare_operators(server)
    assert server.system.selector._ranker.find(house.tools) is not None
    await models.close()


def test_what_cannot_be_stored_is_not_registered(tmp_path: Path) -> None:
    with asked(tmp_path / "tools.sqlite") as (clients, server, _):
        alice = clients["alice"]
        assert alice.put("/tools/a", json={}).status_code == 200
        database = server.state.registrar.store._database
        long = {"description": "x" * 60_000}
        for path, body in (
            ("/tools/a", long),
            ("/tools/b", long),
            ("/toolsets/s", {"tools": [{"name": "c", **long}]}),
        ):
            database.wait(lambda db: db.execute("PRAGMA max_page_count = 1"))  # as there are now
            answer = alice.put(path, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_stored")
        assert names(alice.get("/tools")) == ["a", "shared"]
        assert alice.get("/tools/a").json()["description"] == ""
        assert names(alice.get("/toolsets")) == ["house"]


def test_what_registers_holds_up_its_like_alone() -> None:
    with asked() as (clients, server, engine), ThreadPoolExecutor(2) as threads:
        engine.hold = threading.Event()
        put = [
            threads.submit(clients[name].put, "/toolsets/s", json={"tools": [WEATHER]})
            for name in clients
        ]
        while server.state.registering.in_flight < 2:
            pass
        assert clients["alice"].get("/tools").status_code == 200
        body = {"model": "f1", "messages": [{"role": "user", "content": "Hi"}]}
        assert clients["bob"].post("/chat/completions", json=body).status_code == 200
        assert server.state.busy()
        assert not any(answer.done() for answer in put)
        engine.hold.set()
        assert [answer.result().status_code for answer in put] == [200, 200]
        assert not server.state.busy()


def test_one_tenant_has_so_much_room() -> None:
    with asked(limits=Limits(max_registered_bytes=10_000)) as (clients, _, _):
        body = {"description": "x" * 6_000}
        for name, status in (("a", 200), ("b", 400), ("a", 200)):
            assert clients["alice"].put(f"/tools/{name}", json=body).status_code == status
        assert clients["bob"].put("/tools/b", json=body).status_code == 200


def test_a_schema_without_a_grammar_is_refused_and_a_good_one_is_ready(smollm_path: Path) -> None:
    """With a real engine: what was registered is in the cache when the first request comes."""

    def load() -> AsyncEngine:
        return AsyncEngine.start(str(smollm_path), Settings(kv_memory=2**27, snapshot_disk=0))

    tools = [
        WEATHER | {"name": f"tool_{number}", "description": f"Weather by method {number}"}
        for number in range(4)
    ]
    hostile = {"name": "worst", "parameters": {"properties": {"a": {"pattern": "(a{500}){500}"}}}}
    with serving(load) as server, httpx.Client(base_url=f"{server.url}/v1", timeout=120) as http:
        wait_until_loaded(http, server)
        refused = http.put("/toolsets/s", json={"tools": [*tools, hostile]})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"].startswith("tools[4].parameters"), refused.text
        assert http.get("/toolsets/s").status_code == 404
        assert http.put("/toolsets/s", json={"tools": tools}).status_code == 200
        model = http.get("/models").json()["data"][-1]["id"]
        sent = [
            {"type": "function", "function": {key: tool[key] for key in
             ("name", "description", "parameters")}} for tool in tools
        ]  # fmt: skip
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Weather in Rome?"}],
            "tools": sent,
            "max_tokens": 1,
        }
        usage = http.post("/chat/completions", json=body).json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert cached > 0.7 * usage["prompt_tokens"], json.dumps(usage)


def test_operators_annotations_are_not_a_tenants_to_set(
    alice_and_bob: tuple[httpx.Client, httpx.Client],
) -> None:
    """One's own tool of the operator's name is one's own: the operator's stays as it was."""
    alice, bob = alice_and_bob
    put = alice.put("/tools/shared", json={"annotations": {"read_only": True}})
    assert put.json()["owner"] == "tenant"
    assert bob.get("/tools/shared").json()["annotations"]["read_only"] is False
    assert alice.delete("/tools/shared").status_code == 200
    found = alice.get("/tools/shared").json()
    assert (found["owner"], found["annotations"]["read_only"]) == ("operator", False)
    assert Annotations().read_only is False


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "function": {"name": "get_weather"}}, "named"),
    ],
)
def test_what_is_registered_is_chosen_like_what_is_sent(choice: object, mode: str) -> None:
    with asked() as (clients, _, engine):
        alice = clients["alice"]
        alice.put("/toolsets/travel", json={"tools": [WEATHER]})
        body = {"model": "f1", "messages": [{"role": "user", "content": "Hi"}]}
        named = {"f1": {"toolsets": ["travel"]}, "tool_choice": choice}
        assert alice.post("/chat/completions", json=body | named).status_code == 200
        (request,) = engine.requests
        assert [tool.name for tool in request.tools] == ["get_weather"]
        assert request.tool_choice.mode == mode
        unknown = {"type": "function", "function": {"name": "get_whether"}}
        refused = alice.post("/chat/completions", json=body | named | {"tool_choice": unknown})
        assert refused.json()["error"]["param"] == "tool_choice"
        foreign = clients["bob"].post("/chat/completions", json=body | named)
        assert foreign.json()["error"]["param"] == "f1.toolsets[0]"
