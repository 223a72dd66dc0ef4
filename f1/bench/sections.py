"""The measurements. Each asks its subjects in turns and adds rows, then what follows from them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from f1 import _core
from f1.bench import work
from f1.bench.report import MACHINE, OURS, PLAIN, Report, Unit
from f1.bench.run import PEERS, Bench
from f1.settings import Settings

_READ, _DOT = "memory read", "8-bit dot products"
_EVERYONE = (OURS, *PEERS)
_WITH_GRAMMAR = ("llama.cpp",)
_SWITCHES_OFF = {field.name: 0 for field in fields(Settings) if field.type == "bool"}


def run_sections(bench: Bench) -> None:
    """Everything that was asked for, the report's quotients included."""
    if bench.wants("decode", "prefill"):
        _speed(bench, bench.options.threads, bench.sizes.rounds)
        if bench.options.threads > 1:
            _speed(bench, 1, 3)
        _shares(bench)
    for name, section in _SECTIONS.items():
        if bench.wants(name):
            section(bench)
    bench.report.compare()


# --- decode and prefill ---------------------------------------------------------------------------


def _speed(bench: Bench, threads: int, rounds: int) -> None:
    sizes = bench.sizes
    num_new = sizes.new_tokens if bench.wants("decode") else 0
    warm_up = _speed_question(bench, threads, 32, 4, start=0)
    with bench.subjects(warm_up, among=_EVERYONE) as subjects:
        if threads == bench.options.threads:
            bench.facts |= subjects[OURS].ask("facts", threads=threads)
        for index in bench.rounds(f"decode, prefill ({_threads(threads)})", rounds):
            _ceilings(bench, threads)
            start = 100 + 37 * index  # another prompt each round: nothing is in any cache
            question = _speed_question(bench, threads, sizes.prompt_tokens, num_new, start)
            for who, subject in subjects.items():
                _add_rates(bench, who, threads, subject.ask(**question))


def _speed_question(
    bench: Bench, threads: int, num_prompt: int, num_new: int, start: int
) -> dict[str, Any]:
    token_ids = work.text_tokens(bench.checkpoint, num_prompt, start)
    return {"what": "speed", "threads": threads, "token_ids": token_ids, "num_new": num_new}


def _add_rates(
    bench: Bench, who: str, threads: int, timings: Mapping[str, Any], note: str = ""
) -> None:
    for what in ("decode", "prefill"):
        timing = timings[what]
        if bench.wants(what) and timing["tokens"]:
            rate = timing["tokens"] / timing["wall"]
            bench.report.add(what + note, who, threads, "tok/s", rate)
            if threads == 1 and not note:
                rate = timing["tokens"] / timing["cpu"]
                bench.report.add(what, who, threads, "tok/CPU s", rate)


def _ceilings(bench: Bench, threads: int) -> None:
    """What the machine gives to loops that do nothing else, at about the time of the round."""
    read = median(_core.read_bandwidth(threads, bench.sizes.memory_bytes))
    bench.report.add(_READ, MACHINE, threads, "GB/s", read / 1e9)
    if (dot := _core.dot_rate(threads)) is not None:
        bench.report.add(_DOT, MACHINE, threads, "GMAC/s", dot / 1e9)


def _shares(bench: Bench) -> None:
    """Of the ceilings, with what a token costs at least.

    Decode reads the layers, the head and the context's K and V. Prefill counts the multiply-adds of
    the layers' matrices, not those of attention.
    """
    costs, sizes, report = bench.costs, bench.sizes, bench.report
    context = sizes.prompt_tokens + sizes.new_tokens / 2
    token_bytes = costs.matrix_bytes + context * bench.facts["kv_bytes_per_token"]
    bench.facts |= {
        "file_bytes": costs.file_bytes,
        "decode_bytes_per_token": round(token_bytes),
        "prefill_macs_per_token": costs.prefill_macs,
    }
    for threads in sorted({1, bench.options.threads}, reverse=True):
        unit: Unit = "tok/CPU s" if threads == 1 else "tok/s"
        for who in _EVERYONE:
            decode = report.find("decode", who, threads, unit)
            read = report.find(_READ, MACHINE, threads, "GB/s")
            report.quotient(f"{who}: decode", _READ, decode, read, 100 * token_bytes / 1e9)
            prefill = report.find("prefill", who, threads, unit)
            dot = report.find(_DOT, MACHINE, threads, "GMAC/s")
            report.quotient(f"{who}: prefill", _DOT, prefill, dot, 100 * costs.prefill_macs / 1e9)
    if report.find(_DOT, MACHINE, bench.options.threads, "GMAC/s") is None:
        report.notes.append("this processor has no vpdpbusd: there is no ceiling for prefill")


