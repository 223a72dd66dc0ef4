"""Registered toolsets: what their prompts share is computed once, across requests and restarts."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from f1.calling.family import families
from f1.calling.shared import shared_prefix
from f1.engine import AsyncEngine
from f1.errors import ContextLengthExceeded, InvalidRequest
from f1.models.load import load_checkpoint
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import Completion, GenerateRequest, Message, SamplingParams, Tool, ToolChoice

TOOLS = tuple(
    Tool(
        f"get_{thing}",
        f"Get the {thing} of a city on a day.",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["city"],
        },
    )
    for thing in ("weather", "traffic", "news")
)
SEEDED = SamplingParams(temperature=0.9, seed=11)


def ask(text: str, **fields: object) -> GenerateRequest:
    defaults = {"tools": TOOLS, "max_tokens": 24}
    return GenerateRequest((Message("user", text),), **defaults | fields)  # type: ignore[arg-type]


REQUESTS = (
    ask("What is the weather in Oslo?", tool_choice=ToolChoice("required")),
    ask("What is the weather in Oslo?", sampling=SEEDED),
    ask("Rome on day 3, please.", sampling=SEEDED, tool_choice=ToolChoice("required")),
    ask("Tell me a story."),
)


@contextmanager
def started(model: Path, cache: Path, **settings: int) -> Iterator[AsyncEngine]:
    engine = AsyncEngine.start(str(model), Settings(cache=cache, **settings))  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.close()


async def complete(engine: AsyncEngine, request: GenerateRequest) -> Completion:
    return (await gather(engine.generate(request), 1))[0]


def said(completion: Completion) -> tuple[str, list[tuple[str, str]], str]:
    message = completion.message
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.content, calls, completion.reason


def all_said(engine: AsyncEngine) -> tuple[list[object], int]:
    """What the requests are answered, and how many tokens of the first one's prompt were there."""

    async def run() -> tuple[list[object], int]:
        completions = [await complete(engine, request) for request in REQUESTS]
        return [said(completion) for completion in completions], completions[0].usage.cached_tokens

    return asyncio.run(run())


