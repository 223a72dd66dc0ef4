"""The official JSON-Schema-Test-Suite, as vendored: 2020-12 without remote schemas."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
