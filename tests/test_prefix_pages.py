"""Pages of shared prefixes leave the cache and come back: the core's part of snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from f1 import _core

PAGE_SIZE = 16
OFFSET = 100  # of the pages in their file: as odd as the format allows
PREFIX = np.random.default_rng(1).integers(0, 150, 5 * PAGE_SIZE, dtype=np.int32)
PROMPT = [*PREFIX.tolist(), 7, 8, 9]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return tiny.write(tmp_path_factory.mktemp("tiny"), tiny.Dims(num_layers=3)).model()


class Saved:
    """The pages of PREFIX, computed by one engine and written to a file."""

    def __init__(self, model: _core.Model, path: Path):
        engine = _core.Engine(model, num_pages=16)
        decode(engine, PROMPT)
        self.pages, self.checksums = engine.save_prefix(PREFIX)
        self.path = path
        path.write_bytes(bytes(OFFSET) + self.pages.tobytes())

    def restore(self, engine: _core.Engine) -> int:
        return engine.restore_prefix(PREFIX, str(self.path), OFFSET, self.checksums)


@pytest.fixture
def saved(model: _core.Model, tmp_path: Path) -> Saved:
    return Saved(model, tmp_path / "pages")


def decode(engine: _core.Engine, token_ids: list[int], **sampling: float) -> tuple[list[int], int]:
    """The request's tokens, and how many of its prompt were in the cache."""
    params = _core.SamplingParams(**sampling)  # type: ignore[arg-type]
    engine.submit(_core.Request(np.array(token_ids, np.int32), params, max_tokens=12))
    outputs = []
    while engine.has_work:
        engine.begin_step()
        outputs += engine.finish_step()
        engine.check()
    return [output.token_id for output in outputs], outputs[-1].num_cached_tokens


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0, "seed": 5}], ids=["greedy", "seeded"]
)
def test_restored_pages_give_the_same_tokens(
    model: _core.Model, saved: Saved, sampling: dict[str, float]
) -> None:
    computed, num_cached = decode(_core.Engine(model, num_pages=16), PROMPT, **sampling)
    assert num_cached == 0
    engine = _core.Engine(model, num_pages=16)
    assert saved.restore(engine) == 5
    assert decode(engine, PROMPT, **sampling) == (computed, len(PREFIX))
    assert engine.stats()["num_computed_tokens"] == len(PROMPT) - len(PREFIX) + 11


def test_what_was_restored_is_saved_bit_by_bit(model: _core.Model, saved: Saved) -> None:
    engine = _core.Engine(model, num_pages=16)
    saved.restore(engine)
    pages, checksums = engine.save_prefix(PREFIX)
    assert np.array_equal(pages, saved.pages)
    assert np.array_equal(checksums, saved.checksums)
    assert len(np.unique(checksums)) == 5


def test_only_whole_computed_pages_are_saved(model: _core.Model) -> None:
    engine = _core.Engine(model, num_pages=16)
    assert engine.save_prefix(PREFIX)[0].shape == (0, model.kv_page_bytes)
    decode(engine, PROMPT)
    assert len(engine.save_prefix(PREFIX[:31])[0]) == 1
    other = PREFIX.copy()
    other[40] += 1
    assert len(engine.save_prefix(other)[0]) == 2


def test_a_short_cache_takes_what_fits(model: _core.Model, saved: Saved) -> None:
    engine = _core.Engine(model, num_pages=3)
    assert saved.restore(engine) == 3
    assert engine.restore_prefix(PREFIX[:48], "never opened", 0, saved.checksums[:3]) == 3
    engine.check()


def test_without_prefix_reuse_nothing_is_restored(model: _core.Model, saved: Saved) -> None:
    assert saved.restore(_core.Engine(model, num_pages=8, prefix_reuse=False)) == 0


@pytest.mark.parametrize("page", range(5))
def test_a_changed_byte_is_found_and_the_pages_before_it_are_right(
    model: _core.Model, saved: Saved, page: int
) -> None:
    computed, _ = decode(_core.Engine(model, num_pages=16), PROMPT)
    data = bytearray(saved.path.read_bytes())
    data[OFFSET + page * model.kv_page_bytes + 3 * page] ^= 1 << page
    saved.path.write_bytes(data)
    engine = _core.Engine(model, num_pages=16)
    with pytest.raises(_core.InvalidArgument, match=f"page {page} does not match"):
        saved.restore(engine)
    engine.check()
    assert decode(engine, PROMPT) == (computed, page * PAGE_SIZE)


def test_a_short_or_missing_file_is_refused(model: _core.Model, saved: Saved) -> None:
    engine = _core.Engine(model, num_pages=16)
    saved.path.write_bytes(saved.path.read_bytes()[:-1])
    with pytest.raises(_core.InvalidArgument, match="ends at byte"):
        saved.restore(engine)
    saved.path.unlink()
    with pytest.raises(_core.InvalidArgument, match="cannot open"):
        saved.restore(_core.Engine(model, num_pages=16))
    engine.check()
    with pytest.raises(_core.InvalidArgument, match="one a page"):
        engine.restore_prefix(PREFIX[:-1], str(saved.path), OFFSET, saved.checksums)


def test_not_while_a_step_is_open(model: _core.Model, saved: Saved) -> None:
    engine = _core.Engine(model, num_pages=16)
    engine.submit(_core.Request(np.array([1], np.int32), max_tokens=2))
    engine.begin_step()
    with pytest.raises(_core.InvalidArgument, match="between begin_step"):
        engine.save_prefix(PREFIX)
    with pytest.raises(_core.InvalidArgument, match="between begin_step"):
        saved.restore(engine)
    engine.finish_step()
    assert saved.restore(engine) == 5
