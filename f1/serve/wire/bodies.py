"""The table of bounds: what each API's body may hold. It is checked before any work is done for the
body, published as the OpenAPI document, and tested field by field (tests/test_bounds.py).

Ranges and nulls follow openai-openapi 2.3.0.
"""

from __future__ import annotations

from functools import cache

from f1.serve.limits import Limits
from f1.serve.wire import runs
from f1.serve.wire.shape import (
    Either,
    Flag,
    Free,
    Integer,
    Items,
    Keyed,
    Number,
    Record,
    Shape,
    Tagged,
    Text,
    Unsupported,
    Word,
    tagged,
)

INT64 = 2**63
MAX_INT = 2**31 - 1
TOOL_NAME = Text(1, 64, "[A-Za-z0-9_-]{1,64}", "1 to 64 of A-Z, a-z, 0-9, '_' and '-'")
_TOKEN_IDS = Text(1, 10, "[0-9]{1,10}", "token ids")
_LABEL = Text(0, 512)  # what is taken and does nothing


@cache
def chat(limits: Limits) -> Record:
    """POST /v1/chat/completions."""
    return Record(
        {
            "model": Text(1, limits.max_name_chars),
            "messages": Items(_message(limits), 0, limits.max_messages),
            "tools": Items(tool(limits), 0, limits.max_tools),
            "tool_choice": _tool_choice(limits),
            "parallel_tool_calls": Flag(),
            "response_format": _response_format(limits),
            "max_completion_tokens": Integer(1, MAX_INT),
            "max_tokens": Integer(1, MAX_INT),
            "stop": stop(limits, 4),
            "n": Integer(1, limits.max_choices),
            "stream": Flag(),
            "stream_options": Record({"include_usage": Flag(), "include_obfuscation": Flag()}),
            "logprobs": Flag(),
            "top_logprobs": Integer(0, 20),
            "f1": own(limits),
            "timeout": timeout(limits),
        }
        | sampling(limits)
        | ignored()
        | dict.fromkeys(
            ("audio", "function_call", "functions", "modalities", "prediction",
             "web_search_options"),
            Unsupported(),
        ),
        required=("model", "messages"),
    )  # fmt: skip


def sampling(limits: Limits) -> dict[str, Shape]:
    """OpenAI's, and `top_k`, `min_p` and `repetition_penalty`."""
    return {
        "temperature": Number(0, 2),
        "top_k": Integer(0, MAX_INT),
        "top_p": Number(0, 1),
        "min_p": Number(0, 1),
        "repetition_penalty": Number(0.01, 10),
        "presence_penalty": Number(-2, 2),
        "frequency_penalty": Number(-2, 2),
        "seed": Integer(-INT64, INT64 - 1),
        "logit_bias": Keyed(_TOKEN_IDS, Number(-100, 100), limits.max_logit_bias),
    }


def ignored() -> dict[str, Shape]:
    """Taken because clients send them; they do not change what is decoded."""
    labels = (
        "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "safety_identifier",
        "service_tier", "user", "verbosity",
    )  # fmt: skip
    metadata = Keyed(Text(0, 64), Text(0, 512), 16)
    return {"metadata": metadata, "store": Flag()} | dict.fromkeys(labels, _LABEL)


def own(limits: Limits) -> Record:
    """F1's own options, in every API; f1.serve.wire.request.Own and f1.types.RunOptions say what
    they do."""
    switches = dict.fromkeys(("eager_arguments", "masked_mass", "repair_history"), Flag())
    return Record(switches | runs.options(limits))


def timeout(limits: Limits) -> Number:
    """Seconds in which the answer has to be there: F1's own, in every API that decodes."""
    return Number(limits.min_timeout, limits.max_timeout)


def stop(limits: Limits, at_most: int) -> Either:
    text = Text(1, limits.max_stop_chars)
    return Either((text, Items(text, 0, at_most)))


def _message(limits: Limits) -> Tagged:
    """Open: clients send back messages with all that servers had put in."""
    name = Text(0, limits.max_name_chars)
    texts = {"text": Record({"text": Text()}, ("text",), open=True)}
    refusals = {"refusal": Record({"refusal": Text()}, ("refusal",), open=True)}
    content = Either((Text(), Items(tagged("type", texts | refusals), 0, limits.max_parts)))
    spoken = Record({"content": content, "name": name}, ("content",), open=True)
    assistant: dict[str, Shape] = {
        "content": content,
        "name": name,
        "refusal": Text(),
        "reasoning_content": Text(),
        "tool_calls": Items(_call(limits), 0, limits.max_calls_per_message),
        "function_call": Unsupported(),
    }
    result = {"content": content, "tool_call_id": Text(1, limits.max_name_chars)}
    return tagged(
        "role",
        {
            "developer": spoken,
            "system": spoken,
            "user": spoken,
            "assistant": Record(assistant, open=True),
            "tool": Record(result, ("tool_call_id", "content"), open=True),
        },
    )


def _call(limits: Limits) -> Record:
    name = Text(1, limits.max_name_chars)
    function = Record({"name": name, "arguments": Text()}, ("name",), open=True)
    fields: dict[str, Shape] = {"id": name, "type": Word(("function",)), "function": function}
    return Record(fields, ("type", "function", "id"), open=True)


def function(limits: Limits, name: Text = TOOL_NAME) -> dict[str, Shape]:
    """What a tool is called and what it takes. Whether the schema is a good one is f1.calling's to
    say."""
    description = Text(0, limits.max_description_chars)
    return {"name": name, "description": description, "parameters": Free(), "strict": Flag()}


def tool(limits: Limits) -> Record:
    described = Record(function(limits), ("name",), open=True)
    fields: dict[str, Shape] = {"type": Word(("function",)), "function": described}
    return Record(fields, ("type", "function"), open=True)


def _tool_choice(limits: Limits) -> Either:
    """allowed_tools: the specification nests its fields under that name; older SDKs do not."""
    named = Record({"function": Record({"name": TOOL_NAME}, ("name",), open=True)}, ("function",))
    function = tagged("type", {"function": named})
    fields: dict[str, Shape] = {
        "mode": Word(("auto", "required")),
        "tools": Items(function, 0, limits.max_tools),
    }
    allowed = Record(fields | {"allowed_tools": Record(fields)})
    choices = tagged("type", {"function": named, "allowed_tools": allowed})
    return Either((Word(("auto", "none", "required")), choices))


def _response_format(limits: Limits) -> Tagged:
    fields: dict[str, Shape] = {
        "name": Text(1, limits.max_name_chars),
        "description": Text(0, limits.max_description_chars),
        "schema": Free(),
        "strict": Flag(),
    }
    return tagged(
        "type",
        {
            "text": Record({}),
            "json_object": Record({}),
            "json_schema": Record({"json_schema": Record(fields, ("name",))}, ("json_schema",)),
            "regex": Record({"pattern": Text(1, limits.max_pattern_chars)}, ("pattern",)),
            "ebnf": Record({"grammar": Text(1, limits.max_grammar_chars)}, ("grammar",)),
        },
    )
