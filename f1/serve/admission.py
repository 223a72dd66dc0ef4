"""Who may start now, and who is refused before any work is done for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from f1.errors import Overloaded


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
