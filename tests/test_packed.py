"""Packed weights in a file: the same numbers without packing again, or the file is not used."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tiny

from f1 import _core
from f1.models.checkpoint import Checkpoint
from f1.models.load import load_checkpoint, load_model, packed_file
from f1.settings import Settings
from f1.store.packed import PackedFile

DIMS = tiny.with_width(tiny.Dims(num_layers=2), "Q5_0")
DTYPES = {"q.weight": "Q5_0", "o.weight": "Q8_0", "gate.weight": "Q4_1", "head.weight": "Q8_0"}
TOKENS = np.random.default_rng(2).integers(0, DIMS.vocab_size, 20, dtype=np.int32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tiny.TinyFile:
    return tiny.write(tmp_path_factory.mktemp("tiny"), DIMS, DTYPES)


def make(weights: tiny.TinyFile, path: Path, isa: str = "scalar") -> _core.Model:
    sources = weights.sources
    return _core.Model(DIMS.config(), sources, num_threads=2, isa=isa, packed_path=str(path))


@pytest.fixture
def saved(weights: tiny.TinyFile, tmp_path: Path) -> Path:
    path = tmp_path / "packed"
    weights.model().save_packed(str(path))
    return path


def wait(saving: threading.Thread | None) -> None:
    assert saving is not None
    saving.join()


def load(checkpoint: Checkpoint, packed: PackedFile) -> _core.Model:
    model = load_model(checkpoint, packed=packed)
    for thread in threading.enumerate():
        if thread.name == "f1-packed":
            thread.join()
    return model


def test_weights_read_are_the_packed_ones(weights: tiny.TinyFile, saved: Path) -> None:
    packed, read = weights.model(), make(weights, saved)
    assert np.array_equal(read.logits(TOKENS), packed.logits(TOKENS))
    assert read.packed_bytes == packed.packed_bytes


def test_any_changed_byte_and_any_cut_is_found(weights: tiny.TinyFile, saved: Path) -> None:
    whole = saved.read_bytes()
    places = [*range(80), *range(4096, len(whole), 997), len(whole) - 1]
    for at in places:
        changed = bytearray(whole)
        changed[at] ^= 1 << at % 8
        saved.write_bytes(changed)
        with pytest.raises(_core.InvalidArgument):
            make(weights, saved)
    for length in (1, 79, 4095, 4096, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(_core.InvalidArgument):
            make(weights, saved)


def test_a_file_that_is_too_short_for_the_model_is_refused(saved: Path, tmp_path: Path) -> None:
    """Only a mistake in naming files could bring it here; it must not read what lies behind."""
    (tmp_path / "more").mkdir()
    dims = tiny.with_width(tiny.Dims(num_layers=3), "Q5_0")
    larger = tiny.write(tmp_path / "more", dims, DTYPES)
    with pytest.raises(_core.InvalidArgument, match="fewer than"):
        _core.Model(dims.config(), larger.sources, isa="scalar", packed_path=str(saved))


def test_what_was_read_or_can_not_be_written_is_not_saved(
    weights: tiny.TinyFile, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(_core.DeviceError):
        make(weights, saved).save_packed(str(tmp_path / "again"))
    with pytest.raises(_core.DeviceError):
        weights.model().save_packed(str(tmp_path / "no such folder" / "file"))


def test_the_second_load_reads_what_the_first_one_packed(
    smollm_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = load_checkpoint(str(smollm_path))
    packed = packed_file(checkpoint, Settings(cache=tmp_path, packed_disk=2**30))
    assert packed is not None
    tokens = np.arange(5, dtype=np.int32)
    first = load(checkpoint, packed).logits(tokens)
    whole = packed.path.read_bytes()
    inode = packed.path.stat().st_ino
    assert np.array_equal(load(checkpoint, packed).logits(tokens), first)
    assert packed.path.stat().st_ino == inode
    assert not caplog.records
    packed.path.write_bytes(whole[:-1])
    assert np.array_equal(load(checkpoint, packed).logits(tokens), first)
    assert "are removed" in caplog.text
    assert packed.path.read_bytes() == whole
    assert list(packed.path.parent.iterdir()) == [packed.path]


def test_what_is_kept_can_be_limited_and_switched_off(smollm_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(smollm_path))
    assert packed_file(checkpoint, Settings(cache=tmp_path, packed_disk=0)) is None
    assert packed_file(checkpoint, Settings(cache=tmp_path)) is None
    load_model(checkpoint, packed=packed_file(checkpoint, Settings(cache=tmp_path, packed_disk=9)))
    assert list(tmp_path.iterdir()) == []


def test_models_unused_for_longest_go_first(tmp_path: Path) -> None:
    def write(path: str) -> None:
        Path(path).write_bytes(bytes(100))

    def save(name: str) -> PackedFile:
        packed = PackedFile(tmp_path / f"{name}.bin", 250)
        wait(packed.save(100, write))
        return packed

    first, second = save("first"), save("second")
    for age, packed in enumerate((first, second)):
        os.utime(packed.path, (1000 + age, 1000 + age))
    assert first.exists()  # which is a use
    save("third")
    assert first.exists()
    assert not second.exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write(path: str) -> None:
        raise OSError("no space left on device")

    wait(PackedFile(tmp_path / "some.bin", 1000).save(100, write))
    assert "no space left" in caplog.text
    assert list(tmp_path.iterdir()) == []
