"""The OpenAPI document: which routes there are, what they take and what they answer."""

from __future__ import annotations

from collections.abc import Callable

from f1.serve.limits import Limits
from f1.serve.wire import bodies
from f1.serve.wire.shape import Record

BODIES: dict[str, Callable[[Limits], Record]] = {"/v1/chat/completions": bodies.chat}
