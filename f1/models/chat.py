"""Messages → token ids, through the model's own chat template.

What people and tools write reaches the template with a marker character inside every spelling of an
added token (`<|im_end|>` → `<·|im_end|>`). In the rendered text, whole spellings are therefore the
template's own; they become tokens, everything between them is encoded as plain text, and the marker
is taken out again. No text can end its turn or open another role's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from f1.errors import InvalidRequest, ModelFileError
from f1.models.foreign import ForeignTemplate
from f1.models.rendering import environment
from f1.models.tokenizer import Tokenizer
from f1.types import Message

# What a model without a template of its own gets if it knows these two tokens.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# sha256 of the templates of the catalogue's models, and of CHATML: read by us, they are rendered
# right here. All others come from files that somebody has made.
_KNOWN = frozenset(
    [
        "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",  # SmolLM2
        "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f",  # Qwen2.5-Coder 0.5b
        "d5495a1e5db0611132a97e46a65dbb64a642a499421228b9c8b93229097fa9a4",  # Qwen2.5-Coder 1.5b
        hashlib.sha256(CHATML.encode()).hexdigest(),
    ]
)

# What a template may write: all that it is given a few times over, and words of its own.
_WORDS = 65_536  # characters
_WORDS_A_MESSAGE = 1_000
_REPEATS = 4

_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's Jinja template. It comes with the weights, never with a request."""

    source: str
    tokenizer: Tokenizer
    _render: Callable[[Mapping[str, Any], int], str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "_render", _renderer(self.source))
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
        arguments = {
            "messages": shown,
            "add_generation_prompt": True,
            "bos_token": self.tokenizer.bos_token,
            "eos_token": self.tokenizer.eos_token,
            "tools": None,
        }
        given = sum(len(message["content"]) for message in shown)
        limit = _WORDS + _WORDS_A_MESSAGE * len(shown) + _REPEATS * given
        try:
            text = self._render(arguments, limit)
        except Exception as error:  # templates are foreign code; they raise what they like
            refusal = f"the model's chat template refuses these messages: {error}"
            raise InvalidRequest(refusal, param="messages") from error
        return self.tokenizer.encode_prompt(text, marker)

    def _protect(self, message: Message, marker: str) -> str:
        if message.role in ("system", "assistant"):
            return self.tokenizer.protect_control(message.content, marker)
        return self.tokenizer.protect(message.content, marker)


def _renderer(source: str) -> Callable[[Mapping[str, Any], int], str]:
    if hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest() not in _KNOWN:
        return ForeignTemplate(source).render
    template = environment().from_string(source)
    return lambda arguments, limit: template.render(arguments)


def template_or_default(template: object, tokenizer: Tokenizer) -> str:
    """The file's own template; without one, ChatML where the tokenizer knows it."""
    if isinstance(template, str) and template:
        return template
    if all(tokenizer.token_id(token) is not None for token in ("<|im_start|>", "<|im_end|>")):
        return CHATML
    raise ModelFileError("no chat template in the file, and the tokenizer does not know ChatML")


def _unused_character(texts: Iterable[str]) -> str:
    used = set().union(*map(set, texts))
    for code in _PRIVATE_USE:
        if chr(code) not in used:
            return chr(code)
    raise InvalidRequest("the messages use every private-use character", param="messages")
