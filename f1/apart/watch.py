"""Whether an engine's process gets on with its work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STALLED_SECONDS = 9.0  # from then on it is not healthy
HUNG_SECONDS = 12.0  # and from then on it is to be ended
LOADING_SECONDS = 120.0  # that it may say nothing before it is ready
_LONGEST_TURN = 1.0  # of who listens; if one took longer, it was itself asleep


class Watch:
    """Told of each turn of who listens. Counts the seconds in which the process said nothing at
    all, and those in which it lived and its work did not move: no step, no event."""

    def __init__(self) -> None:
        self.is_loading = True
        self.seconds = 0.0
        self._silent = 0.0
        self._stuck = 0.0
        self._stats: Mapping[str, Any] = {}

    @property
    def is_stalled(self) -> bool:
        return self.seconds > STALLED_SECONDS

    @property
    def is_hung(self) -> bool:
        return self.seconds > (LOADING_SECONDS if self.is_loading else HUNG_SECONDS)

    def turn(
        self,
        seconds: float,
        heard: bool,
        *,
        moved: bool,
        busy: bool,
        stats: Mapping[str, Any] | None,
    ) -> None:
        """It was `heard` of; an event has `moved`; the process is `busy`, or has nothing to do."""
        seconds = min(seconds, _LONGEST_TURN)
        if stats is not None and stats != self._stats:
            self._stats, moved = stats, True
        self._silent = 0.0 if heard else self._silent + seconds
        self._stuck = 0.0 if moved or not busy else self._stuck + seconds
        self.seconds = max(self._silent, self._stuck)
