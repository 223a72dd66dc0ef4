"""Server-sent events, as all APIs use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Frame:
    """One event. `data` is JSON, or text that is sent as it is."""

    data: dict[str, Any] | str
    event: str | None = None

    def encode(self) -> bytes:
        data = self.data.encode() if isinstance(self.data, str) else orjson.dumps(self.data)
        name = b"" if self.event is None else b"event: " + self.event.encode() + b"\n"
        return name + b"data: " + data + b"\n\n"
