"""What a piece of work took of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = 64 * 2**20  # bytes that reading a file may take beyond the file itself


class Watch:
    """The most that any one of several pieces took."""

    def __init__(self) -> None:
        self.slowest = 0.0  # seconds of the processor
        self.largest = 0.0  # bytes of memory at its peak, beyond what was there and the file's own

    @contextmanager
    def over(self, file_size: int = 0) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before, begin = _kilobytes("VmRSS"), time.process_time()
        try:
            yield
        finally:
            self.slowest = max(self.slowest, time.process_time() - begin)
            self.largest = max(self.largest, 1024 * (_kilobytes("VmHWM") - before) - file_size)

    def check(self, seconds: float = 1.0) -> None:
        print(f"{self.slowest:.3f} s, {self.largest / 2**20:.1f} MiB")
        assert self.slowest < seconds
        assert self.largest < MEMORY


def tally(work: Callable[[], object], refusal: type[Exception]) -> str:
    try:
        work()
    except refusal:
        return "refused"
    return "taken"


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
