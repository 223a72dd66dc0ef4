"""`f1 bench`: that every section runs and that its figures are made of what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from test_cli import run

from f1 import _core
from f1.bench.command import parse_sections
from f1.bench.report import Report
from f1.bench.run import SECTIONS, find_peers
from f1.bench.subject import Subject, SubjectFailed
from f1.bench.work import Costs, call, prompt_tokens, text_tokens, toolset
from f1.errors import InvalidRequest
from f1.models.load import load_checkpoint


@pytest.fixture(scope="module")
def found(smollm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a quick run of everything, without peers."""
    path = tmp_path_factory.mktemp("bench") / "found.json"
    arguments = ["--quick", "--peer", "none", "--threads", "2", "--json", str(path)]
    done = run("bench", "-m", "smollm2-135m", *arguments)
    assert "quotient of medians" in done.stdout
    return json.loads(path.read_text())


def value(found: dict[str, Any], what: str, threads: int = 2, unit: str | None = None) -> float:
    key = (what, "machine" if what == "memory read" else "f1", threads)
    rows = [
        row
        for row in found["rows"]
        if (row["what"], row["who"], row["threads"]) == key and unit in (None, row["unit"])
    ]
    assert len(rows) == 1, (what, rows)
    return rows[0]["median"]


def test_a_run_says_where_and_how_it_was_made(found: dict[str, Any]) -> None:
    assert "bench -m smollm2-135m --quick" in found["command"]
    assert found["machine"]
    assert found["settings"]["sections"] == list(SECTIONS)
    assert found["settings"]["threads"] == 2
    assert found["model"]["file_bytes"] == pytest.approx(98e6, rel=0.02)