# --- several sequences ----------------------------------------------------------------------------


def _batch(bench: Bench) -> None:
    sizes, threads = bench.sizes, bench.options.threads
    question = {
        "threads": threads,
        "token_ids": work.text_tokens(bench.checkpoint, sizes.batch_context, 100),
        "sizes": sizes.batch_sizes,
        "num_new": sizes.batch_steps,
    }
    with bench.subject(OURS) as subject:
        for _ in bench.rounds("batch", 1):
            for timings in subject.ask("batch", **question, rounds=sizes.rounds):
                for size, timing in timings.items():
                    rate = timing["tokens"] / timing["wall"]
                    bench.report.add(f"decode x{size}", OURS, threads, "tok/s", rate)
    alone = bench.report.find("decode x1", OURS, threads, "tok/s")
    for size in reversed(sizes.batch_sizes[:-1]):
        together = bench.report.find(f"decode x{size}", OURS, threads, "tok/s")
        bench.report.quotient(f"f1: decode x{size}", "decode x1", together, alone)


# --- a call under its grammar ---------------------------------------------------------------------


def _call(bench: Bench) -> None:
    for threads in sorted({1, bench.options.threads}, reverse=True):
        _call_on(bench, threads, bench.sizes.rounds if threads > 1 else 3)


def _call_on(bench: Bench, threads: int, rounds: int) -> None:
    switched = {"num_threads": threads}
    with (
        bench.subject("f1 engine", **switched) as ours,
        bench.subject("f1 engine", **switched, **_SWITCHES_OFF) as plain,
        bench.subjects(_peer_call(bench, threads, 90), among=_WITH_GRAMMAR) as peers,
    ):
        engines = {OURS: ours, PLAIN: plain}
        for engine in engines.values():  # grammar compiled, tools in the prefix cache; then settled
            for index in (90, 91):
                engine.ask("call", index=index)
        for index in bench.rounds(f"call ({_threads(threads)})", rounds):
            answers = {who: engine.ask("call", index=index) for who, engine in engines.items()}
            for who, peer in peers.items():
                answers[who] = peer.ask(**_peer_call(bench, threads, index))
            for who, answer in answers.items():
                if index == 0 and threads == bench.options.threads:
                    bench.report.notes.append(f"call of {who}: {answer['text'].strip()}")
                _add_call(bench.report, who, threads, answer)
            for who, engine in engines.items():
                answer = engine.ask("text", index=index, num_tokens=bench.sizes.new_tokens)
                _add_text(bench.report, who, threads, answer)


def _peer_call(bench: Bench, threads: int, index: int) -> dict[str, Any]:
    """The same call for a peer: our prompt, and the schema for it to make a grammar of."""
    request = work.call(index)
    return {
        "what": "call",
        "threads": threads,
        "token_ids": work.prompt_tokens(bench.checkpoint, request),
        "schema": request.tools[0].parameters,
        "max_tokens": request.max_tokens,
    }


def _add_call(report: Report, who: str, threads: int, answer: Mapping[str, Any]) -> None:
    wall, cpu, tokens = 1e3 * answer["wall"], 1e3 * answer["cpu"], answer["tokens"]
    report.add("call", who, threads, "ms", wall)
    report.add("call", who, threads, "ms/tok", wall / tokens)
    report.add("call length", who, threads, "tok", tokens)
    if threads == 1:
        report.add("call", who, threads, "CPU ms", cpu)


def _add_text(report: Report, who: str, threads: int, answer: Mapping[str, Any]) -> None:
    report.add("free text", who, threads, "ms/tok", 1e3 * answer["wall"] / answer["tokens"])
    if threads == 1:
        report.add("free text", who, threads, "tok/CPU s", answer["tokens"] / answer["cpu"])


# --- time to the first token ----------------------------------------------------------------------