@pytest.fixture(scope="module")
def computed(smollm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    with started(smollm_path, tmp_path_factory.mktemp("none"), snapshot_disk=0) as engine:
        answers, num_cached = all_said(engine)
    assert num_cached == 0
    return answers


@pytest.fixture(scope="module")
def cache(smollm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of another process, which has registered TOOLS and ended."""
    folder = tmp_path_factory.mktemp("cache")
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1]); import test_register_tools as test\n"
        "with test.started(Path(sys.argv[2]), Path(sys.argv[3])) as engine:\n"
        "    print(asyncio.run(engine.register_tools(test.TOOLS)))\n"
    )
    arguments = [str(Path(__file__).parent), str(smollm_path), str(folder)]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert int(ended.stdout) > 200
    return folder


def the_file(cache: Path) -> Path:
    (path,) = (cache / "snapshots").rglob("*.kv")
    return path


def test_a_restart_is_answered_from_disk_with_the_same_tokens(
    smollm_path: Path, cache: Path, computed: list[object]
) -> None:
    with started(smollm_path, cache) as engine:
        answers, num_cached = all_said(engine)
        assert asyncio.run(engine.register_tools(TOOLS)) == num_cached > 200
    assert answers == computed


def test_what_another_process_registers_is_used_at_once(
    smollm_path: Path, tmp_path: Path, computed: list[object]
) -> None:
    with started(smollm_path, tmp_path) as here, started(smollm_path, tmp_path) as there:
        num_tokens = asyncio.run(there.register_tools(TOOLS))
        assert all_said(here) == (computed, num_tokens)


def test_only_part_of_the_memory_is_filled_before_a_request_comes(
    smollm_path: Path, cache: Path
) -> None:
    def num_cached_pages(kv_memory: int) -> int:
        with started(smollm_path, cache, kv_memory=kv_memory) as engine:
            return int(engine.stats()["num_cached_pages"])

    assert num_cached_pages(2**30) > 12
    assert num_cached_pages(2**25) == 0


@pytest.mark.parametrize("place", ["head", "first page", "last page", "cut"])
def test_a_broken_file_is_computed_instead_and_replaced(
    smollm_path: Path,
    cache: Path,
    computed: list[object],
    place: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = the_file(cache)
    whole = path.read_bytes()
    changed = bytearray(whole)
    at = {"head": 30, "first page": -(len(whole) - 9000), "last page": -1, "cut": 0}[place]
    changed[at] ^= 4
    path.write_bytes(changed if at else whole[:-1])
    with started(smollm_path, cache) as engine, caplog.at_level(logging.WARNING):
        answers, _ = all_said(engine)
        assert "is removed" in caplog.text
        assert not path.exists()
        asyncio.run(engine.register_tools(TOOLS))
    assert answers == computed
    assert path.read_bytes() == whole, "the same pages, made anew"


def test_other_tools_share_what_they_share(smollm_path: Path, cache: Path) -> None:
    """Each toolset has its own file; one that begins like a saved one uses its beginning."""
    with started(smollm_path, cache) as engine:
        request = ask("Hello", tools=TOOLS[:2], max_tokens=1)
        usage = asyncio.run(complete(engine, request)).usage
        assert 0 < usage.cached_tokens < usage.prompt_tokens - 16


def test_system_messages_are_part_of_the_prefix(smollm_path: Path, tmp_path: Path) -> None:
    system = "You are a guide. Answer in one word."
    with started(smollm_path, tmp_path) as engine:
        num_tokens = asyncio.run(engine.register_tools(TOOLS, system=system))
        messages = (Message("system", system), Message("user", "Oslo?"))
        request = GenerateRequest(messages, tools=TOOLS, max_tokens=1)
        assert asyncio.run(complete(engine, request)).usage.cached_tokens == num_tokens
    assert len(list((tmp_path / "snapshots").rglob("*.kv"))) == 1


def test_without_a_disk_it_stays_in_memory(smollm_path: Path, tmp_path: Path) -> None:
    with started(smollm_path, tmp_path, snapshot_disk=0) as engine:
        num_tokens = asyncio.run(engine.register_tools(TOOLS))
        usage = asyncio.run(complete(engine, ask("Oslo?", max_tokens=1))).usage
        assert usage.cached_tokens == num_tokens > 200
    assert not (tmp_path / "snapshots").exists()


def test_what_can_not_be_asked_can_not_be_registered(smollm_path: Path, tmp_path: Path) -> None:
    with started(smollm_path, tmp_path, context_length=64) as engine:
        with pytest.raises(ContextLengthExceeded):
            asyncio.run(engine.register_tools(TOOLS))
        with pytest.raises(InvalidRequest, match="given twice"):
            asyncio.run(engine.register_tools([TOOLS[0], TOOLS[0]]))
    assert not (tmp_path / "snapshots").exists()


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_the_prefix_holds_the_tools_and_begins_every_prompt(
    family: object, smollm_path: Path
) -> None:
    checkpoint = load_checkpoint(str(smollm_path))
    template, tokenizer = checkpoint.template, checkpoint.tokenizer
    prefix = shared_prefix(family, template, TOOLS, "Be brief.")  # type: ignore[arg-type]
    text = b"".join(tokenizer.token_bytes(token_id) for token_id in prefix).decode()
    for tool in TOOLS:
        assert tool.name in text
    for user in ("Hi", "\n\nWhat now?", "漢字"):
        messages = [Message("system", "Be brief."), Message("user", user)]
        prompt = template.render(family.plain_messages(messages, TOOLS))  # type: ignore[attr-defined]
        assert prompt[: len(prefix) - 1] == prefix[:-1]  # the last may merge with what follows
