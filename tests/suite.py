"""The official JSON-Schema-Test-Suite, as vendored: 2020-12 without remote schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from bytegrammar import ByteGrammar

from f1.calling.schema import check_schema, validate
from f1.errors import InvalidSchema

FOLDER = Path(__file__).parent / "data" / "json-schema-test-suite" / "draft2020-12"


@dataclass(frozen=True)
class Case:
    description: str
    data: Any
    valid: bool


@dataclass(frozen=True)
class Group:
    """One schema and what is said of it; `keyword` is the file's name."""

    keyword: str
    description: str
    schema: dict[str, Any]
    cases: tuple[Case, ...]


def load() -> list[Group]:
    groups = []
    for path in sorted(FOLDER.rglob("*.json")):
        keyword = path.relative_to(FOLDER).with_suffix("").as_posix()
        for group in json.loads(path.read_bytes()):
            schema, tests = group["schema"], group["tests"]
            wrapped = not isinstance(schema, dict)  # F1 takes objects only
            if wrapped:
                schema = {"properties": {"value": schema}, "required": ["value"]}
            cases = tuple(
                Case(
                    test["description"],
                    {"value": test["data"]} if wrapped else test["data"],
                    test["valid"],
                )
                for test in tests
            )
            groups.append(Group(keyword, group["description"], schema, cases))
    return groups


GROUPS = load()


# --- through the grammar -----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What becomes of one instance. `spelling`: why the grammar refuses a valid one."""

    group: Group
    case: Case
    verdict: str  # accepted | grammar | validation | spelling | refused | leak | lost
    spelling: str = ""
    reported: bool = True  # what only validation caught was said to be relaxed


def outcomes() -> Iterator[Outcome]:
    """Every instance of the suite through grammar and validation."""
    for group in GROUPS:
        try:
            check_schema(group.schema, param="parameters")
        except InvalidSchema:
            yield from (Outcome(group, case, "refused") for case in group.cases)
            continue
        grammar = _grammar(group.schema)
        for case in group.cases:
            yield _outcome(group, case, grammar)


def _outcome(group: Group, case: Case, grammar: ByteGrammar | None) -> Outcome:
    accepted = grammar is not None and grammar.accepts(case.data)
    valid = validate(group.schema, case.data) is None
    if case.valid:
        if accepted and valid:
            return Outcome(group, case, "accepted")
        why = _spelling(group.schema, case.data, grammar)
        return Outcome(group, case, "spelling" if why and valid else "lost", why)
    if not accepted:
        return Outcome(group, case, "grammar")
    reported = grammar is not None and bool(grammar.relaxed)
    return Outcome(group, case, "leak" if valid else "validation", reported=reported)


def _grammar(schema: dict[str, Any]) -> ByteGrammar | None:
    try:
        return ByteGrammar(schema)
    except InvalidSchema:
        return None


def _spelling(schema: dict[str, Any], data: Any, grammar: ByteGrammar | None) -> str:
    """How the value would have to be written, or what would have to be declared; "": in no way."""
    plain = _whole(data)
    if grammar is not None and any(map(grammar.accepts, (plain, *_orders(plain)))):
        same = json.dumps(plain) == json.dumps(data)
        return "key order" if same else "1.0 for an integer"
    opened = _grammar(_opened(schema))
    if opened is not None and any(map(opened.accepts, _orders(plain))):
        return "undeclared keys"
    return ""


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {k: _whole(v) for k, v in value.items()} if isinstance(value, dict) else value


def _orders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (dict(items) for items in permutations(value.items()))
    else:
        yield value


def _opened(schema: Any) -> Any:
    """With undeclared keys allowed where the schema does not say."""
    if isinstance(schema, list):
        return [_opened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    opened = {k: v if k in ("enum", "const") else _opened(v) for k, v in schema.items()}
    says = {"additionalProperties", "unevaluatedProperties"} & schema.keys()
    declares = isinstance(schema.get("properties", schema.get("patternProperties")), dict)
    return opened | ({"additionalProperties": True} if declares and not says else {})
