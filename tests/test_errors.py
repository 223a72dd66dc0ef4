"""What errors say to clients, all of them."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

from f1.errors import F1Error, InvalidRequest
from f1.serve.limits import Limits
from f1.serve.wire.request import parse_chat_request

ROOT = Path(__file__).parent.parent
BASES = {"F1Error", "InvalidRequest", "EngineStopped"}


def declared() -> list[type[F1Error]]:
    """Of the whole tree, wherever they are."""
    found: list[type[F1Error]] = []
    for file in sorted((ROOT / "f1").rglob("*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and BASES & {ast.unparse(b) for b in node.bases}:
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                found.append(getattr(import_module(name), node.name))
    return found


def test_the_type_of_an_error_says_whose_fault_it_is() -> None:
    """OpenAI's clients tell by the type, too, whether it was the request's."""
    errors = declared()
    assert {F1Error, *errors} >= {F1Error, *F1Error.__subclasses__()}
    assert len(errors) > 20
    wrong = [e.__name__ for e in errors if (e.type == "server_error") != (e.status >= 500)]
    assert wrong == []


@pytest.mark.parametrize(
    ("value", "words"),
    [("a b", "'a b'"), ("a" * 200, "a string of 200 characters"), (["a"], "an array"), (7, "7")],
)
def test_what_was_sent_is_named_without_contradiction(value: object, words: str) -> None:
    body = {"model": "f1", "messages": [], "f1": {"run_id": value}}
    with pytest.raises(InvalidRequest, match=rf"f1\.run_id.*, not {words}$"):
        parse_chat_request(body, Limits())
