"""f1/_core.pyi says what csrc/bindings really offer: the same names, members and arguments."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import ModuleType

import f1
from f1 import _core

Members = dict[str, list[str] | None]  # name → arguments; None: a property


def _declared() -> dict[str, Members | list[str]]:
    tree = ast.parse(Path(f1.__file__).with_name("_core.pyi").read_text())
    found: dict[str, Members | list[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = _arguments(node)
        elif isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            found[node.name] = {
                m.name: None if m.decorator_list else _arguments(m) for m in methods
            }
    return found


def _arguments(node: ast.FunctionDef) -> list[str]:
    return [a.arg for a in node.args.args + node.args.kwonlyargs if a.arg != "self"]


def _bound() -> dict[str, Members | list[str]]:
    found: dict[str, Members | list[str]] = {}
    for name, value in vars(_core).items():
        if isinstance(value, ModuleType) or name.startswith("__"):
            continue
        if not isinstance(value, type):
            found[name] = _documented_arguments(value.__doc__)
        elif issubclass(value, Exception):
            found[name] = {}
        else:
            found[name] = {
                member: None if isinstance(item, property) else _documented_arguments(item.__doc__)
                for member, item in vars(value).items()
                if isinstance(item, property) or member == "__init__" or member[0] != "_"
            }
            if value.__init__.__doc__ and "Initialize self" in value.__init__.__doc__:
                found[name].pop("__init__", None)
    return found


def _documented_arguments(doc: str | None) -> list[str]:
    """pybind11 writes the signature into the first line: `f(self: T, x: int = 0) -> int`."""
    signature = (doc or "").splitlines()[0]
    return [
        name for name in re.findall(r"[(,] ?(\w+): ", signature) if name not in ("self", "arg0")
    ]


def test_stub_says_what_the_core_offers():
    assert _declared() == _bound()
