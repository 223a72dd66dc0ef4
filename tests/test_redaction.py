"""Secrets are taken out of what is written down, and nothing else is."""

from __future__ import annotations

import json
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import re2
from planted import CONTEXTS, SHAPES, planted

from f1.config import RemoteModel
from f1.planning.content import write_output
from f1.planning.summary import about
from f1.tools.spec import Output
from f1.trace.entries import CODEC
from f1.trace.known import known_values, open_redaction
from f1.trace.redaction import MAX_LEARNT, Redaction, is_marked, read_key
from f1.types import (
    ArgumentsDelta,
    CallDelta,
    GenerateRequest,
    Message,
    Node,
    ReasoningDelta,
    Ref,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
)

KEY = b"k" * 32


@pytest.fixture
def redaction() -> Redaction:
    known = {"hunter-of-2": "environment", 'w"1rd\\v/lue é': "header"}
    return Redaction(KEY, fields=["card_number"], values=known)


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


KINDS = len(SHAPES) * 5 + len(CONTEXTS) * 5


@pytest.mark.parametrize("place", ["text", "message", "result", "arguments", "pieces"])
def test_every_kind_however_it_is_carried(redaction: Redaction, place: str) -> None:
    for each in planted(KINDS, seed=1):
        assert each.spelled in each.text
        wrapped: Any = each.text
        if place == "message":
            wrapped = CODEC.encode(Message("user", each.text))
        elif place == "result":
            call = ToolCall("1", "f", "{}")
            wrapped = CODEC.encode(ToolResult(call, each.text, None, 0, 0, value=[each.text]))
        elif place == "arguments":
            wrapped = CODEC.encode(ToolCall("1", "f", json.dumps({"text": each.text})))
        elif place == "pieces":
            pieces = [each.text[at : at + 3] for at in range(0, len(each.text), 3)]
            events = [CODEC.encode(TextDelta(0, piece)) for piece in pieces]
            wrapped = {"is": "Turned", "events": events, "token_ids": ["AAAA"]}
        run = redaction.for_run()
        clean = run.redact(wrapped)
        told = dumped(clean)
        if place == "pieces":
            told = "".join(event["text"] for event in clean["events"])
            assert "token_ids" not in clean
        assert each.spelled not in told, each.kind
        assert each.secret not in told, each.kind
        assert is_marked(told)
        # Redacting it again changes nothing: here, and where it is read back.
        assert run.redact(clean) == clean
        assert redaction.redact(clean) == clean
        assert redaction.for_run().redact(clean) == clean


def test_a_field_is_hidden_by_its_name(redaction: Redaction) -> None:
    secret = {"card_number": 4111, "cardNumber": "4-1", "X-Api-Key": "pq", "password": ["xy"]}
    fine = {
        "max_tokens": 5,
        "token_ids": [1, 2],
        "prompt_tokens": 7,
        "secretary": "Ann",
        "is": "Ref",
    }
    fine |= {"next_page_token": "p2", "password": None, "secret": True, "keys": "k"}
    for given in (secret | {"in": dumped(secret)}, {"deep": [dumped({"deeper": secret})]}):
        told = dumped(redaction.redact(CODEC.encode(given)))
        assert not any(value in told for value in ("4111", "4-1", "pq", "xy"))
    assert redaction.redact(CODEC.encode(fine)) == CODEC.encode(fine)
    args = CODEC.encode(Node("1", "f", {"token": Ref("2", "token"), "n": 1}))
    assert redaction.redact(args) == args


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 100, prompt_tokens=4000 and token_ids: 12ab34cd of 128 tokens",
        "The token is the smallest unit. A secret is shared; the password is required.",
        '{"password": {"type": "string", "description": "of the account", "minLength": 8}}',
        "the task-list-of-2024-for-all and risk-adjusted-return-2024-of-funds",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709, sha256 of it: " + "0a1b" * 16,
        "https://example.com/flights?from=NBO&to=ZNZ&key_date=2026 at http://host:8000/v1",
        "token = get_token(), password: str, api_key: ${API_KEY}, Authorization: required",
        json.dumps([{"id": f"{n:032x}", "time_to_first_token": 0.2} for n in range(9)]),
        "Basic needs and bearer certificates, e.g. cookies. /usr/share/Documentation/Readme1/INDEX",
    ],
)
def test_what_is_no_secret_stays(redaction: Redaction, text: str) -> None:
    assert redaction.for_run().text(text) == text
    call = CODEC.encode(ToolResult(ToolCall("1", "f", "{}"), text, None, 0, 0, value=text))
    assert redaction.redact(call) == call


