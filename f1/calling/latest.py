"""Results of a function kept for the next time, as far as their memory goes.

`functools.lru_cache` counts entries; what requests give is of any size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Latest(Generic[P, R]):
    """The function with the latest results kept, `max_bytes` of them by `weigh`, which is given a
    result and its arguments. Thread-safe; nobody waits for another's call: one may be made twice.
    """

    def __init__(
        self, function: Callable[P, R], max_bytes: int, weigh: Callable[Concatenate[R, P], int]
    ):
        self._function = function
        self._weigh = weigh
        self._max_bytes = max_bytes
        self._kept: OrderedDict[object, tuple[R, int]] = OrderedDict()
        self._lock = Lock()
        self.num_bytes = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = (args, tuple(kwargs.items()))
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found[0]
        result = self._function(*args, **kwargs)
        weight = self._weigh(result, *args, **kwargs)
        with self._lock:
            if key not in self._kept and weight <= self._max_bytes:
                self._kept[key] = result, weight
                self.num_bytes += weight
                while self.num_bytes > self._max_bytes:
                    _, (_, least) = self._kept.popitem(last=False)
                    self.num_bytes -= least
        return result


def latest(
    max_bytes: int, weigh: Callable[Concatenate[R, P], int]
) -> Callable[[Callable[P, R]], Latest[P, R]]:
    """A decorator."""
    return lambda function: Latest(function, max_bytes, weigh)
