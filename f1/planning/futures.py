"""What the model reads of a result that is not there yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from f1.calling.shapes import Array, Object
from f1.planning.fitting import Part, part_of
from f1.planning.paths import Key, write_path
from f1.types import JsonSchema

_MAX_LEVELS = 4


def write_future(node_id: str, output: JsonSchema | None) -> str:
    """The result as it will look, each value replaced by the reference that stands for it."""
    return json.dumps(_future(node_id, part_of(output), ()), ensure_ascii=False)


def _future(node_id: str, part: Part, keys: Sequence[Key]) -> Any:
    shapes = part.shapes() if len(keys) < _MAX_LEVELS else None
    for shape in shapes or ():
        if isinstance(shape, Object) and shape.properties:
            below = {name: part.at(name) for name in shape.properties}
            return {
                name: _future(node_id, inner, (*keys, name))
                for name, inner in below.items()
                if inner is not None
            }
        if isinstance(shape, Array) and (inner := part.at(0)) is not None:
            return [_future(node_id, inner, (*keys, 0))]
    path = write_path(keys)
    return {"ref": node_id} | ({"path": path} if path else {})
