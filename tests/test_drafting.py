"""Drafts come from where the last tokens stood before; what they cost is bounded."""

from __future__ import annotations

import random

import pytest

from f1.drafting import (
    COST,
    FIRST_CREDIT,
    MAX_DRAFTS,
    MAX_HISTORY,
    SAVING,
    Drafter,
    History,
    rows_for_drafts,
)


def drafter(prompt: list[int], history: History | None = None) -> Drafter:
    return Drafter(prompt, history or History(), never=frozenset([99]))


def test_what_followed_the_last_tokens_before() -> None:
    found = drafter([1, 2, 3, 4, 5, 6, 1, 2, 3])
    assert found.draft(3, 2) == [4, 5]
    assert found.draft(3, 3) == [4, 5, 6]
    found.push([4])
    assert found.draft(3, 3) == [5, 6, 1]
    found.push([7, 7])
    assert found.draft(2, 3) == []


def test_the_latest_of_several() -> None:
    assert drafter([1, 2, 7, 1, 2, 8, 1, 2]).draft(2, 1) == [8]
    assert drafter([5, 5, 5]).draft(2, 3) == [5]  # what overlaps itself


def test_bytes_of_two_tokens_are_no_token() -> None:
    """0x01000000, 0x02000000 hold the bytes of 1, 2 at another place."""
    assert drafter([0x01000000, 0x02000000, 0, 4, 1, 2]).draft(1, 2) == []
    assert drafter([0, 2, 9, 0x0200, 0x0200, 4, 0, 2]).draft(2, 1) == [9]


def test_nothing_is_drafted_beyond_the_end_of_a_turn() -> None:
    assert drafter([1, 2, 3, 99, 4, 1, 2]).draft(2, 3) == [3]


def test_history_is_of_completions_and_bounded() -> None:
    history = History()
    first = drafter([7, 8, 9], history)
    first.push([1, 2, 3, 4])
    first.close()
    assert drafter([5, 1, 2], history).draft(2, 3) == [3, 4]
    assert drafter([5, 7, 8], history).draft(2, 3) == []
    long = drafter([0], history)
    long.push([6] * MAX_HISTORY)
    long.close()
    assert drafter([5, 1, 2], history).draft(2, 3) == []


def test_wrong_guesses_are_given_up_and_right_ones_kept() -> None:
    found = drafter([1, 2, 3] * 10)
    drafted = 0
    num_steps = 10_000
    for _ in range(num_steps):
        draft = found.draft(2, MAX_DRAFTS)
        drafted += len(draft)
        if draft:
            found.settle(len(draft), 0)
    assert 0 < drafted * COST <= FIRST_CREDIT + num_steps * SAVING
    found.settle(MAX_DRAFTS, MAX_DRAFTS)
    for _ in range(100):
        assert len(found.draft(2, MAX_DRAFTS)) == MAX_DRAFTS
        found.settle(MAX_DRAFTS, 1)


@pytest.mark.parametrize(("num_sequences", "rows"), [(1, 3), (2, 1), (3, 0), (20, 0)])
def test_only_small_batches_draft(num_sequences: int, rows: int) -> None:
    assert rows_for_drafts(num_sequences) == rows


def test_as_a_search_through_a_list_would() -> None:
    draw = random.Random(3)
    for _ in range(300):
        tokens = [draw.randrange(3) << draw.choice([0, 8, 16, 24]) for _ in range(40)]
        match = draw.randint(1, 3)
        last = tokens[-match:]
        places = [i for i in range(match, len(tokens)) if tokens[i - match : i] == last]
        expected = tokens[places[-1] :][:3] if places else []
        assert drafter(tokens).draft(match, 3) == expected
