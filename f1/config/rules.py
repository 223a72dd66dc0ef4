"""The rules of `[[policy]]`, and the names that they may say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import cast, get_args

from f1.config import values
from f1.config.where import Reader, Where
from f1.errors import meant
from f1.tools.policy import Action, AllowAll, Condition, Policy, Rule, Rules, TaintKind, Test
from f1.tools.spec import Annotations

_RULE: dict[str, Reader] = {
    "action": values.word(*get_args(Action)),
    "tools": values.some_texts,
    "toolsets": values.some_texts,
    "annotations": values.any_table,
    "arguments": values.any_table,
    "taint": values.word(*get_args(TaintKind)),
    "taint_in": values.some_texts,
    "why": values.text,
}
_ANNOTATIONS: dict[str, Reader] = {each.name: values.flag for each in fields(Annotations)}
_CONDITION: dict[str, Reader] = {
    "is": values.scalar,
    "is_not": values.scalar,
    "contains": values.pattern,
    "outside": values.pattern,
}


@dataclass(frozen=True, slots=True)
class Known:
    """What rules may name. Tools of MCP servers have names like SERVER__tool; which ones there are
    is known once the server has said so."""

    tools: Collection[str]
    toolsets: Mapping[str, tuple[str, ...]]
    servers: tuple[str, ...]

    def has(self, glob: str) -> bool:
        of_server = any(glob.startswith(f"{server}__") for server in self.servers)
        return of_server or glob == "*" or any(fnmatchcase(name, glob) for name in self.tools)

    def members(self, toolset: str) -> tuple[str, ...]:
        return self.toolsets.get(toolset, (f"{toolset}__*",))


def read_policy(tables: object, unmatched: Action, where: Where, known: Known) -> Policy:
    if not isinstance(tables, list):
        raise where.wrong("must be rules, each under a [[policy]] of its own")
    rules = [_rule(table, where.at(index), known) for index, table in enumerate(tables)]
    return Rules(tuple(rules), unmatched) if rules or unmatched != "allow" else AllowAll()


def _rule(table: object, where: Where, known: Known) -> Rule:
    given = where.read(where.table(table), _RULE)
    if "action" not in given:
        raise where.into("action").wrong("is missing: allow, ask or deny")
    if "taint_in" in given and "taint" not in given:
        raise where.into("taint_in").wrong("says where; `taint` has to say what")
    for name in given.get("tools", ()):
        if not known.has(name):
            names = [*known.tools, *(f"{server}__*" for server in known.servers)]
            raise where.into("tools").wrong(f"names no tool: {name!r}{meant(name, names)}")
    sets = {**known.toolsets, **dict.fromkeys(known.servers, ())}
    tools = list(given.get("tools", ()))
    for name in given.pop("toolsets", ()):
        where.into("toolsets").check_name(name, sets, "toolset")
        tools += known.members(name)
        given["tools"] = tools
    if "tools" in given:
        given["tools"] = tuple(given["tools"])
    annotations = where.into("annotations").read(given.get("annotations", {}), _ANNOTATIONS)
    arguments = tuple(
        _condition(path, condition, where.into("arguments", path))
        for path, condition in given.get("arguments", {}).items()
    )
    return Rule(name=where.name, **given | {"annotations": annotations, "arguments": arguments})


def _condition(path: str, table: object, where: Where) -> Condition:
    given = where.read(where.table(table), _CONDITION)
    if len(given) != 1:
        raise where.wrong(f"must have one of {', '.join(_CONDITION)}, not {len(given)}")
    ((test, value),) = given.items()
    return Condition(path, cast(Test, test), value)
