"""Wall and processor time of a piece of work, and how many tokens it made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Instant:
    """Seconds since some moment; `cpu` counts every thread of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Instant:
        return cls(time.perf_counter(), time.process_time())

    def until(self, end: Instant, tokens: int) -> dict[str, Any]:
        """What a worker answers: tokens, and the seconds they took."""
        return {"tokens": tokens, "wall": end.wall - self.wall, "cpu": end.cpu - self.cpu}
