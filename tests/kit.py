"""A turn machine without a model: the tokenizer and the grammars of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from f1.calling.again import Broken
from f1.calling.family import Family
from f1.calling.grammar import Grammars
from f1.calling.turn import Turn, TurnEvent
from f1.calling.vocabulary import Vocabulary, make_canonical
from f1.models.load import load_checkpoint
from f1.models.tokenizer import Tokenizer
from f1.types import GenerateRequest


@dataclass(frozen=True)
class Kit:
    tokenizer: Tokenizer
    grammars: Grammars
    vocabulary: Vocabulary

    def turn(
        self,
        request: GenerateRequest,
        family: Family,
        max_tokens: int = 400,
        *,
        prompt_end: bytes = b"",
        after: Broken | None = None,
    ) -> Turn:
        return Turn(
            request,
            family,
            self.grammars,
            self.vocabulary,
            choice=0,
            max_tokens=max_tokens,
            prompt_end=prompt_end,
            after=after,
        )

    def follow(self, turn: Turn, text: str) -> Iterator[TurnEvent]:
        """Feeds `text` as the model's output; every token must be legal."""
        for token_id in self.tokenizer.encode_prompt(text):
            assert is_legal(turn, token_id), self.tokenizer.token_bytes(token_id)
            yield from turn.accept(token_id)
            if turn.ended:
                return
        yield from turn.finish()


def make_kit(model_path: Path, *, freely: bool = False, forced: bool = False) -> Kit:
    tokenizer = load_checkpoint(str(model_path)).tokenizer
    stops = sorted(tokenizer.stop_token_ids)
    vocabulary_given = (tokenizer.vocabulary(), tokenizer.vocab_size, stops)
    grammars = Grammars(*vocabulary_given, freely=freely, background=False)
    token_bytes = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    mask = grammars.token_mask(tokenizer.control_token_ids - tokenizer.stop_token_ids)
    canonical = make_canonical(tokenizer) if forced else None
    vocabulary = Vocabulary(token_bytes, mask, mask, mask, canonical)
    return Kit(tokenizer, grammars, vocabulary)


def is_legal(turn: Turn, token_id: int) -> bool:
    mask = turn.mask()
    return bool(mask[token_id >> 5] >> (token_id & 31) & 1)


def legal(turn: Turn) -> Any:
    mask = turn.mask()
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
