"""How much one client may ask for, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a request and on the server: bytes, items, characters. Which field has which bound
    is in f1.serve.wire.bodies."""

    max_body_bytes: int = 4 << 20
    max_messages: int = 2048
    max_parts: int = 256
    max_tools: int = 512
    max_calls_per_message: int = 128
    max_choices: int = 32
    max_stop_chars: int = 256
    max_logit_bias: int = 1024
    max_choices_in_flight: int = 256
    max_name_chars: int = 256  # ids of calls, names of models, people, tools in the history
    max_description_chars: int = 1 << 16
    max_pattern_chars: int = 4096
    max_grammar_chars: int = 1 << 16
