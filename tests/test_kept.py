"""What is kept of requests is bounded in bytes, however many different ones come."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from f1.calling import compiler, judging
from f1.calling.document import document
from f1.calling.family import families
from f1.calling.grammar import Grammars
from f1.calling.latest import Latest
from f1.calling.request import check_request
from f1.models.load import load_checkpoint
from f1.types import GenerateRequest, Message, ResponseFormat, Tool


def tool(index: int) -> Tool:
    schema = {
        "type": "object",
        "properties": {
            f"field_{index}": {"type": "string"},
            "kind": {"enum": [f"kind {index}", f"sort {index}"]},
            "count": {"type": "integer", "maximum": index},
        },
        "required": [f"field_{index}"],
    }
    return Tool("t", "Does something.", schema)


@pytest.fixture
def grammars(smollm_path: Path) -> Iterator[Grammars]:
    tokenizer = load_checkpoint(str(smollm_path)).tokenizer
    stops = sorted(tokenizer.stop_token_ids)
    made = Grammars(tokenizer.vocabulary(), tokenizer.vocab_size, stops)
    yield made
    made.close()


def use(grammars: Grammars, index: int) -> None:
    """All that a request with a schema of its own does before its first token."""
    request = GenerateRequest((Message("user", "Go."),), tools=(tool(index),))
    check_request(request)
    grammars.admit(request.tools, ResponseFormat())
    form = families()[0].form
    grammars.arguments(form, request.tools[0], last=True).wait(60)


def test_grammars_are_kept_by_their_bytes(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "MAX_COMPILED_BYTES", 4 << 20)
    for index in range(200):
        use(grammars, index)
        assert grammars._compiler.num_bytes <= 4 << 20
    assert 10 < len(grammars._compiler) < 150
    assert grammars._compiler.num_bytes > 3 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.full
def test_100_000_schemas(grammars: Grammars) -> None:
    for index in range(100):
        use(grammars, index)
    gc.collect()
    before = resident()
    for index in range(100, 100_000):
        use(grammars, index)
    gc.collect()
    growth = resident() - before
    cap = compiler.MAX_COMPILED_BYTES + judging.CACHE_BYTES
    print(f"RSS grew by {growth >> 20} MiB; the caches hold {cap >> 20} MiB")
    assert grammars._compiler.num_bytes <= compiler.MAX_COMPILED_BYTES
    assert growth <= 1.2 * cap


def test_results_are_kept_by_their_weight() -> None:
    calls: list[int] = []

    def make(size: int) -> bytes:
        calls.append(size)
        return bytes(size)

    kept = Latest(make, 100, lambda made, size: len(made))
    for size in (40, 50, 40, 30, 40, 50, 200, 200):  # 30 drives out 50; 200 is never kept
        assert len(kept(size)) == size
        assert kept.num_bytes <= 100
    assert calls == [40, 50, 30, 50, 200, 200]


def test_large_schemas_drive_each_other_out() -> None:
    text = b'{"enum":[' + b",".join(b'"%d"' % i for i in range(7000)) + b"]"
    for index in range(60):
        document(text + b',"title":"%d"}' % index)
    assert document.num_bytes <= 64 << 20
