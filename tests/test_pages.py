"""Pages, prefix tree and scheduler without a model: the test plays it and keeps its own books.

The stand-in for K and V of a position is a hash of all tokens up to it. So a step can check that
what a sequence is about to attend to was computed from its own tokens and from nothing else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from f1 import _core

PAGE_SIZE = 16
MAX_TOKENS = 48  # of a step
MAX_SEQUENCES = 6


@dataclass
class Shadow:
    """A sequence as the test knows it."""

    token_ids: list[int]
    max_tokens: int
    num_prompt: int
    histories: list[int] = field(default_factory=list)  # hash of tokens[: p + 1] at p
    drafts: list[int] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)  # what stands behind soft steps
    thinks: bool = False
    mixes: dict[int, int] = field(default_factory=dict)  # position: which no other has

    def extend_histories(self) -> None:
        for position in range(len(self.histories), len(self.token_ids)):
            before = self.histories[-1] if position else 0
            mix = self.mixes.get(position, 0)
            self.histories.append(hash((before, mix, self.token_ids[position])))

    def rethink(self, thinks: bool) -> None:
        self.thinks = thinks
        if not thinks:
            self.token_ids += self.rest

    def guessed(self, num_drafts: int) -> list[int]:
        """The histories of positions that hold drafts."""
        histories = self.histories[-1:]
        for token in self.drafts[:num_drafts]:
            histories.append(hash((histories[-1], 0, token)))
        return histories[1:]


class Harness:
    """A scheduler, the sequences given to it, and the fake cache its steps write."""

    def __init__(
        self,
        *,
        num_pages: int,
        prefix_reuse: bool = True,
        seed: int = 0,
        surprising: bool = False,
    ):
        """`surprising`: now and then there are drafts, and tokens that follow unasked."""
        self.scheduler = _core.testing.Scheduler(
            num_pages=num_pages,
            max_batch_tokens=MAX_TOKENS,
            max_sequences=MAX_SEQUENCES,
            prefix_reuse=prefix_reuse,
        )
        self.random = random.Random(seed)
        self.num_pages = num_pages
        self.surprising = surprising
        self.live: dict[int, Shadow] = {}
        self.cache = [[0] * PAGE_SIZE for _ in range(num_pages)]
        self.num_finished = 0
        self.num_right = 0
        self.num_forked = 0
        self.num_kept_out = 0
        self.num_mixes = 0
        self.now = 0
        self.most_held = 0

    def submit_soft(self, token_ids: list[int], max_tokens: int) -> None:
        """One that takes up to six soft steps somewhere within its tokens."""
        steps, position = self.random.randint(1, 6), self.random.randint(1, len(token_ids))
        sequence_id = self.scheduler.submit(token_ids, max_tokens, steps, position)
        shadow = Shadow(list(token_ids), max_tokens, len(token_ids))
        if max_tokens > 1:
            shadow.token_ids, shadow.rest = shadow.token_ids[:position], shadow.token_ids[position:]
            shadow.thinks = True
        self.live[sequence_id] = shadow

    def submit(self, token_ids: list[int], max_tokens: int) -> int:
        sequence_id = self.scheduler.submit(token_ids, max_tokens)
        self.live[sequence_id] = Shadow(list(token_ids), max_tokens, len(token_ids))
        return sequence_id

    def random_tokens(self) -> list[int]:
        """Few distinct tokens and starts, so that prefixes repeat and part ways everywhere."""
        length = self.random.randint(1, 100)
        start = self.random.choice([[1] * 40, [1] * 16 + [2] * 40, [3] * 8, []])
        return (start + [self.random.randint(1, 2) for _ in range(length)])[:length]

    def submit_random(self) -> None:
        tokens = self.random_tokens()
        room = self.num_pages * PAGE_SIZE - len(tokens) + 1
        soft = self.surprising and self.random.random() < 0.3
        submit = self.submit_soft if soft else self.submit
        submit(tokens, self.random.randint(1, min(200, room)))

    def restore(self, token_ids: list[int]) -> list[int]:
        """Pages that come from elsewhere. Returns which of the prefix were missing."""
        shadow = Shadow(token_ids, 0, len(token_ids))
        shadow.extend_histories()
        written = self.scheduler.restore_prefix(token_ids)
        for index, page in written:
            self.cache[page] = shadow.histories[index * PAGE_SIZE :][:PAGE_SIZE]
        return [index for index, _ in written]

    def finish(self, sequence_id: int) -> None:
        self.scheduler.finish(sequence_id)
        del self.live[sequence_id]
        self.num_finished += 1

    def step(self) -> list[int]:
        """Schedule, "compute", commit, sample. Returns the ids of the sequences that moved."""
        for sequence_id in self.live:
            if self.surprising and self.random.random() < 0.1:
                drafts = [self.random.randint(1, 2) for _ in range(self.random.randint(0, 6))]
                self.scheduler.draft(sequence_id, drafts)
                self.live[sequence_id].drafts = drafts
        chunks = self.scheduler.schedule()
        self.check_progress(chunks)
        assert (
            sum(num_tokens + num_drafts for _, _, num_tokens, _, num_drafts in chunks) <= MAX_TOKENS
        )
        assert sum(num_drafts for *_, num_drafts in chunks) <= 8
        assert len({sequence_id for sequence_id, *_ in chunks}) == len(chunks)
        written: set[tuple[int, int]] = set()
        for sequence_id, begin, num_tokens, page_ids, num_drafts in chunks:
            shadow = self.live[sequence_id]
            end = begin + num_tokens
            assert begin < end <= len(shadow.token_ids)
            assert end == len(shadow.token_ids) or not num_drafts
            shadow.extend_histories()
            histories = shadow.histories + shadow.guessed(num_drafts)
            for position in range(begin, end + num_drafts):
                page, slot = page_ids[position // PAGE_SIZE], position % PAGE_SIZE
                assert (page, slot) not in written, "two sequences write one slot"
                written.add((page, slot))
                self.cache[page][slot] = histories[position]
        for sequence_id, begin, num_tokens, page_ids, _ in chunks:
            seen = [slot for page in page_ids for slot in self.cache[page]]
            end = begin + num_tokens
            assert seen[:end] == self.live[sequence_id].histories[:end]
        self.scheduler.commit()
        for sequence_id, begin, num_tokens, _, num_drafts in chunks:
            shadow = self.live[sequence_id]
            if begin + num_tokens < len(shadow.token_ids):
                continue
            if shadow.thinks:
                self.think(sequence_id, shadow)
            if begin + num_tokens == len(shadow.token_ids):  # nothing has come behind
                self.sample(sequence_id, shadow, num_drafts)
        return [sequence_id for sequence_id, *_ in chunks]

    def think(self, sequence_id: int, shadow: Shadow) -> None:
        """A soft step, or the end of them; what fills its place is a token like any other."""
        if self.random.random() < 0.1:
            return shadow.rethink(self.scheduler.end_thinking(sequence_id))
        self.num_mixes += 1
        shadow.mixes[len(shadow.token_ids)] = self.num_mixes
        token = self.random.randint(1, 2)
        shadow.token_ids.append(token)
        return shadow.rethink(self.scheduler.think(sequence_id, token))

    def check_progress(self, chunks: list[Any]) -> None:
        """Never idle with work to do: the oldest moves, and nobody waits who could come in."""
        scheduler = self.scheduler
        num_waiting = len(self.live) - scheduler.num_running
        assert scheduler.num_waiting == num_waiting, "sequences lost, or there twice"
        num_unused = scheduler.num_free + scheduler.num_reclaimable
        if not self.live:
            assert not chunks
            assert num_unused == self.num_pages, "pages leaked"
            return
        assert chunks[0][0] == min(self.live), "idle with work to do"
        num_planned = sum(num_tokens for _, _, num_tokens, *_ in chunks)
        if not num_waiting or scheduler.num_running == MAX_SEQUENCES or num_planned == MAX_TOKENS:
            return
        self.num_kept_out += 1
        waiting = self.live[sorted(self.live)[scheduler.num_running]].token_ids
        needed = -(-len(waiting) // PAGE_SIZE) + scheduler.num_running + 1
        assert num_unused < needed or any(
            self.live[sequence_id].token_ids[:page_end] == waiting[:page_end]
            for sequence_id, begin, num_tokens, *_ in chunks
            for page_end in range(PAGE_SIZE, begin + num_tokens + 1, PAGE_SIZE)
            if page_end > begin
        ), "kept waiting with room for it, and for no page that another one computes just now"

    def sample(self, sequence_id: int, shadow: Shadow, num_drafts: int) -> None:
        """One token, more where drafts turn out right, and now and then some unasked."""
        left = shadow.max_tokens - (len(shadow.token_ids) - shadow.num_prompt)
        num_right = 0
        for i in range(min(1 + num_drafts, left)):
            token = self.random.randint(1, 2)
            shadow.token_ids.append(token)
            self.scheduler.append(sequence_id, token)
            if i == num_drafts or i + 1 == left or token != shadow.drafts[i]:
                break
            num_right += 1
        self.num_right += num_right
        self.scheduler.accept_drafts(sequence_id, num_right)
        shadow.drafts = []
        left = shadow.max_tokens - (len(shadow.token_ids) - shadow.num_prompt)
        surprise = self.surprising and self.random.random() < 0.1
        unasked = self.random.randint(1, 40) if surprise else 0
        for _ in range(min(unasked, left - 1)):
            token = self.random.randint(1, 2)
            shadow.token_ids.append(token)
            self.scheduler.append(sequence_id, token)
        if len(shadow.token_ids) - shadow.num_prompt == shadow.max_tokens:
            self.finish(sequence_id)

    def fork(self, sequence_id: int) -> None:
        child, copies = self.scheduler.fork(sequence_id)
        if child is None:
            return
        for source, target in copies:
            self.cache[target] = self.cache[source].copy()
        self.live[child] = replace(
            shadow := self.live[sequence_id],
            token_ids=shadow.token_ids.copy(),
            histories=shadow.histories.copy(),
            drafts=[],
            mixes=shadow.mixes.copy(),
        )
        self.num_forked += 1

    def hold(self) -> None:
        """What a sequence has computed, for some time; the time goes on."""
        shadow = self.random.choice(list(self.live.values()))
        self.scheduler.hold_prefix(shadow.token_ids, self.now + self.random.randint(-1, 20))
        self.now += self.random.randint(0, 2)
        self.scheduler.advance(self.now)
        self.most_held = max(self.most_held, self.scheduler.num_held)

    def drain(self) -> None:
        while self.live:
            self.step()


@pytest.mark.parametrize(
    ("prefix_reuse", "num_operations"),
    [
        (True, 40_000),
        (False, 10_000),
        pytest.param(True, 1_000_000, marks=pytest.mark.full),
        pytest.param(False, 200_000, marks=pytest.mark.full),
    ],
)
def test_random_operations(prefix_reuse: bool, num_operations: int) -> None:
    harness = Harness(num_pages=24, prefix_reuse=prefix_reuse, seed=7, surprising=True)
    num_restored = num_aborted = num_idle = 0
    for _ in range(num_operations):
        draw = harness.random.random()
        if draw < 0.05 and len(harness.live) < 40:
            harness.submit_random()
        elif draw < 0.055 and harness.live:
            harness.finish(harness.random.choice(list(harness.live)))  # aborted
            num_aborted += 1
        elif draw < 0.065:
            num_restored += len(harness.restore(harness.random_tokens()))
        elif draw < 0.0750 and harness.live:
            harness.fork(harness.random.choice(list(harness.live)))
        elif draw < 0.0775 and harness.live:
            harness.hold()
        elif draw < 0.08:
            harness.scheduler.schedule()  # a step that fails before commit changes nothing
        elif draw < 0.081:
            harness.drain()
            num_idle += 1
        else:
            harness.step()
        harness.scheduler.check()
    harness.drain()
    harness.scheduler.check()
    scheduler = harness.scheduler
    assert scheduler.num_free + scheduler.num_reclaimable == harness.num_pages, "pages leaked"
    assert harness.most_held == (harness.num_pages // 2 if prefix_reuse else 0)
    scheduler.advance(harness.now + 100)
    assert scheduler.num_held == 0
    # The run was worth something only if it went through all of it.
    assert harness.num_finished > num_operations // 100
    assert num_aborted > num_operations // 1000
    assert num_idle > num_operations // 4000
    assert harness.num_kept_out > num_operations // 100
    assert harness.num_right > num_operations // 50
    assert harness.num_forked > num_operations // 4000
    assert harness.num_mixes > num_operations // 50
    assert scheduler.num_preemptions > num_operations // 100
    assert (scheduler.num_reused_tokens > num_operations // 10) == prefix_reuse
    assert (num_restored > num_operations // 1000) == prefix_reuse


def test_a_full_pool_never_stops_the_oldest() -> None:
    harness = Harness(num_pages=8)
    oldest = harness.submit([5] * 30, 8 * PAGE_SIZE - 30)
    for token in range(10, 15):
        harness.submit([token] * 60, 40)
    while oldest in harness.live:
        assert oldest in harness.step()
        harness.scheduler.check()
    assert harness.scheduler.num_preemptions > 0
    harness.drain()


def test_full_computed_pages_are_reused() -> None:
    harness = Harness(num_pages=16)
    prompt = list(range(40))
    harness.submit(prompt, 1)
    harness.drain()
    harness.submit(prompt, 1)
    ((_, begin, num_tokens, *_),) = harness.scheduler.schedule()
    assert (begin, num_tokens) == (32, 8)
    harness.scheduler.commit()


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    harness = Harness(num_pages=16)
    prompt = list(range(32))
    for expected_begin in (0, 16):
        sequence_id = harness.submit(prompt, 2)
        ((_, begin, *_),) = harness.scheduler.schedule()
        assert begin == expected_begin
        harness.scheduler.commit()
        harness.finish(sequence_id)


def test_another_token_in_a_page_is_no_match() -> None:
    harness = Harness(num_pages=16)
    harness.submit([1] * 40, 1)
    harness.drain()
    harness.submit([1] * 20 + [2] + [1] * 19, 1)
    ((_, begin, *_),) = harness.scheduler.schedule()
    assert begin == 16
    harness.scheduler.commit()


def colliding_pages() -> tuple[list[int], list[int]]:
    """Two first pages whose hashes are the same 64 bits, by the birthday of their upper halves."""

    def mix(state: int, token: int) -> int:
        state = ((state ^ token) * 0x9E3779B97F4A7C15) & (2**64 - 1)
        return state ^ state >> 32

    generator = random.Random(0)
    seen: dict[int, tuple[list[int], int]] = {}
    for _ in range(1_000_000):
        tokens = [generator.randrange(2**31), generator.randrange(2**31)]
        state = mix(mix(0xFFFFFFFF, tokens[0]), tokens[1])
        others, other = seen.setdefault(state >> 32, (tokens, state))
        if others != tokens and state ^ other < 2**31:  # the next token makes up for it
            return [*tokens, state ^ other, *range(13)], [*others, 0, *range(13)]
    raise AssertionError("no collision found")


def test_colliding_hashes_are_no_match() -> None:
    page, other = colliding_pages()
    assert page != other
    assert _core.testing.page_hash(page) == _core.testing.page_hash(other)
    harness = Harness(num_pages=16)
    harness.submit([*page, 1], 1)
    harness.drain()
    harness.submit([*other, 1], 1)
    assert harness.scheduler.schedule()[0][1] == 0
    harness.scheduler.commit()
    harness.scheduler.check()


def test_admission_leaves_room_to_grow() -> None:
    """Two more pages are free, but who moves in now would be preempted when the first one grows."""
    harness = Harness(num_pages=4)
    harness.submit([1] * 31, 20)
    harness.submit([2] * 32, 2)
    harness.drain()
    assert harness.scheduler.num_preemptions == 0


def test_twins_share_what_one_of_them_computes() -> None:
    """n decodings of one prompt, submitted together: the prompt is computed once, not n times."""
    harness = Harness(num_pages=32)
    for _ in range(4):
        harness.submit([9] * 40, 5)
    assert harness.step() == [0]
    chunks = harness.scheduler.schedule()
    assert [(begin, num_tokens) for _, begin, num_tokens, *_ in chunks] == [(40, 1)] + [(32, 8)] * 3
    assert len({tuple(page_ids[:2]) for *_, page_ids, _ in chunks}) == 1
    harness.scheduler.check()
    harness.drain()


def test_decodes_come_before_prompts() -> None:
    harness = Harness(num_pages=32)
    decoding = harness.submit([1] * 10, 20)
    harness.step()
    harness.submit([2] * 100, 1)
    chunks = harness.scheduler.schedule()
    assert [(chunk[0], chunk[2]) for chunk in chunks] == [(decoding, 1), (1, 47)]


def test_least_recently_used_prefix_is_evicted_first() -> None:
    harness = Harness(num_pages=8)
    for token in (1, 2, 3):  # each leaves two full pages in the tree
        harness.submit([token] * 33, 1)
        harness.drain()
    harness.submit([1] * 33, 1)  # 1 is fresh again
    harness.drain()
    harness.submit([4] * 60, 1)  # needs four pages: the two free ones and the two of 2
    harness.drain()
    for token, begin in ((1, 32), (3, 32), (2, 0)):
        sequence_id = harness.submit([token] * 33, 1)
        assert harness.scheduler.schedule()[0][1] == begin, f"prefix {token}"
        harness.finish(sequence_id)


def test_restored_pages_are_used_and_not_restored_again() -> None:
    harness = Harness(num_pages=16)
    prompt = list(range(40))
    assert harness.restore(prompt) == [0, 1]
    assert harness.restore([*prompt[:32], *range(50, 66)]) == [2]
    harness.submit(prompt, 1)
    assert harness.scheduler.schedule()[0][1] == 32
    harness.scheduler.commit()
    harness.scheduler.check()


def test_restoring_takes_unused_pages_and_leaves_used_ones() -> None:
    harness = Harness(num_pages=8)
    harness.submit([1] * 33, 1)  # leaves two pages in the tree
    harness.drain()
    running = harness.submit([2] * 60, 5)
    harness.step()  # computes three pages of it
    assert harness.restore([3] * 96) == [0, 1, 2, 3, 4], "three were free, two unused"
    harness.scheduler.check()
    assert harness.scheduler.num_free == 0
    assert running in harness.live
    harness.drain()


def test_a_warm_prefix_outlasts_what_passes_through() -> None:
    harness = Harness(num_pages=8)
    harness.restore([7] * 32)

    def is_kept() -> bool:
        sequence_id = harness.submit([7] * 33, 1)
        begin = harness.scheduler.schedule()[0][1]
        harness.finish(sequence_id)
        return begin == 32

    def pass_through(first: int, last: int) -> None:
        for token in range(first, last):
            harness.submit([token] * 60, 1)  # three more pages for the tree
            harness.drain()

    pass_through(100, 106)
    assert is_kept()  # which is a use
    pass_through(200, 206)
    assert is_kept()
    pass_through(300, 320)
    assert not is_kept(), "unused for long it must go"


def leave(harness: Harness, tokens: list[int]) -> None:
    harness.submit(tokens, 1)
    harness.drain()


def num_kept(harness: Harness, tokens: list[int]) -> int:
    """How many of the tokens a request finds computed."""
    sequence_id = harness.submit([*tokens, 99], 1)
    begin = harness.scheduler.schedule()[0][1]
    harness.finish(sequence_id)
    return int(begin)


def test_what_is_held_outlasts_any_flood_until_its_time() -> None:
    harness = Harness(num_pages=16)
    talk = [7] * 64
    leave(harness, [*talk, 8])
    harness.scheduler.hold_prefix(talk, 50)
    for now, kept in ((0, 64), (49, 64), (50, 0)):
        harness.scheduler.advance(now)
        for token in range(100, 140):
            leave(harness, [token] * 60)
        harness.scheduler.check()
        assert num_kept(harness, talk) == kept
    leave(harness, [*talk, 8])
    harness.scheduler.hold_prefix(talk, 50)  # is over
    assert harness.scheduler.num_held == 0


def test_what_is_held_keeps_nobody_out() -> None:
    """It is given up for one that needs the room, and no more of it than that."""
    harness = Harness(num_pages=16)
    for token in (1, 2):
        leave(harness, [token] * 65)
        harness.scheduler.hold_prefix([token] * 64, 10 * token)
    assert harness.scheduler.num_held == 8
    needs = harness.submit([3] * 190, 1)  # 12 pages
    assert harness.step() == [needs]
    assert harness.scheduler.num_held == 8, "there was other room"
    harness.drain()
    assert harness.scheduler.num_held == 4, "what would have ended first is given up"
    assert num_kept(harness, [2] * 64) == 64
    leave(harness, [4] * 255)  # all of the pool
    assert harness.scheduler.num_held == 0
    harness.scheduler.check()


def test_half_the_pool_is_held_at_most() -> None:
    harness = Harness(num_pages=16)
    for token in (1, 2, 3):
        leave(harness, [9] * 32 + [token] * 33)  # two pages are the same
        harness.scheduler.hold_prefix([9] * 32 + [token] * 32, 100 - token)
        harness.scheduler.check()
        assert harness.scheduler.num_held == 2 + 2 * token
    leave(harness, [4] * 33)
    harness.scheduler.hold_prefix([4] * 32, 200)
    assert harness.scheduler.num_held == 8, "that of 3 would have ended first"
    leave(harness, [5] * 200)
    harness.scheduler.hold_prefix([5] * 192, 300)
    harness.scheduler.check()
    assert harness.scheduler.num_held == 8
    assert num_kept(harness, [5] * 192) >= 128


@pytest.mark.parametrize(
    "options",
    [
        {"num_pages": 0, "max_batch_tokens": 8, "max_sequences": 4},
        {"num_pages": -1, "max_batch_tokens": 8, "max_sequences": 4},
        {"num_pages": 4, "max_batch_tokens": 8, "max_sequences": 9},
        {"num_pages": 4, "max_batch_tokens": 8, "max_sequences": 0},
    ],
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(_core.InvalidArgument):
        _core.testing.Scheduler(**options)


def test_what_can_never_fit_is_refused() -> None:
    harness = Harness(num_pages=2)
    with pytest.raises(_core.InvalidArgument, match="33 slots"):
        harness.submit([1] * 30, 4)
    harness.submit([1] * 30, 3)
    harness.drain()
