"""Files of shared prefixes: whole, ours and of these very tokens, or not used at all."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from f1.models.checkpoint import Checkpoint, TensorRef
from f1.models.fingerprint import fingerprint
from f1.models.load import load_checkpoint
from f1.store.snapshot import SnapshotError, read_snapshot, write_snapshot
from f1.store.snapshots import Snapshots

PAGE_BYTES = 96
KEY = {"model": "m", "core": "c", "backend": "cpu", "page_bytes": PAGE_BYTES}


def tokens(*pages: int) -> np.ndarray:
    """A page of each number."""
    return np.repeat(np.array(pages, np.int32), 16)


def data_of(token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pages and checksums that tell prefixes apart."""
    starts = token_ids[::16].astype(np.uint64)
    pages = np.repeat(starts[:, None].astype(np.uint8), PAGE_BYTES, axis=1)
    return pages, starts * 1000


def save(snapshots: Snapshots, *pages: int) -> bool:
    token_ids = tokens(*pages)
    return snapshots.save(token_ids, *data_of(token_ids))


def make(folder: Path, max_bytes: int = 2**20, **key: str | int) -> Snapshots:
    return Snapshots(folder, KEY | key, max_bytes)


def found(snapshots: Snapshots, *pages: int) -> list[int]:
    """The pages of the snapshot found for these, one number each."""
    snapshot = snapshots.find(tokens(*pages))
    if snapshot is None:
        return []
    assert snapshot.checksums.tolist() == [p * 1000 for p in snapshot.token_ids[::16]]
    return snapshot.token_ids[::16].tolist()


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.*"))


# --- one file ------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "one.kv"
    token_ids = tokens(1, 2, 3)
    write_snapshot(path, KEY, token_ids, *data_of(token_ids))
    return path


def test_what_is_written_is_read(file: Path) -> None:
    snapshot = read_snapshot(file, KEY)
    pages, checksums = data_of(tokens(1, 2, 3))
    assert np.array_equal(snapshot.token_ids, tokens(1, 2, 3))
    assert np.array_equal(snapshot.checksums, checksums)
    assert file.read_bytes()[snapshot.offset :] == pages.tobytes()


def test_any_changed_byte_before_the_pages_is_refused(file: Path) -> None:
    """Only the padding may change: nobody reads it. (The pages have checksums of their own.)"""
    whole = bytearray(file.read_bytes())
    snapshot = read_snapshot(file, KEY)
    used = len(bytes(whole[: snapshot.offset]).rstrip(b"\0"))
    for at in range(used):
        changed = whole.copy()
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        with pytest.raises(SnapshotError):
            read_snapshot(file, KEY)


def test_any_other_length_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            read_snapshot(file, KEY)
    file.write_bytes(whole + b"\0")
    with pytest.raises(SnapshotError, match="bytes long"):
        read_snapshot(file, KEY)


@pytest.mark.parametrize("other", ["model", "core", "backend", "page_bytes"])
def test_a_file_of_another_key_is_refused(file: Path, other: str) -> None:
    with pytest.raises(SnapshotError, match="another model"):
        read_snapshot(file, KEY | {other: "x"})


# --- the folder ----------------------------------------------------------------------------------


def test_the_longest_shared_prefix_is_found(tmp_path: Path) -> None:
    snapshots = make(tmp_path)
    for prefix in [(1, 2), (1, 2, 3, 4), (5, 6)]:
        assert save(snapshots, *prefix)
    for reader in (snapshots, make(tmp_path)):  # the second one as after a restart
        assert found(reader, 1, 2, 3, 4, 9) == [1, 2, 3, 4]
        assert found(reader, 1, 2, 3, 9) == [1, 2, 3]
        assert found(reader, 1, 9) == [1]
        assert found(reader, 5, 6) == [5, 6]
        assert found(reader, 2) == []
        assert reader.find(tokens(1, 2)[:31]) is not None
        assert reader.find(tokens(1)[:15]) is None
        assert reader.holds(tokens(1, 2, 3))
        assert not reader.holds(tokens(1, 2, 3, 5))


def test_one_other_token_ends_the_prefix(tmp_path: Path) -> None:
    snapshots = make(tmp_path)
    save(snapshots, 1, 2, 3)
    for at in range(48):
        asked = tokens(1, 2, 3)
        asked[at] += 1
        snapshot = snapshots.find(asked)
        assert (0 if snapshot is None else len(snapshot.token_ids)) == at // 16 * 16


def test_keys_do_not_see_each_other(tmp_path: Path) -> None:
    save(make(tmp_path), 1, 2)
    assert found(make(tmp_path, model="other"), 1, 2) == []
    assert found(make(tmp_path), 1, 2) == [1, 2]


def test_processes_see_each_others_files(tmp_path: Path) -> None:
    here, there = make(tmp_path), make(tmp_path)
    assert found(here, 1, 2) == []
    save(there, 1, 2)
    assert found(here, 1, 2) == [1, 2]
    files(tmp_path)[0].unlink()
    assert found(here, 1, 2) == []


def test_a_broken_file_is_reported_removed_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(make(tmp_path), 1, 2)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for broken in (whole[:-1], b"", b"x" * 5000, whole.replace(b"F1 pages\1", b"F1 pages\2")):
        path.write_bytes(broken)
        caplog.clear()
        snapshots = make(tmp_path)
        assert found(snapshots, 1, 2) == []
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert not path.exists()
        save(snapshots, 1, 2)
        assert path.read_bytes() == whole
        assert found(snapshots, 1, 2) == [1, 2]


