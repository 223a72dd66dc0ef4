"""What a turn is said to have decided is what it did, as likely as the model found it, and to be
told of it changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cores import VOCAB_SIZE, guess_from, mask_of, prompt, request, steps, tiny_model

from f1 import _core
from f1.engine import AsyncEngine
from f1.models.load import load_checkpoint, load_model
from f1.planning.collect import gather
from f1.settings import Settings
from f1.types import (
    Completion,
    Decoded,
    GenerateRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Soft,
    Tool,
    ToolChoice,
)

# --- the core ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny_model(tmp_path_factory.mktemp("tiny"), num_threads=1)


def watched(
    model: _core.Model,
    asked: _core.Request,
    watch: tuple[Sequence[int], bool] | None,
    mask: np.ndarray | None = None,
    answer: Sequence[int] = (),
) -> tuple[list[int], list[Any]]:
    """Its tokens and what was read with each; guesses of `answer` are drafted."""
    engine = _core.Engine(model, num_pages=16)
    sequence_id = engine.submit(asked)
    guess, tokens, readings = guess_from(list(answer), {}), [], []
    watches = {} if watch is None else {sequence_id: (np.array(watch[0], np.int32), watch[1])}
    while engine.has_work:
        if answer:
            engine.draft(sequence_id, guess(tokens))
        waiting = engine.begin_step()
        for output in engine.finish_step(dict.fromkeys(waiting, mask), watches):
            tokens.append(output.token_id)
            readings.append(output.reading)
        engine.check()
    return tokens, readings


@pytest.mark.parametrize("legal", [[3, 50, 51, 200], [9], None], ids=["few", "one", "all"])
def test_a_reading_is_the_softmax_over_the_legal_tokens(
    model: _core.Model, legal: list[int] | None
) -> None:
    token_ids, about = prompt(4, 25), [3, 9, 50, 60, 332]
    logits = model.logits(np.array(token_ids, dtype=np.int32))[-1].astype(np.float64)
    mask = np.full(VOCAB_SIZE, -np.inf if legal else 0.0)
    mask[legal or []] = 0
    expected = reference.log_softmax(logits + mask)
    likely = np.exp(reference.log_softmax(logits))
    ((token,), (reading,)) = watched(
        model, request(token_ids, 1), (about, True), None if legal is None else mask_of(legal)
    )
    logprob, found, masked_mass = reading
    assert logprob == pytest.approx(expected[token], abs=1e-4)
    assert found == pytest.approx(expected[about], abs=1e-4)
    assert masked_mass == pytest.approx(1 - likely[legal].sum() if legal else 0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize("drafted", [False, True])
def test_only_what_is_watched_is_read_and_no_token_changes(
    model: _core.Model, temperature: float, drafted: bool
) -> None:
    asked = request(prompt(5, 20), 40, temperature=temperature, seed=3, repetition_penalty=1.1)
    expected, none = watched(model, asked, None)
    assert none == [None] * 40
    about = sorted({expected[7], expected[20], expected[21]})
    for always in (False, True):
        tokens, readings = watched(
            model, asked, (about, always), answer=expected if drafted else ()
        )
        assert tokens == expected
        read = [reading is not None for reading in readings]
        assert read == [always or token in about for token in expected]


def test_what_is_read_is_the_same_in_a_crowd(model: _core.Model) -> None:
    """Of sequences that wait, are preempted and computed again."""
    asked = [request(prompt(k, 30), 40, temperature=0.9, seed=k) for k in range(6)]
    about = (np.array([3, 9, 50, 60, 332], np.int32), True)
    alone = [watched(model, each, (about[0].tolist(), True)) for each in asked]
    engine = _core.Engine(model, num_pages=12)
    ids = [engine.submit(each) for each in asked]
    found: dict[int, tuple[list[int], list[Any]]] = {i: ([], []) for i in ids}
    while engine.has_work:
        waiting = engine.begin_step()
        for output in engine.finish_step({}, dict.fromkeys(waiting, about)):
            found[output.sequence_id][0].append(output.token_id)
            found[output.sequence_id][1].append(output.reading)
    assert engine.stats()["num_preemptions"] > 0
    for sequence_id, (tokens, readings) in zip(ids, alone, strict=True):
        assert found[sequence_id][0] == tokens
        for (logprob, those, mass), reading in zip(readings, found[sequence_id][1], strict=True):
            assert (logprob, those.tolist(), mass) == (reading[0], reading[1].tolist(), reading[2])


def test_watches_are_checked(model: _core.Model) -> None:
    with pytest.raises(_core.InvalidArgument, match="watched"):
        watched(model, request([1], 1), ([VOCAB_SIZE], True))


# --- the engine ----------------------------------------------------------------------------------

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (
    Tool("get_weather", "Current weather of a city", CITY),
    Tool("get_time", "Local time in a city", CITY),
    Tool("send_mail", "Send a mail", {"properties": {"text": {"type": "string"}}}),
)
REQUIRED = ToolChoice("required")
ASKED = "What is the weather in Oslo, and what time is it in Rome?"
WARM = SamplingParams(temperature=1.0, seed=3)
NOTES = "We were in Oslo in May, and in Rome in June. " * 20
REQUESTS: dict[str, dict[str, Any]] = {
    "required": {"tool_choice": REQUIRED},
    "auto": {},
    "drawn": {"sampling": WARM, "n": 3},
    "either": {"response_format": ResponseFormat("json_object")},
    "soft": {"soft": Soft(steps=3)},
    "single": {"parallel_tool_calls": False, "sampling": replace(WARM, temperature=0.7)},
    "cut": {"tool_choice": REQUIRED, "max_tokens": 14},
    "one tool": {"tool_choice": REQUIRED, "tools": TOOLS[:1]},
    "none": {"tool_choice": ToolChoice("none"), "max_tokens": 100},
    "named": {"tool_choice": ToolChoice("named", "get_time")},
}  # fmt: skip


def ask(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        (Message("user", ASKED),), **{"tools": TOOLS, "max_tokens": 48, "record": True} | fields
    )


async def complete(engine: AsyncEngine, request: GenerateRequest) -> list[Completion]:
    return await gather(engine.generate(request), request.n)


def decoded(completion: Completion) -> Decoded:
    assert completion.report.decoded is not None
    return completion.report.decoded


def said(completion: Completion) -> tuple[Any, ...]:
    calls = [(call.name, call.arguments) for call in completion.message.tool_calls]
    return completion.message.content, calls, completion.reason, completion.usage.completion_tokens


MODELS = ["smollm2-135m", pytest.param("qwen2.5-coder-0.5b", marks=pytest.mark.full)]


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, smollm_path: Path, qwen_path: Path) -> str:
    return str(smollm_path if request.param == "smollm2-135m" else qwen_path)


@pytest.fixture(scope="module")
def engine(path: str) -> Iterator[AsyncEngine]:
    started = AsyncEngine.start(path, Settings(max_sequences=8))
    yield started
    started.close()


async def test_recording_changes_nothing_and_tells_every_token(engine: AsyncEngine) -> None:
    asked = [
        replace(ask(**fields), messages=(Message("user", f"{ASKED} {name}: {NOTES}"),))
        for name, fields in REQUESTS.items()
    ]
    before = engine.stats()
    plain = [await complete(engine, replace(each, record=False)) for each in asked]
    alone = [await complete(engine, each) for each in asked]
    drafted, between = "num_accepted_tokens", engine.stats()
    together = await asyncio.gather(*(complete(engine, each) for each in asked))
    assert between[drafted] > before[drafted]
    for name, without, *recorded in zip(REQUESTS, plain, alone, together, strict=True):
        assert all(completion.report.decoded is None for completion in without)
        for found in recorded:
            assert list(map(said, found)) == list(map(said, without)), name
            for completion in found:
                turn, usage = decoded(completion), completion.usage
                assert len(turn.prompt_ids) == usage.prompt_tokens
                num_soft = usage.completion_tokens - len(turn.token_ids)
                assert (num_soft > 0) == (name == "soft")
                assert turn.before is None
                decisions_are_what_was_done(engine, name, completion)
        assert [decoded(c).choosing for c in recorded[0]] == [
            decoded(c).choosing for c in recorded[1]
        ]


def decisions_are_what_was_done(engine: AsyncEngine, name: str, completion: Completion) -> None:
    turn = decoded(completion)
    called = [each.name for each in completion.message.tool_calls]
    whats = [each.what for each in turn.choosing]
    ats = [each.at for each in turn.choosing]
    tools = [each.taken for each in turn.choosing if each.what == "tool"]
    assert ats == sorted(ats), turn.choosing
    if name in ("none", "named", "one tool"):
        assert whats.count("tool") == 0
        return
    if name == "cut":
        assert len(tools) == 1
        return
    # A tool that was begun and cut is decided on, too; one call more that only repeats, as well.
    assert tools[: len(called)] == called
    if name == "required":
        assert whats[0] == "tool"
    else:
        assert turn.choosing[0].what == "call"
        assert turn.choosing[0].taken == ("call" if tools else "text")
    for choosing in turn.choosing:
        assert choosing.logprob <= 0
        assert choosing.second != choosing.taken
        text = engine.tokenizer.decode(list(turn.token_ids[: choosing.at]))
        if choosing.what == "tool":  # the token begins where names part
            begun = text.rpartition(b'"')[2].decode()
            assert choosing.taken.startswith(begun)


async def test_a_decision_is_as_likely_as_the_model_finds_it(
    engine: AsyncEngine, path: str
) -> None:
    """Token by token against torch's log-softmax over what is legal, with the names spelled out
    here."""
    name = "auto" if "qwen" in path else "required"  # its calls are text up to the name
    (completion,) = await complete(engine, ask(**REQUESTS[name]))
    turn, tokenizer = decoded(completion), engine.tokenizer
    core = _core.Engine(load_model(load_checkpoint(path)), num_pages=128)
    pieces = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    choosing = next(each for each in turn.choosing if each.what == "tool")
    at, left, log = choosing.at, {tool.name for tool in TOOLS}, 0.0
    seconds: dict[frozenset[str], float] = {}
    while len(left) > 1:
        begun = tokenizer.decode(list(turn.token_ids[:at])).rpartition(b'"')[2].decode()
        rests = {n: (n[len(begun) :] + '", "arguments":').encode() for n in left}
        leaves = [{n for n, r in rests.items() if p and r.startswith(p)} for p in pieces]
        logits = behind(core, (*turn.prompt_ids, *turn.token_ids[:at]), len(pieces))
        legal = torch.tensor([bool(names) for names in leaves])
        if at == choosing.at:
            mass = torch.softmax(logits, 0)[~legal].sum() if name == "required" else 0
            assert choosing.masked_mass == pytest.approx(float(mass), abs=5e-3)
        if name == "required":  # in text all may follow
            logits[~legal] = -torch.inf
        found = torch.log_softmax(logits, 0).exp().tolist()
        token_left = leaves[turn.token_ids[at]]
        others = [i for i, names in enumerate(leaves) if names and not names & token_left]
        if others:
            group = frozenset(leaves[max(others, key=found.__getitem__)])
            seconds[group] = log + np.log(sum(found[i] for i in others if leaves[i] & group))
        log += np.log(sum(p for p, n in zip(found, leaves, strict=True) if n & token_left))
        at, left = at + 1, left & token_left
    assert left == {choosing.taken}
    assert choosing.logprob == pytest.approx(log, abs=0.05)
    second = max(seconds, key=seconds.__getitem__)
    assert choosing.second_logprob == pytest.approx(seconds[second], abs=0.05)
    if choosing.second.endswith("*"):
        assert all(n.startswith(choosing.second[:-1]) for n in second), second
    else:
        assert {choosing.second} == second


def behind(core: _core.Engine, token_ids: Sequence[int], vocab_size: int) -> torch.Tensor:
    """What the model finds of each token there, but for a constant."""
    core.submit(request(token_ids, 1, num_logprobs=vocab_size))
    (output,) = [output for step in steps(core) for output in step]
    logits = torch.full((vocab_size,), -torch.inf, dtype=torch.float64)
    found, values = zip(*output.top or (), strict=True)
    logits[list(found)] = torch.tensor(values, dtype=torch.float64)
    return logits


async def test_the_end_of_an_answer_is_a_decision(engine: AsyncEngine) -> None:
    request = replace(ask(), messages=(Message("user", "Say hello."),), max_tokens=100)
    (completion,) = await complete(engine, request)
    first, *_, last = decoded(completion).choosing
    if completion.reason == "stop":
        assert (first.taken, first.second) == ("text", "call")
        assert (last.taken, last.second) == ("end", "call")
        assert decoded(completion).token_ids[last.at] in engine.tokenizer.stop_token_ids
        assert last.at == len(decoded(completion).token_ids) - 1
