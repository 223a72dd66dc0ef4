"""How much one client may ask for, checked before any work is done; and what it need not say."""

from __future__ import annotations

from dataclasses import dataclass, field

from f1.types import RunOptions


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a request and on the server: bytes, items, characters. Which field has which bound
    is in f1.serve.wire.bodies."""

    max_body_bytes: int = 4 << 20
    max_bodies_bytes: int = 64 << 20  # of all that are being received
    max_head_bytes: int = 64 << 10
    max_headers: int = 100
    max_url_bytes: int = 8 << 10
    max_messages: int = 2048
    max_parts: int = 256
    max_tools: int = 512
    max_toolset: int = 8192  # tools of a registered set
    max_toolset_bytes: int = 16 << 20  # of the body that registers it
    max_registered_bytes: int = 32 << 20  # of tools that one tenant has registered
    max_calls_per_message: int = 128
    max_choices: int = 32
    max_prompts: int = 16  # in one request
    max_prompt_tokens: int = 1 << 18  # given as ids
    max_stop_chars: int = 256
    max_logit_bias: int = 1024
    max_name_chars: int = 256  # ids of calls, names of models, people, tools in the history
    max_description_chars: int = 1 << 16
    max_pattern_chars: int = 4096
    max_grammar_chars: int = 1 << 16
    max_embedding_inputs: int = 2048
    max_embedding_tokens: int = 1 << 16  # of all inputs; some 20 s of one core
    # Choices decoded side by side: what fills the engine's batch, and a few that are made ready
    # meanwhile. What is beyond waits.
    max_running: int = 36
    max_queued: int = 256  # requests that wait; one tenant may have as many as it leaves free
    max_queued_tokens: int = 2**20  # of those, as estimated
    default_timeout: float = 600.0  # seconds for a request that does not say
    min_timeout: float = 0.001  # seconds that it may say
    max_timeout: float = 3600.0
    # What a request to `f1` need not say. (Not compared: what is made for a table of fields is
    # found again by its bounds.)
    defaults: RunOptions = field(default_factory=RunOptions, compare=False)
