"""A schema as a document: where its subschemas stand, and where its references lead.

References resolve inside the schema only; nothing is ever fetched. What earlier drafts wrote
another way (tuples as `items: [...]`, `dependencies`) is rewritten once, here, so that everything
behind reads 2020-12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from f1.calling.latest import latest

_KEPT_BYTES = 64 << 20  # of documents
_BYTES_PARSED = 40  # that a byte of a schema takes in one, about

# Where subschemas stand: keywords that hold one, a list of them, a map of them.
_ONE = (
    *("items", "contains", "propertyNames", "additionalProperties", "unevaluatedProperties"),
    *("unevaluatedItems", "not", "if", "then", "else"),
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
REFERENCES = ("$ref", "$dynamicRef")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a subschema stands: its path in the document, and what its references go by."""

    path: str
    resolver: Any


class Document:
    """One schema, parsed. Its nodes are the very objects of `root`, told apart by identity."""

    def __init__(self, root: Any):
        self.root = root
        named = root if not isinstance(root, dict) or has_usable_id(root) else {}
        resource: Resource[Any] = DRAFT202012.create_resource(named)
        self._resolver: Any = Registry().resolver_with_root(resource)
        self.places: dict[int, Place] = {}
        self.nodes: list[dict[str, Any]] = []
        for path, node, resolver in _subschemas(root, "", self._resolver):
            self.places[id(node)] = Place(path, resolver)
            self.nodes.append(node)
        self._keywords = {keyword for node in self.nodes for keyword in node}

    def holds(self, keyword: str) -> bool:
        """Whether some subschema has it."""
        return keyword in self._keywords

    def path(self, node: Mapping[str, Any]) -> str:
        return self.places[id(node)].path

    def target(self, node: Mapping[str, Any], keyword: str) -> Any:
        """The schema the node's reference leads to; None when it leads out of the document, or to
        what is no schema in it."""
        try:
            found = self.places[id(node)].resolver.lookup(node[keyword]).contents
        except (Unresolvable, ValueError, LookupError):
            return None
        return found if isinstance(found, bool) or id(found) in self.places else None

    def anchors(self, name: str) -> int:
        """How many subschemas a `$dynamicRef` to `name` may mean."""
        return sum(node.get("$dynamicAnchor") == name for node in self.nodes)


@latest(_KEPT_BYTES, lambda _, text: _BYTES_PARSED * len(text) + 2000)
def document(text: bytes) -> Document:
    """The schema of this JSON text; for reading only, as all who ask share it."""
    root = orjson.loads(text)
    for _, node, _ in _subschemas(root, "", None):
        _modernise(node)
    return Document(root)


def has_usable_id(node: Mapping[str, Any]) -> bool:
    """Whether references can be resolved against its `$id`, if it has one."""
    try:
        urlsplit(node.get("$id", ""))
    except (ValueError, AttributeError, TypeError):  # no address, or no text at all
        return False
    return isinstance(node.get("$id", ""), str)


def _modernise(node: dict[str, Any]) -> None:
    """Says in the words of 2020-12 what earlier drafts said in others."""
    if isinstance(node.get("items"), list):
        node["prefixItems"] = node.pop("items")
        if "additionalItems" in node:
            node["items"] = node.pop("additionalItems")
    dependencies = node.pop("dependencies", None)
    if isinstance(dependencies, dict):
        for name, value in dependencies.items():
            keyword = "dependentRequired" if isinstance(value, list) else "dependentSchemas"
            node.setdefault(keyword, {})[name] = value


def _subschemas(schema: Any, path: str, resolver: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every object schema inside `schema`, itself first, with its path."""
    if not isinstance(schema, dict):
        return
    if resolver is not None and has_usable_id(schema):
        resolver = resolver.in_subresource(DRAFT202012.create_resource(schema))
    yield path, schema, resolver
    below = f"{path}." if path else ""
    for key in _ONE:
        if isinstance(value := schema.get(key), dict):
            yield from _subschemas(value, below + key, resolver)
    for key in (*_LISTS, "items"):
        if isinstance(values := schema.get(key), list):
            for index, value in enumerate(values):
                yield from _subschemas(value, f"{below}{key}[{index}]", resolver)
    for key in (*_MAPS, "dependencies"):
        if isinstance(named := schema.get(key), dict):
            for name, value in named.items():
                yield from _subschemas(value, f"{below}{key}.{name}", resolver)
