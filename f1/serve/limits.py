"""How much one client may ask for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from f1.errors import Overloaded


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a request and on the server. Sizes in bytes, counts in items."""

    max_body_bytes: int = 4 << 20
    max_messages: int = 2048
    max_parts: int = 256
    max_tools: int = 512
    max_calls_per_message: int = 128
    max_choices: int = 32
    max_stop_chars: int = 256
    max_logit_bias: int = 1024
    max_choices_in_flight: int = 256


class Admission:
    """Counts the choices being decoded and refuses more than there is room for."""

    def __init__(self, limit: int):
        self.limit = limit
        self.in_flight = 0

    @contextmanager
    def reserve(self, num_choices: int) -> Iterator[None]:
        """Holds room for `num_choices`. Taken before the work starts, so a burst is refused at
        once rather than after each request was prepared. Raises Overloaded."""
        if self.in_flight + num_choices > self.limit:
            raise Overloaded(
                f"{self.in_flight} choices are being decoded, the limit is {self.limit}"
            )
        self.in_flight += num_choices
        try:
            yield
        finally:
            self.in_flight -= num_choices
