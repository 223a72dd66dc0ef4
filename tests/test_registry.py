"""Registered tools: who sees which, versions, and what is refused by which name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from f1.errors import InvalidRequest
from f1.tools.function import make_tool
from f1.tools.registry import (
    MAX_NAMED,
    MAX_REMOVED,
    MAX_VERSIONS,
    OPERATOR,
    Registry,
    parse_toolset,
)
from f1.tools.spec import Annotations, CallLimits, ToolSpec
from f1.tools.tables import check_spec, spec_from_table, write_table
from f1.types import Tool

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


def spec(name: str, description: str = "", **fields: Any) -> ToolSpec:
    return ToolSpec(Tool(name, description, CITY), **fields)


def names(specs: tuple[ToolSpec, ...]) -> list[str]:
    return [spec.name for spec in specs]


def test_a_tenant_sees_its_own_and_the_operators_and_never_anothers() -> None:
    registry = Registry()
    registry.put_tool(OPERATOR, spec("shared"))
    registry.put_tool("", spec("of_nobody"))
    for tenant in ("alice", "bob"):
        registry.put_tool(tenant, spec("mine", f"of {tenant}"))
        registry.put_tool(tenant, spec(f"only_{tenant}"))
        registry.put_toolset(tenant, "set", [spec(f"in_{tenant}")])
    (mine, shared) = registry.resolve("alice", ["mine", "shared"])
    assert (mine.tool.description, shared.name) == ("of alice", "shared")
    assert names(registry.resolve("bob", toolsets=["set"])) == ["in_bob"]
    seen = [entry.name for entry in registry.tools("alice").entries]
    assert seen == ["mine", "only_alice", "shared"]
    for tenant, hidden in (("alice", "only_bob"), ("", "mine"), (OPERATOR, "of_nobody")):
        assert registry.tool(tenant, hidden) is None
        with pytest.raises(InvalidRequest) as caught:
            registry.resolve(tenant, ["shared", hidden])
        assert caught.value.param == "f1.tools[1]"
    assert not registry.remove_tool("alice", "shared")
    assert not registry.remove_toolset("", "set")


def test_ones_own_goes_before_the_operators() -> None:
    registry = Registry()
    registry.put_tool(OPERATOR, spec("search", "the operator's"))
    registry.put_tool("alice", spec("search", "alice's"))
    for tenant, told in (("alice", "alice's"), ("bob", "the operator's")):
        (found,) = registry.resolve(tenant, ["search"])
        assert found.tool.description == told
        assert [entry.spec for entry in registry.tools(tenant).entries] == [found]
    assert registry.remove_tool("alice", "search")
    assert registry.resolve("alice", ["search"])[0].tool.description == "the operator's"


def test_a_toolset_put_with_changed_content_is_a_new_version() -> None:
    registry = Registry()
    first = registry.put_toolset("a", "travel", [spec("fly"), spec("sleep")])
    assert registry.put_toolset("a", "travel", [spec("fly"), spec("sleep")]) is first
    begun = registry.resolve("a", toolsets=["travel"])
    changed = registry.put_toolset("a", "travel", [spec("fly", "by air"), spec("sleep")])
    assert (first.id, changed.id) == ("travel@1", "travel@2")
    assert begun == first.tools == registry.resolve("a", toolsets=["travel@1"])
    assert registry.resolve("a", toolsets=["travel"]) is changed.tools
    assert registry.put_toolset("a", "travel", first.tools).version == 3  # and back again
    keys = dict(reversed(CITY.items()))  # the model sees their order
    other = [replace(first.tools[0], tool=Tool("fly", "", keys)), first.tools[1]]
    assert registry.put_toolset("a", "travel", other).version == 4
    assert registry.remove_toolset("a", "travel@1")
    for gone in ("travel@1", "travel@9", "travel@", "travel@x", "travel@²", "@1", "", "x"):
        with pytest.raises(InvalidRequest) as caught:
            registry.resolve("a", toolsets=["travel", gone])
        assert (caught.value.param, caught.value.code) == ("f1.toolsets[1]", "tool_not_found")
    assert registry.remove_toolset("a", "travel")
    assert registry.toolset("a", "travel") is None


def test_the_number_of_a_version_is_not_given_again() -> None:
    registry = Registry()
    for told in ("first", "second"):
        registry.put_toolset("a", "mine", [spec("f", told)])
    assert registry.remove_toolset("a", "mine@2")
    assert registry.put_toolset("a", "mine", [spec("f", "another")]).id == "mine@3"
    assert registry.remove_toolset("a", "mine@1")
    assert registry.remove_toolset("a", "mine")
    assert registry.put_toolset("a", "mine", [spec("f", "another")]).id == "mine@4"
    for number in range(MAX_REMOVED + 1):  # so many are remembered
        registry.put_toolset("a", f"s{number}", [])
        registry.remove_toolset("a", f"s{number}")
    assert registry.put_toolset("a", "s0", []).version == 1
    assert registry.put_toolset("a", "s1", []).version == 2


def test_a_version_that_one_lacks_is_not_the_operators() -> None:
    registry = Registry()
    for told in ("first", "second"):
        registry.put_toolset(OPERATOR, "search", [spec("f", told)])
    registry.put_toolset("a", "search", [spec("f", "one's own")])
    assert registry.toolset("a", "search@2") is None
    assert registry.toolset("b", "search@2") is not None
    with pytest.raises(InvalidRequest):
        registry.resolve("a", toolsets=["search@2"])


def test_another_function_behind_the_same_words_is_a_new_version() -> None:
    class Runner:
        async def call(self, *_: object) -> Any: ...

    registry, one, other = Registry(), Runner(), Runner()
    assert registry.put_toolset("", "s", [spec("f", runner=one)]).version == 1
    assert registry.put_toolset("", "s", [spec("f", runner=one)]).version == 1
    assert registry.put_toolset("", "s", [spec("f", runner=other)]).version == 2


def test_old_versions_and_all_that_a_tenant_has_are_bounded() -> None:
    registry = Registry(max_bytes=20_000)
    for number in range(MAX_VERSIONS + 3):
        registry.put_toolset("a", "s", [spec("f", f"version {number}")])
    assert registry.toolset("a", "s@3") is None
    assert registry.toolset("a", "s@4") is not None
    registry.put_tool("a", spec("large", "x" * 12_000))
    registry.put_tool("a", spec("large", "y" * 12_000))  # in its place
    for put in (
        lambda: registry.put_tool("a", spec("more", "x" * 12_000)),
        lambda: registry.put_toolset("a", "more", [spec("more", "x" * 12_000)]),
    ):
        with pytest.raises(InvalidRequest, match="more would be over 20000") as caught:
            put()
        assert caught.value.code == "no_room"
    registry.put_tool("b", spec("more", "x" * 12_000))  # each tenant for itself
    registry.put_tool(OPERATOR, spec("more", "x" * 30_000))
    assert registry.remove_tool("a", "large")
    registry.put_tool("a", spec("more", "x" * 12_000))
    assert registry.remove_toolset("a", "s")
    assert registry.remove_tool("a", "more")
    assert registry._spaces["a"].num_bytes == 0


def test_one_name_for_two_tools_is_refused() -> None:
    registry = Registry()
    registry.put_tool("", spec("search"))
    registry.put_toolset("", "same", [spec("search"), spec("a")])
    registry.put_toolset("", "other", [spec("search", "of another kind")])
    assert names(registry.resolve("", ["search"], ["same"])) == ["search", "a"]
    with pytest.raises(InvalidRequest, match="another 'search'") as caught:
        registry.resolve("", ["search"], ["same", "other"])
    assert caught.value.param == "f1.toolsets[1]"


def test_tools_that_many_toolsets_hold_are_compared_by_what_is_known_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry()
    for name in ("a", "b", "c"):  # other objects each time
        registry.put_toolset("", name, [spec(f"t{number}") for number in range(8)])
    monkeypatch.setattr("f1.tools.registry._text", None)
    assert len(registry.resolve("", toolsets=["a", "b", "c"])) == 8


def test_a_request_names_so_many_tools() -> None:
    registry = Registry()
    entry = registry.put_toolset("", "s", [spec("f")])
    half = tuple(spec(f"t{number}") for number in range(MAX_NAMED // 2))
    large = replace(entry, name="half", tools=half, digests=entry.digests * len(half))
    registry.add(large)
    assert len(registry.resolve("", toolsets=["half", "half"])) == len(half)
    with pytest.raises(InvalidRequest, match=f"{MAX_NAMED} tools in all") as caught:
        registry.resolve("", toolsets=["half", "half", "s"])
    assert caught.value.param == "f1.toolsets[2]"


def test_lists_come_in_pages() -> None:
    registry = Registry()
    for name in ("b", "d", "a", "c", "e"):
        registry.put_tool("", spec(name))
        registry.put_toolset("", name, [spec(name)])
    for pages in (registry.tools, registry.toolsets):
        found, after = [], ""
        while (page := pages("", after=after, limit=2)).has_more:
            found += [entry.name for entry in page.entries]
            after = found[-1]
        assert found + [entry.name for entry in page.entries] == list("abcde")
        back = pages("", after="d", limit=2, backwards=True)
        assert ([entry.name for entry in back.entries], back.has_more) == (["c", "b"], True)
        assert [e.name for e in pages("", after="bb", limit=1).entries] == ["c"]  # b was removed


def test_many_threads_put_and_resolve() -> None:
    registry = Registry()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(50):
                registry.put_toolset("", "s", [spec("f", f"{number} {turn}")])
                registry.put_tool("", spec(f"tool_{number}"))
                (found,) = registry.resolve("", toolsets=["s"])
                assert found.tool.description
                registry.remove_tool("", f"tool_{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    kept = registry._spaces[""]
    assert kept.num_bytes == sum(old.num_bytes for old in kept.toolsets["s"])
    assert not kept.tools


GOOD: dict[str, Any] = {
    "description": "Looks things up",
    "parameters": CITY,
    "output": {"type": "array", "items": {"type": "string"}},
    "examples": [{"city": "Oslo"}],
    "annotations": {"read_only": True, "destructive": False, "idempotent": True},
    "limits": {"timeout": 1.5, "retries": 0, "max_parallel": 2, "max_bytes": 9, "max_chars": 8},
}


def test_a_table_says_all_of_a_tool() -> None:
    found = spec_from_table("search", GOOD)
    assert found.tool == Tool("search", "Looks things up", CITY)
    assert found.annotations == Annotations(True, False, True)
    assert found.limits == CallLimits(1.5, 0, 2, 9, 8)
    assert (found.output, found.examples) == (GOOD["output"], ({"city": "Oslo"},))
    assert spec_from_table("search", write_table(found)) == found
    plain = spec_from_table("plain", {})
    assert plain == ToolSpec(Tool("plain"))
    assert spec_from_table("plain", write_table(plain)) == plain


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("nonsense", 1, "nonsense"),
        ("description", 5, "description"),
        ("description", "\ud800", "description"),
        ("parameters", "x", "parameters"),
        ("parameters", {"type": "array"}, "parameters.type"),
        ("parameters", {"properties": {"a": {"type": "text"}}}, "parameters.properties.a.type"),
        ("parameters", {"properties": {"a": {"$ref": "http://x/y"}}}, "parameters.properties.a"),
        ("parameters", {"properties": {"a": {"pattern": "(?=x)"}}}, "parameters.properties.a"),
        ("parameters", {"default": object()}, "parameters"),
        ("parameters", {"default": date(2026, 1, 1)}, "parameters"),  # as TOML has them
        ("parameters", {"default": float("inf")}, "parameters"),
        ("output", {"type": "text"}, "output.type"),
        ("output", [1], "output"),
        ("examples", {}, "examples"),
        ("examples", [{"city": "Oslo"}, 5], "examples[1]"),
        ("examples", [{"city": "Oslo"}, {"city": 5}], "examples[1]"),
        ("examples", [{}], "examples[0]"),
        ("annotations", True, "annotations"),
        ("annotations", {"safe": True}, "annotations.safe"),
        ("annotations", {"read_only": 1}, "annotations.read_only"),
        ("limits", {"timeout": 0}, "limits.timeout"),
        ("limits", {"timeout": float("nan")}, "limits.timeout"),
        ("limits", {"retries": 1.5}, "limits.retries"),
        ("limits", {"retries": True}, "limits.retries"),
        ("limits", {"max_parallel": 10**9}, "limits.max_parallel"),
        ("strict", "no", "strict"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(field: str, value: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec_from_table("search", GOOD | {field: value})
    assert (caught.value.param or "").startswith(f"tools.search.{param}"), caught.value.param


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "é", "a@1", "a\n", "a.b"])
def test_names_are_openais(name: str) -> None:
    puts: list[Callable[[], object]] = [
        lambda: Registry().put_tool("", spec(name)),
        lambda: Registry().put_toolset("", name, []),
    ]
    for put in puts:
        with pytest.raises(InvalidRequest) as caught:
            put()
        assert caught.value.param == "name"


def test_what_f1_runs_is_held_to_its_schema() -> None:
    loose = ToolSpec(Tool("f", "", {"type": "object"}, strict=False))
    check_spec(loose)
    with pytest.raises(InvalidRequest) as caught:
        check_spec(replace(loose, runner=object()), "tools.f.")  # type: ignore[arg-type]
    assert caught.value.param == "tools.f.strict"


def test_a_toolset_names_a_tool_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Registry().put_toolset("", "s", [spec("a"), spec("b"), spec("a")])
    assert caught.value.param == "tools[2].name"


def test_versions_are_read() -> None:
    assert parse_toolset("travel") == ("travel", None)
    assert parse_toolset("travel@12") == ("travel", 12)
    assert parse_toolset("travel@-1") == ("travel", 0)


def test_a_function_is_registered_as_it_is() -> None:
    def area(width: float, height: float = 1.0) -> float:
        """Area of a rectangle."""
        return width * height

    made = ToolSpec(make_tool(area).tool)
    assert Registry().put_tool("", made).spec is made
