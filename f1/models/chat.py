"""Messages → token ids, through the model's own chat template.

What people and tools write reaches the template with a marker character inside every spelling of an
added token (`<|im_end|>` → `<·|im_end|>`). In the rendered text, whole spellings are therefore the
template's own; they become tokens, everything between them is encoded as plain text, and the marker
is taken out again. No text can end its turn or open another role's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.ext import LoopControlExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from f1.errors import InvalidRequest, ModelFileError
from f1.models.tokenizer import Tokenizer
from f1.types import Message

# What a model without a template of its own gets if it knows these two tokens.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's Jinja template. It comes with the weights, never with a request."""

    source: str
    tokenizer: Tokenizer
    _template: Template = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "_template", _environment().from_string(self.source))
        except TemplateError as error:
            raise ModelFileError(f"chat template: {error}") from error

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation and of the opening of the assistant's next turn.

        Only `role` and `content` are used: calls and tools are already text by now. System and
        assistant text may spell added tokens that are not control tokens (`<tool_call>`), for the
        call syntax is made of them; in user and tool text they stay text too.
        Raises InvalidRequest if the template refuses the messages (their number or order).
        """
        marker = _unused_character(message.content for message in messages)
        shown = [
            {"role": message.role, "content": self._protect(message, marker)}
            for message in messages
        ]
        try:
            text = self._template.render(
                messages=shown,
                add_generation_prompt=True,
                bos_token=self.tokenizer.bos_token,
                eos_token=self.tokenizer.eos_token,
                tools=None,
            )
        except Exception as error:  # templates are foreign code; they raise what they like
            refusal = f"the model's chat template refuses these messages: {error}"
            raise InvalidRequest(refusal, param="messages") from error
        return self.tokenizer.encode_prompt(text, marker)

    def _protect(self, message: Message, marker: str) -> str:
        if message.role in ("system", "assistant"):
            return self.tokenizer.protect_control(message.content, marker)
        return self.tokenizer.protect(message.content, marker)


def template_or_default(template: object, tokenizer: Tokenizer) -> str:
    """The file's own template; without one, ChatML where the tokenizer knows it."""
    if isinstance(template, str) and template:
        return template
    if all(tokenizer.token_id(token) is not None for token in ("<|im_start|>", "<|im_end|>")):
        return CHATML
    raise ModelFileError("no chat template in the file, and the tokenizer does not know ChatML")


def _environment() -> ImmutableSandboxedEnvironment:
    """As the templates of the hub expect it: `raise_exception`, `tojson` that leaves text as it is,
    block lines trimmed, `break` and `continue`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension]
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = _to_json
    return environment


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _unused_character(texts: Iterable[str]) -> str:
    used = set().union(*map(set, texts))
    for code in _PRIVATE_USE:
        if chr(code) not in used:
            return chr(code)
    raise InvalidRequest("the messages use every private-use character", param="messages")
