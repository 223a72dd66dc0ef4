"""What every flavour of reasoning is: it looks at a run and decides its next move."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from f1.types import Completion, Node, Note, ReasoningDelta, StrategyName, TextDelta

if TYPE_CHECKING:
    from f1.planning.run import Run


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that is not made; the model reads why in place of its result."""

    node: Node
    why: str


# A Node starts the moment it is yielded, if what it needs is there. The Completion comes last: an
# answer where no Node came before it, otherwise what the calls are remembered with.
Move = TextDelta | ReasoningDelta | Note | Node | Refused | Completion


class Strategy(Protocol):
    name: StrategyName

    def decide(self, run: Run) -> AsyncGenerator[Move]:
        """The next move. Text that is yielded is shown to the user at once, as the answer's."""