def test_a_snapshot_that_was_no_good_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = make(tmp_path)
    save(snapshots, 1, 2)
    snapshot = snapshots.find(tokens(1, 2))
    assert snapshot is not None
    snapshots.discard(snapshot, "page 1 does not match")
    assert "page 1 does not match" in caplog.text
    assert found(snapshots, 1, 2) == []
    assert files(tmp_path) == []


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    size = 4096 + 2 * PAGE_BYTES
    snapshots, other = make(tmp_path, 3 * size), make(tmp_path, 3 * size, model="other")
    for age, pages in enumerate([(1, 1), (2, 2), (3, 3)]):
        save(snapshots if age else other, *pages)
        for path in files(tmp_path):
            os.utime(path, (1000 + age, path.stat().st_mtime - 1000))
    assert found(snapshots, 2, 2) == [2, 2]  # which is a use
    save(snapshots, 4, 4)
    assert found(other, 1, 1) == []
    save(snapshots, 5, 5)
    assert found(snapshots, 3, 3) == []
    assert found(snapshots, 2, 2) == [2, 2]
    assert sum(path.stat().st_size for path in files(tmp_path)) == 3 * size


def test_the_one_used_last_comes_first(tmp_path: Path) -> None:
    snapshots = make(tmp_path)
    for age, pages in enumerate([(1, 1), (2, 2), (3, 3)]):
        save(snapshots, *pages)
        snapshot = snapshots.find(tokens(*pages))
        assert snapshot is not None
        os.utime(snapshot.path, (1000 + age % 2, 1000 + age % 2))
    found(snapshots, 1, 1)
    order = [snapshot.token_ids[0] for snapshot in make(tmp_path).latest()]
    assert order[:2] == [1, 2]


def test_what_can_not_fit_is_not_kept(tmp_path: Path) -> None:
    assert not save(make(tmp_path, 2 * PAGE_BYTES - 1), 1, 2)
    assert not save(make(tmp_path, 0), 1, 2)
    assert not make(tmp_path).save(tokens(), *data_of(tokens()))
    assert files(tmp_path) == []
    save(make(tmp_path), 1, 2)
    assert make(tmp_path, 0).find(tokens(1, 2)) is None


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = make(tmp_path)
    save(snapshots, 1, 2)
    before = files(tmp_path)

    def full(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert not save(snapshots, 3, 4)
    assert "no space left" in caplog.text
    assert files(tmp_path) == before
    assert found(snapshots, 1, 2) == [1, 2]


def test_what_nobody_finished_is_cleared_away(tmp_path: Path) -> None:
    snapshots = make(tmp_path)
    save(snapshots, 1, 2)
    old, new = (files(tmp_path)[0].with_name(name) for name in ("old.tmp", "new.tmp"))
    old.touch(), new.touch()
    os.utime(old, (1000, 1000))
    save(snapshots, 3, 4)
    assert new.exists()
    assert not old.exists()


def test_many_at_a_time(tmp_path: Path) -> None:
    """Writers and readers in one folder with room for few: every find is right or empty."""
    size = 4096 + 2 * PAGE_BYTES

    def work(seed: int) -> None:
        snapshots = make(tmp_path, 4 * size)
        for i in range(15):
            number = (seed + i * 7) % 10
            save(snapshots, number, number)
            assert found(snapshots, number, number) in ([], [number] * 2)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    survivors = files(tmp_path)
    assert 0 < len(survivors) <= 5  # one more where two were writing last
    for path in survivors:
        read_snapshot(path, KEY)


# --- which model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm(smollm_path: Path) -> Checkpoint:
    return load_checkpoint(str(smollm_path))


def of_file(checkpoint: Checkpoint, path: Path, **changes: object) -> str:
    """The fingerprint of the checkpoint with two tensors in `path`."""
    tensors = {
        "a": TensorRef(path, 0, 1000, "F32", (250,)),
        "b": TensorRef(path, 1000, 40, "F32", (10,)),
    }
    return fingerprint(replace(checkpoint, tensors=tensors | changes.pop("tensors", {}), **changes))


def test_fingerprints_tell_models_apart(smollm: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(1040))
    os.utime(path, ns=(0, 10**18))
    first = of_file(smollm, path)
    assert of_file(smollm, path) == first
    seen = {first}

    def is_new(value: str) -> bool:
        size = len(seen)
        seen.add(value)
        return len(seen) > size

    for at in (0, 255, 999, 1000, 1039):  # at both ends of each tensor
        path.write_bytes(bytes(at) + b"\1" + bytes(1039 - at))
        os.utime(path, ns=(0, 10**18))
        assert is_new(of_file(smollm, path)), at
    path.write_bytes(bytes(1040))
    os.utime(path, ns=(0, 10**18 + 1))
    assert is_new(of_file(smollm, path))
    config = replace(smollm.config, norm_eps=1e-3)
    assert is_new(of_file(smollm, path, config=config))
    half = TensorRef(path, 1000, 40, "F16", (20,))
    assert is_new(of_file(smollm, path, tensors={"b": half}))
    path.write_bytes(bytes(1041))
    os.utime(path, ns=(0, 10**18))
    assert is_new(of_file(smollm, path))
