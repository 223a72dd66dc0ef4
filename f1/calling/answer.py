"""What a turn says in words, as events: its thought, and its content, which may have to be valid
before it is shown."""

from __future__ import annotations

from collections.abc import Mapping

from f1.calling.schema import validate_content
from f1.calling.text import ContentStream
from f1.types import GenerateRequest, ReasoningDelta, TextDelta, TokenLogprob


class Answer:
    """One choice's words. Bytes in, the events that come of them out."""

    def __init__(self, request: GenerateRequest, choice: int, *, may_call: bool):
        self.holds = False  # content is not shown before it was validated
        self._choice = choice
        self._content = ContentStream(request.stop, hold_whitespace=may_call)
        self._thought = ContentStream((), hold_whitespace=True)
        self._schema = request.response_format.value
        self._said: list[str] = []
        self._thoughts: list[str] = []
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text is held back
        self._leads = False  # white space that comes now is not content

    @property
    def said(self) -> str:
        return "".join(self._said)

    @property
    def thought(self) -> str:
        return "".join(self._thoughts)

    @property
    def stop(self) -> str | None:
        """The stop string that ended the content."""
        return self._content.stop

    def note(self, logprob: TokenLogprob) -> None:
        """Of the token whose bytes come next."""
        self._logprobs.append(logprob)

    # --- the thought ---------------------------------------------------------------------------

    def think(self, data: bytes) -> list[ReasoningDelta]:
        return self._think(self._thought.push(data))

    def end_thought(self) -> list[ReasoningDelta]:
        """The rest of the thought; the white space around it is not shown."""
        events = self._think(self._thought.end_before_call())
        self._leads = True
        self._logprobs.clear()
        return events

    def _think(self, text: str) -> list[ReasoningDelta]:
        if not self._thoughts:
            text = text.lstrip()
        if not text:
            return []
        self._thoughts.append(text)
        return [ReasoningDelta(self._choice, text, self._take_logprobs())]

    # --- the content ---------------------------------------------------------------------------

    def push(self, data: bytes) -> list[TextDelta]:
        if self._leads:
            data = data.lstrip()
            self._leads = not data
        return self._say(self._content.push(data))

    def end_before_call(self) -> list[TextDelta]:
        """The rest of the content; white space before a call is none."""
        events = self._say(self._content.end_before_call())
        self._logprobs.clear()
        return events

    def end(self, *, whole: bool) -> tuple[list[TextDelta], str | None]:
        """The rest of the content, and what is wrong with it if it was to be valid and is not."""
        events = self._say(self._content.end())
        if whole and isinstance(self._schema, Mapping) and self.stop is None:
            wrong = validate_content(self._schema, self.said)
            if wrong is not None:
                return events, wrong
        if self.holds:
            events = self._show(self.said)
        return events, None

    def _say(self, text: str) -> list[TextDelta]:
        if text:
            self._said.append(text)
        return [] if self.holds else self._show(text)

    def _show(self, text: str) -> list[TextDelta]:
        return [TextDelta(self._choice, text, self._take_logprobs())] if text else []

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        logprobs, self._logprobs = self._logprobs, []
        return tuple(logprobs)
