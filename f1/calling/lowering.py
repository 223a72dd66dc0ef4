"""A schema as the text of a grammar, and what that leaves to validation.

    schema ──document──▶ nodes ──shapes──▶ what a value may be ──writing──▶ EBNF

Whatever the schema allows, the grammar does, as `json.dumps` writes it; a call is checked against
the schema as given, so what the grammar cannot say is enforced later, and reported.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from f1.calling.document import document
from f1.calling.schema import schema_text
from f1.calling.shapes import Shapes
from f1.calling.writing import Writer
from f1.errors import InvalidSchema
from f1.types import JsonSchema, Relaxed

# What to try in turn: keywords to go without when a grammar cannot be made, or not in time.
_PATTERNS = ("pattern", "patternProperties", "format")
_COUNTS = ("minLength", "maxLength", "minProperties", "maxProperties", "multipleOf")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
RELAXATIONS: tuple[tuple[str, ...], ...] = (
    (),
    _PATTERNS,
    (*_PATTERNS, *_COUNTS),
    (*_PATTERNS, *_COUNTS, *_BOUNDS),
)


@dataclass(frozen=True, slots=True)
class Lowered:
    """`ebnf`, from its rule "root", allows whatever the schema does, as spelled here, and more
    where something is `relaxed`."""

    ebnf: str
    relaxed: tuple[Relaxed, ...] = ()


def lower(
    schema: JsonSchema,
    where: str,
    *,
    whitespace: int = 0,
    without: Collection[str] = (),
) -> Lowered:
    """The grammar of `schema`, that of the tool or response format `where`. `whitespace`: the most
    that may stand between two pieces; 0: as `json.dumps` has it. `without`: keywords to leave out.
    Raises InvalidSchema where no value satisfies it."""
    shapes = Shapes(document(schema_text(schema, where)), where, without)
    ebnf = Writer(shapes, whitespace).write((shapes.root,))
    if ebnf is None:
        raise InvalidSchema("no value satisfies it", param=where)
    return Lowered(ebnf, tuple(shapes.relaxed.values()))
