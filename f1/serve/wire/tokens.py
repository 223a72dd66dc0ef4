"""The bodies of /tokenize and /detokenize: text or a conversation to token ids, and back.

Fields are vLLM's; `parse_special` is llama.cpp's, but false unless said: text stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from f1.config import ORCHESTRATED
from f1.serve.limits import Limits
from f1.serve.wire import bodies
from f1.serve.wire.fields import Fields
from f1.serve.wire.messages import parse_messages
from f1.serve.wire.request import parse_tool
from f1.serve.wire.shape import Flag, Integer, Items, Record, Text
from f1.types import GenerateRequest

_MAX_TOKENS = 1 << 16


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """Text, in which `parse_special` takes spellings of added tokens for those tokens, or a
    request whose prompt it is about. `leads`: with the tokens that the model wants in front of any
    text. `strings`: the answer also shows each token as text."""

    model: str
    prompt: str | GenerateRequest
    parse_special: bool = False
    leads: bool = True
    strings: bool = False


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    model: str
    token_ids: Sequence[int]


@cache
def tokenize_body(limits: Limits) -> Record:
    """POST /tokenize."""
    chat = bodies.chat(limits).fields
    shared = ("model", "messages", "tools", "parallel_tool_calls")
    flags = ("add_special_tokens", "parse_special", "return_token_strs")
    return Record(
        {name: chat[name] for name in shared} | {"prompt": Text()} | dict.fromkeys(flags, Flag())
    )


@cache
def detokenize_body(limits: Limits) -> Record:
    """POST /detokenize."""
    tokens = Items(Integer(0, bodies.MAX_INT), 0, _MAX_TOKENS)
    return Record({"model": Text(1, limits.max_name_chars), "tokens": tokens}, ("tokens",))


def parse_tokenize_request(body: object, limits: Limits) -> TokenizeRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    tokenize_body(limits).check(body, "")
    fields = Fields(body)
    prompt, leads = fields.string("prompt"), fields.boolean("add_special_tokens") is not False
    special = fields.boolean("parse_special") or False
    if fields.has("messages") == (prompt is not None):
        raise fields.refuse("prompt", "or 'messages' must be given, and not both")
    if prompt is not None and fields.has("tools"):
        raise fields.refuse("tools", "is only allowed with 'messages'")
    if prompt is None and special:  # there the template says which tokens are in it
        raise fields.refuse("parse_special", "is only allowed with 'prompt'")
    strings = fields.boolean("return_token_strs") or False
    asked = _parse_prompt(fields, limits) if prompt is None else prompt
    return TokenizeRequest(fields.string("model") or ORCHESTRATED, asked, special, leads, strings)


def _parse_prompt(fields: Fields, limits: Limits) -> GenerateRequest:
    return GenerateRequest(
        parse_messages(fields, limits),
        tuple(map(parse_tool, fields.objects("tools", limits.max_tools))),
        parallel_tool_calls=fields.boolean("parallel_tool_calls") is not False,
    )


def parse_detokenize_request(body: object, limits: Limits) -> DetokenizeRequest:
    """Raises InvalidRequest naming the first field that is wrong."""
    detokenize_body(limits).check(body, "")
    fields = Fields(body)
    return DetokenizeRequest(
        fields.string("model") or ORCHESTRATED, fields.array("tokens", _MAX_TOKENS)
    )


def write_tokens(
    token_ids: Sequence[int], context_length: int, strings: Sequence[str] | None
) -> dict[str, Any]:
    body = {"count": len(token_ids), "max_model_len": context_length, "tokens": list(token_ids)}
    return body if strings is None else body | {"token_strs": list(strings)}