def test_a_known_value_is_hidden_however_it_is_spelled(redaction: Redaction) -> None:
    for value in ("hunter-of-2", 'w"1rd\\v/lue é'):
        once = json.dumps({"a": value})
        for text in (value, f"x{value}x", once, json.dumps(once), json.dumps(json.dumps(once)),
                     repr({"a": value}), value.encode().hex()):  # fmt: skip
            clean = redaction.text(text)
            assert is_marked(clean)
            assert not any(part in clean for part in ("hunter", "1rd", value.encode().hex())), text


@pytest.mark.parametrize(
    "secret", ["hunter-of-2", "sk-proj-abcDEF1234567890abcdEF", "ghp_" + "aB3" * 12]
)
def test_half_a_secret_is_hidden_where_a_text_was_cut(redaction: Redaction, secret: str) -> None:
    for size in range(9, len(secret)):
        text, cut = write_output(Output(f"it is {secret} and more"), 6 + size)
        assert cut
        assert secret[:9] in text
        assert secret[:9] not in redaction.text(text)
    asked = GenerateRequest((Message("user", f"{'word ' * 38}{secret} x"),))
    assert about(asked)["question"].endswith("word")


def test_what_a_secret_field_held_is_hidden_from_then_on(redaction: Redaction) -> None:
    run = redaction.for_run()
    schema = {"type": "object", "properties": {"pin": {"type": "string", "writeOnly": True}}}
    request = GenerateRequest((Message("user", "hi"),), (Tool("login", "", schema),))
    assert run.redact(CODEC.encode(request)) == CODEC.encode(request)
    call = run.redact(CODEC.encode(ToolCall("1", "login", '{"pin": "12-ab-34"}')))
    assert "12-ab-34" not in dumped(call)
    result = run.redact(CODEC.encode(Message("tool", "no user has 12-ab-34", tool_call_id="1")))
    mark = json.loads(call["arguments"])["pin"]
    assert result["content"] == f"no user has {mark}"  # equal secrets stay comparable
    # Another run's tools say nothing of that.
    assert "12-ab-34" in dumped(
        redaction.for_run().redact(CODEC.encode(Message("user", "12-ab-34")))
    )