def test_rows_are_medians_of_their_values(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        assert row["median"] == median(row["values"])
        assert (row["min"], row["max"]) == (min(row["values"]), max(row["values"]))
        assert row["min"] > 0 or row["what"].startswith(("python", "masks", "memory, above"))


def test_every_section_has_its_rows(found: dict[str, Any]) -> None:
    for what in ("decode", "prefill"):
        value(found, what)
        value(found, what, threads=1, unit="tok/s")
        value(found, what, threads=1, unit="tok/CPU s")
        value(found, f"{what}, neighbour")
    for size in (1, 4, 16):
        value(found, f"decode x{size}")
    for kind in ("text", "call"):
        for size in (1, 16):
            value(found, f"python per step, {kind} x{size}")
            value(found, f"masks per step, {kind} x{size}")
    value(found, "call", threads=1, unit="CPU ms")
    value(found, "free text", threads=1, unit="tok/CPU s")
    value(found, "engine start")
    value(found, "first token, cold")
    value(found, "first token, cold, toolset kept")
    value(found, "first token, warm")


def test_a_kept_toolset_is_found_by_another_process(found: dict[str, Any]) -> None:
    assert value(found, "tokens restored of the toolset") > 350


def test_quotients_are_of_the_medians(found: dict[str, Any]) -> None:
    derived = {(d["what"], d["threads"]): d for d in found["derived"]}
    token_bytes = found["model"]["decode_bytes_per_token"]
    share = 100 * value(found, "decode") * token_bytes / 1e9 / value(found, "memory read")
    assert derived["f1: decode", 2]["value"] == pytest.approx(share)
    together = derived["f1: decode x4", 2]
    assert together["unit"] == "x"
    assert together["value"] == value(found, "decode x4") / value(found, "decode x1")
    kept = derived["f1: decode beside a busy process", 2]["value"]
    assert kept == pytest.approx(
        100 * value(found, "decode, neighbour") / value(found, "decode, alone")
    )


def test_the_call_is_whole_and_its_tokens_are_counted(found: dict[str, Any]) -> None:
    for who in ("f1", "f1 plain"):
        note = next(note for note in found["notes"] if note.startswith(f"call of {who}: "))
        assert json.loads(note.removeprefix(f"call of {who}: "))["origin"] == "Lisbon"
    tokens = value(found, "call length")
    assert 40 < tokens < 100
    whole = value(found, "call", unit="ms")
    assert value(found, "call", unit="ms/tok") == pytest.approx(whole / tokens)


def test_memory_adds_up(found: dict[str, Any]) -> None:
    parts = ("imports", "packed weights", "K and V", "above these")
    assert value(found, "memory, whole") == pytest.approx(
        sum(value(found, f"memory, {part}") for part in parts)
    )


# --- without a model's run ----------------------------------------------------------------------


def test_costs_are_those_of_the_file() -> None:
    costs = Costs.of(load_checkpoint("smollm2-135m"))
    # 30 layers: q and o 576², k and v 192·576, gate, up and down 1536·576; the head is tied.
    assert costs.prefill_macs == 30 * (2 * 576**2 + 2 * 192 * 576 + 3 * 1536 * 576)
    assert costs.head_bytes == 49152 * 576 // 32 * 34  # Q8_0
    assert costs.file_bytes - costs.matrix_bytes == 576 * 4  # the last norm
    assert costs.embed_bytes == 0


def test_prompts_are_as_long_as_asked_and_begin_apart() -> None:
    checkpoint = load_checkpoint("smollm2-135m")
    first, second = (text_tokens(checkpoint, 9000, start) for start in (100, 137))
    assert len(first) == len(second) == 9000
    assert first[:8] != second[:8]
    assert len(toolset(checkpoint, 300)) < len(toolset(checkpoint, 2000)) <= 32
    text = b"".join(map(checkpoint.tokenizer.token_bytes, prompt_tokens(checkpoint, call(0))))
    assert text.rstrip().endswith(b'"book_flight", "arguments":')


def test_no_two_rounds_ask_the_same() -> None:
    calls = {call(index).messages[0].content for index in (*range(16), 90, 91)}
    assert len(calls) == 18


def test_a_peer_is_compared_the_right_way_round() -> None:
    report = Report()
    for who, rate, milliseconds in (("f1", 30.0, 5.0), ("peer", 10.0, 20.0)):
        for noise in (0.0, 1.0, -1.0):
            report.add("decode", who, 2, "tok/s", rate + noise)
        report.add("call", who, 2, "ms", milliseconds)
        report.add("call", who, 1, "ms", milliseconds if who == "f1" else 5.0)
    report.compare()
    assert [(d.what, d.of, d.threads, d.value) for d in report.derived] == [
        ("decode, tok/s", "peer", 2, 3.0),
        ("call, ms", "peer", 2, 4.0),
        ("call, ms", "peer", 1, 1.0),
    ]


def test_ceilings_count_what_the_threads_did() -> None:
    assert len(_core.read_bandwidth(2, num_bytes=2**22, num_passes=3)) == 3
    assert all(rate > 0 for rate in _core.read_bandwidth(1, num_bytes=2**22))
    rate = _core.dot_rate(1, num_rounds=1000)
    assert rate is None or rate > 0
    with pytest.raises(_core.InvalidArgument, match="too few"):
        _core.read_bandwidth(2, num_bytes=8)


def test_what_is_asked_for_must_exist(tmp_path: Path) -> None:
    assert parse_sections(None) == SECTIONS
    assert parse_sections("call, decode") == ("call", "decode")
    with pytest.raises(InvalidRequest, match="no section 'speed'"):
        parse_sections("speed")
    assert find_peers(["none"]) == {}
    assert find_peers([f"openvino={tmp_path}"]) == {"openvino": tmp_path}
    with pytest.raises(InvalidRequest, match="no peer 'vllm'"):
        find_peers(["vllm"])
    with pytest.raises(InvalidRequest, match="not a folder"):
        find_peers(["llama.cpp=nowhere"])


def test_a_peer_that_is_not_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("print('hello')\nraise ImportError('half installed')")
    with (
        Subject("llama.cpp", "none.gguf", folder=tmp_path) as subject,
        pytest.raises(SubjectFailed, match=r"llama.cpp: ImportError: half installed"),
    ):
        subject.ask("speed")


def test_a_subject_that_dies_says_why(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("import os, sys\nprint('no luck')\nos._exit(3)")
    with (
        Subject("llama.cpp", "none.gguf", folder=tmp_path) as subject,
        pytest.raises(SubjectFailed, match=r"llama.cpp stopped: no luck"),
    ):
        subject.ask("speed")


def test_nothing_of_a_peer_is_imported_by_the_command() -> None:
    import f1.bench.command

    assert f1.bench.command.SECTIONS
    assert not {"llama_cpp", "openvino_genai"} & sys.modules.keys()
