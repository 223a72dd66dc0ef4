"""Schemas, patterns and grammars that have stopped other servers, made by size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from f1.types import ResponseFormat, Tool

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}


def of(schema: object) -> Schema:
    """An object with one property."""
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


def nested(make: Callable[[Schema], Schema], depth: int) -> Schema:
    schema = STRING
    for _ in range(depth):
        schema = make(schema)
    return schema


SCHEMAS: dict[str, Callable[[int], Schema]] = {
    "items": lambda n: of(nested(lambda s: {"type": "array", "items": s}, n)),
    "properties": lambda n: nested(of, n),
    "optional": lambda n: {"type": "object", "properties": {f"p{i}": STRING for i in range(n)}},
    "branches": lambda n: of(nested(lambda s: {"oneOf": [s, s]}, min(n, 11))),
    "refs": lambda n: {
        "$ref": "#/$defs/a0",
        "$defs": {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(n)}
        | {f"a{n}": STRING},
    },
    "enum": lambda n: of({"enum": [f"value {i}" for i in range(n)]}),
    "long value": lambda n: of({"enum": ["x" * n]}),
    "long values": lambda n: of({"enum": ["ab" * 500 + str(i) for i in range(n // 10 + 1)]}),
    "long name": lambda n: {"type": "object", "properties": {"k" * n: STRING}},
    "minLength": lambda n: of({"type": "string", "minLength": n}),
    "maxLength": lambda n: of({"type": "string", "maxLength": n}),
    "below zero": lambda n: of({"type": "string", "maxLength": -n}),
    "items at most": lambda n: of({"type": "array", "items": STRING, "maxItems": n**6}),
    "items at least": lambda n: of({"type": "array", "items": STRING, "minItems": n**6}),
    "digits": lambda n: of({"type": "number", "minimum": -(10**n), "maximum": 10**n}),
    "repeat": lambda n: of({"type": "string", "pattern": f"^[^\\n\\r]{{1,{n}}}$"}),
    "quantified": lambda n: of({"type": "string", "pattern": "(" * n + "a" + "+)" * n + "+$"}),
    "NUL": lambda n: of({"type": "string", "pattern": "a" * n + "\0b"}),
    "lookbehind": lambda n: of({"type": "string", "pattern": "(?<=a)" * n}),
    "no values": lambda n: of({"enum": []}),
    "no branches": lambda n: of({"anyOf": []}),
    "never": lambda n: of(False),
    "odd types": lambda n: of({"type": "str" * n}),
    "odd pattern": lambda n: of({"type": "string", "pattern": n}),
    "cycle": lambda n: {"$ref": "#"},
    "endless": lambda n: {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    "remote": lambda n: of({"$ref": "http://localhost/schema.json"}),
    "group": lambda n: of({"type": "string", "pattern": "^(?:ab|a|b)*$"}),
    "controls": lambda n: of({"const": "\0\x1b" * n}),
}

TEXTS: dict[str, Callable[[int], tuple[str, str]]] = {
    "nested repeats": lambda n: ("regex", "(" * (n % 50 + 2) + "a" + "+)" * (n % 50 + 2) + "b"),
    "empty repeats": lambda n: ("regex", f"(.*a){{{n}}}"),
    "dots": lambda n: ("regex", "(.*)*x" * (n % 9 + 1)),
    "window": lambda n: ("regex", f"[^x]*a[^x]{{{n}}}"),
    "ambiguous": lambda n: ("regex", "(a|aa)+" * (n % 20 + 1) + "b"),
    "parentheses": lambda n: ("regex", "(" * (n * 100)),
    "nothing to repeat": lambda n: ("regex", "^" + "+a" * n),
    "back reference": lambda n: ("regex", "(a)\\1" * n),
    "class": lambda n: ("regex", "\\p{L}" * n),
    "NUL in front": lambda n: ("regex", "\0" * n),
    "half": lambda n: ("regex", "[a-" * n),
    "ambiguous rules": lambda n: ("ebnf", 'root ::= root root | "a" | ""'),
    "rules in rules": lambda n: ("ebnf", f'root ::= s\ns ::= {"s " * (n % 9 + 2)}| "a" | ""'),
    "no end": lambda n: ("ebnf", "root ::= root"),
    "no rule": lambda n: ("ebnf", "root ::= other"),
    "chain": lambda n: (
        "ebnf",
        "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}\n" for i in range(n)) + f'a{n} ::= "x"',
    ),
    "deep rule": lambda n: ("ebnf", "root ::= " + "(" * (n * 50) + '"a"' + ")" * (n * 50)),
    "repeats": lambda n: ("ebnf", f'root ::= ("a"{{1,{n}}}){{1,{n}}}'),
    "no grammar": lambda n: ("ebnf", "%" * n),
}


def tools(sizes: tuple[int, ...]) -> Iterator[tuple[str, Tool]]:
    for name, make in SCHEMAS.items():
        for size in sizes:
            yield f"{name} {size}", Tool("t", "Does something.", make(size))


def formats(sizes: tuple[int, ...]) -> Iterator[tuple[str, ResponseFormat]]:
    for name, make in SCHEMAS.items():
        for size in sizes:
            yield f"{name} {size} as a format", ResponseFormat("json_schema", make(size))
    for name, make_text in TEXTS.items():
        for size in sizes:
            kind, text = make_text(size)
            yield f"{name} {size}", ResponseFormat(kind, text)  # type: ignore[arg-type]