def test_many_secrets_cost_few_patterns(
    redaction: Redaction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is found wherever it is told again; past a bound, in its place alone."""
    compiled: list[str] = []
    compile_ = re2.compile
    monkeypatch.setattr(re2, "compile", lambda *a: (compiled.append(a[0]), compile_(*a))[1])
    run, values = redaction.for_run(), [f"Tok{n:05d}-zq" for n in range(MAX_LEARNT + 50)]
    rows = dumped([{"token": value} for value in values])
    clean = run.redact(rows)
    assert clean.count("[redacted:token#") == len(values)
    assert not any(value in clean for value in values)
    assert 1 <= len(compiled) <= 8
    again = [run.redact(f"it said {value} then") for value in values]
    assert [value in told for value, told in zip(values, again, strict=True)] == [
        n >= MAX_LEARNT for n in range(len(values))
    ]
    assert len(compiled) <= 8


def test_a_runs_texts_keep_their_form_without_being_kept(redaction: Redaction) -> None:
    run, first = redaction.for_run(), "told before: Tok00001-zq"
    assert run.redact(first) == first
    run.redact(dumped({"token": "Tok00001-zq"}))
    assert run.redact(first) == first
    assert "Tok00001-zq" not in run.redact(first + "!")
    tracemalloc.start()
    try:
        for n in range(100):
            run.redact(f"text {n} " * 10_000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


@pytest.mark.parametrize("levels", [600, 100_000])
def test_deep_json_is_read_as_text(redaction: Redaction, levels: int) -> None:
    deep = '{"a":' * levels + '{"password": "hunter-77"}' + "}" * levels
    clean = redaction.for_run().redact(deep)
    assert "hunter-77" not in clean
    assert clean.count('{"a":') == levels


def test_a_turn_without_secrets_stays_and_one_with_loses_its_tokens(redaction: Redaction) -> None:
    def turn(*pieces: str) -> dict[str, Any]:
        events: list[Any] = [TextDelta(0, p, (TokenLogprob(p, -1.0, p.encode()),)) for p in pieces]
        events += [ReasoningDelta(0, p) for p in pieces]
        events += [ArgumentsDelta(0, 0, p) for p in ('{"pass', 'word":', '"ab"', "}")]
        events.append(CallDelta(0, 0, ToolCall("1", "f", '{"password":"ab"}')))
        told = CODEC.encode(events[: 2 * len(pieces)] if pieces[0] else events)
        ids = {"prompt_ids": "AAAA", "token_ids": ["BBBB"], "asked": {"n": 2}}
        return {"is": "Turned", "events": told, **ids}

    fine = turn("a", " plain", " one")
    assert redaction.redact(fine) == fine
    given = turn("It", " is", " sk", "-proj", "-ab1", "CD2" * 6, " so", " there")
    clean = redaction.redact(given)
    texts = [e["text"] for e in clean["events"] if e["is"] == "TextDelta"]
    assert texts[:2] + texts[-2:] == ["It", " is", " so", " there"]
    assert not any(gone in dumped(clean) for gone in ("logprobs", "AAAA", "BBBB"))
    assert "prompt_ids" in clean["asked"]["redacted"]
    called = redaction.redact(turn(""))
    assert '\\"ab\\"' not in dumped(called)
    # The prompt of a later turn has what an earlier entry had.
    run = redaction.for_run()
    assert run.redact(fine) == fine
    run.redact(CODEC.encode(Message("user", "password=hunter22")))
    assert "prompt_ids" not in run.redact(fine)


def test_what_the_operator_says_is_known(tmp_path: Path) -> None:
    said = {
        "tools": {
            "w": {"http": {"headers": {"Authorization": "Token ${W}", "Accept": "text/json"}}}
        },
        "models": {"big": RemoteModel("https://me:pw-of-9@host/v1", "m", "BIG")},
        "workers": {"environment": ["LANG", "BLOB"]},
    }
    env = {
        "W": "w-secret",
        "BIG": "big-secret-1",
        "BLOB": "blob77secret",
        "PGPASSWORD": "pg-secret",
    }
    env |= {"F1_API_KEYS": "ann:anns-key,bobs-key", "LANG": "C", "HOME": "/root/x9"}
    found = known_values(said, env)
    secrets = "w-secret big-secret-1 blob77secret pg-secret anns-key bobs-key pw-of-9".split()
    assert {*secrets, "Token w-secret"} <= found.keys()
    assert not found.keys() & {"text/json", "C", "/root/x9", "host", "m"}
    redaction = open_redaction(tmp_path / "redaction.key", (), said, env)
    told = redaction.text(" and ".join(found))
    assert not any(secret in told for secret in secrets)
    # Where no key can be kept there is one of this process.
    (tmp_path / "file").touch()
    other = open_redaction(tmp_path / "file" / "redaction.key", (), said, env)
    assert is_marked(other.text("w-secret")) != (
        other.text("w-secret") == redaction.text("w-secret")
    )


def test_the_key_is_ours_alone_and_made_once(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "redaction.key"
    key = read_key(file)
    assert len(key) == 32
    assert read_key(file) == key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    one, other = Redaction(key), Redaction(bytes(32))
    assert one.text("password=abc-1") == one.text("password=abc-1") != other.text("password=abc-1")
    file.write_bytes(b"short")
    with pytest.raises(OSError, match="no key"):
        read_key(file)