def _ttft(bench: Bench) -> None:
    """A new process each time: the model loaded, no request yet; the files are in memory."""
    threads, size = bench.options.threads, bench.sizes.toolset_tokens
    request = work.question(work.toolset(bench.checkpoint, size), "Who are you?")
    prompt = work.prompt_tokens(bench.checkpoint, request)
    cold: dict[str, Any] = {"what": "first_token", "num_tokens": size, "text": "Who are you?"}
    warm = cold | {"text": "What can you do?"}
    with _own_cache() as cache:
        kept: dict[str, int | str] = {"num_threads": threads, "cache": str(cache)}
        with bench.subject("f1 engine", **kept) as ours:
            ours.ask("register", num_tokens=size)
        for _ in bench.rounds("ttft", 3):
            with bench.subject("f1 engine", num_threads=threads, snapshot_disk=0) as ours:
                answer = ours.ask(**cold)
                _add_milliseconds(bench, "engine start", OURS, answer["start"])
                _add_milliseconds(bench, "first token, cold", OURS, answer["wall"])
                _add_milliseconds(bench, "first token, warm", OURS, ours.ask(**warm)["wall"])
            with bench.subject("f1 engine", **kept) as ours:
                answer = ours.ask(**cold)
            _add_milliseconds(bench, "first token, cold, toolset kept", OURS, answer["wall"])
            tokens = answer["cached_tokens"]
            bench.report.add("tokens restored of the toolset", OURS, threads, "tok", tokens)
    warm_up = _speed_question(bench, threads, 32, 4, start=0)
    with bench.subjects(warm_up, among=("llama.cpp",)) as peers:
        for who, peer in peers.items():
            answer = peer.ask("first_token", threads=threads, token_ids=prompt)
            _add_milliseconds(bench, "first token, cold", who, answer["wall"])


def _add_milliseconds(bench: Bench, what: str, who: str, seconds: float) -> None:
    bench.report.add(what, who, bench.options.threads, "ms", 1e3 * seconds)


@contextmanager
def _own_cache() -> Iterator[Path]:
    """A cache folder with the models of the real one and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        (cache / "models").symlink_to(Settings.from_env().models_dir, target_is_directory=True)
        yield cache


# --- a busy machine -------------------------------------------------------------------------------


def _neighbour(bench: Bench) -> None:
    """Speed beside one process that never rests, and in the same round without it."""
    threads, sizes = bench.options.threads, bench.sizes
    num_prompt, num_new = sizes.prompt_tokens // 4, sizes.new_tokens // 2
    warm_up = _speed_question(bench, threads, 32, 4, start=0)
    with bench.subjects(warm_up, among=_EVERYONE) as subjects:
        for index in bench.rounds("neighbour", 3):
            question = _speed_question(bench, threads, num_prompt, num_new, 100 + 37 * index)
            for who, subject in subjects.items():
                alone = subject.ask(**question)
                with _busy_process():
                    beside = subject.ask(**question)
                for what in ("decode", "prefill"):
                    for note, timing in (("alone", alone[what]), ("neighbour", beside[what])):
                        rate = timing["tokens"] / timing["wall"]
                        bench.report.add(f"{what}, {note}", who, threads, "tok/s", rate)
    for who, what in product(_EVERYONE, ("decode", "prefill")):
        beside_row = bench.report.find(f"{what}, neighbour", who, threads, "tok/s")
        alone_row = bench.report.find(f"{what}, alone", who, threads, "tok/s")
        name = f"{who}: {what} beside a busy process"
        bench.report.quotient(name, "alone", beside_row, alone_row, 100)


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


# --- Python and memory ----------------------------------------------------------------------------


def _overhead(bench: Bench) -> None:
    threads = bench.options.threads
    with bench.subject("f1 engine", num_threads=threads) as ours:
        for _ in bench.rounds("overhead", 3):
            for kind in ("text", "call"):
                for size in (1, 16):
                    question = {"kind": kind, "size": size, "num_tokens": bench.sizes.new_tokens}
                    spent = ours.ask("overhead", **question)
                    for part in ("python", "masks"):
                        what = f"{part} per step, {kind} x{size}"
                        bench.report.add(what, OURS, threads, "µs", 1e6 * spent[part])


def _memory(bench: Bench) -> None:
    """What a process holds beyond its imports, the packed weights and the pages of K and V; with
    few enough pages that requests have touched all."""
    threads, kv_memory = bench.options.threads, 2**26
    with bench.subject(OURS) as bare:
        facts = bare.ask("facts", threads=threads)
    settings = {"num_threads": threads, "kv_memory": kv_memory}
    for _ in bench.rounds("memory", 1):
        with bench.subject("f1 engine", **settings) as ours:
            found = ours.ask("memory", num_tokens=bench.sizes.toolset_tokens // 2)
        known = {
            "imports": found["imports"],
            "packed weights": facts["packed_bytes"],
            "K and V": kv_memory,
        }
        parts = {"whole": found["resident"], **known}
        parts["above these"] = found["resident"] - sum(known.values())
        for name, num_bytes in parts.items():
            bench.report.add(f"memory, {name}", OURS, threads, "MB", num_bytes / 1e6)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


_SECTIONS: Mapping[str, Callable[[Bench], None]] = {
    "batch": _batch,
    "call": _call,
    "ttft": _ttft,
    "neighbour": _neighbour,
    "overhead": _overhead,
    "memory": _memory,
}
