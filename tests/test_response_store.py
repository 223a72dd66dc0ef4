"""Responses on disk: whose they are, how many are kept, and what a broken file does."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from f1.store.database import NotStored
from f1.store.responses import ResponseStore, StoredResponse, TooMuch

NASTY = "NUL \0, quotes '\"; DROP TABLE responses; --, \U0001f600, \ufffe \u2028"


def make(name: str, previous: str | None = None, text: str = "Hi") -> StoredResponse:
    said = {"id": f"msg_{name}_in", "type": "message", "content": text}
    answer = {"id": f"msg_{name}_out", "type": "message", "content": text}
    return StoredResponse(name, previous, [said], {"id": name, "output": [answer]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "responses.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[ResponseStore]:
    with closing(ResponseStore(path, 2**20)) as store:
        yield store


async def kept(store: ResponseStore, *names: str, tenant: str = "me") -> list[str]:
    return [name for name in names if await store.get(tenant, name)]


async def chain(store: ResponseStore, name: str, max_items: int = 100) -> list[str] | None:
    found = await store.conversation("me", name, max_items=max_items, max_bytes=2**20)
    return None if found is None else [item["id"].split("_")[1] for item in found[::2]]


async def test_what_is_put_is_got_by_its_owner_alone_and_by_a_later_process(path: Path) -> None:
    with closing(ResponseStore(path, 2**20)) as store:
        await store.put("me", make("a", text=NASTY))
    assert path.stat().st_mode & 0o077 == 0
    with closing(ResponseStore(path, 2**20)) as store:
        found = await store.get("me", "a")
        assert found is not None
        assert found.items() == make("a", text=NASTY).items()
        assert await store.get("you", "a") is None
        assert not await store.delete("you", "a")
        assert await store.delete("me", "a")
        assert await store.get("me", "a") is None


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from f1.store.responses import ResponseStore, StoredResponse

async def main():
    store = ResponseStore(Path(sys.argv[1]), 2**20)
    await store.put("me", StoredResponse("a", None, [], {"id": "a", "output": []}))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_is_put_outlives_a_process_that_is_killed(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-P", "-c", KILLED, path], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    with closing(ResponseStore(path, 2**20)) as store:
        assert await kept(store, "a") == ["a"]


async def test_a_chain_is_followed_to_its_beginning(store: ResponseStore) -> None:
    for name, previous in (("a", None), ("b", "a"), ("c", "b"), ("other", "a")):
        await store.put("me", make(name, previous))
    assert await chain(store, "c") == ["a", "b", "c"]
    assert await store.conversation("you", "c", max_items=100, max_bytes=2**20) is None
    with pytest.raises(TooMuch):
        await chain(store, "c", max_items=8)
    with pytest.raises(TooMuch):
        await store.conversation("me", "c", max_items=100, max_bytes=200)
    await store.delete("me", "b")
    assert await chain(store, "c") is None
    assert await chain(store, "other") == ["a", "other"]


async def test_tools_do_not_count_as_conversation(store: ResponseStore) -> None:
    previous = None
    for name in "abcdefgh":
        stored = make(name, previous)
        stored.response["tools"] = ["x" * 50_000]
        await store.put("me", stored)
        previous = name
    found = await store.conversation("me", "h", max_items=100, max_bytes=4000)
    assert found is not None
    assert len(found) == 16
    whole = await store.get("me", "h")
    assert whole is not None
    assert list(whole.response.items()) == list(stored.response.items())


async def test_items_are_found_by_id(store: ResponseStore) -> None:
    await store.put("me", make("a", text="1"))
    await store.put("me", make("b", text="2"))
    ids = ["msg_a_in", "msg_b_out", "msg_c_in"]
    found = await store.items("me", ids, max_bytes=2**20)
    assert {item_id: item["content"] for item_id, item in found.items()} == {
        "msg_a_in": "1", "msg_b_out": "2",
    }  # fmt: skip
    assert await store.items("you", ids, max_bytes=2**20) == {}
    with pytest.raises(TooMuch):
        await store.items("me", ids, max_bytes=200)
    await store.delete("me", "a")
    assert (await store.items("me", ids, max_bytes=2**20)).keys() == {"msg_b_out"}


async def test_what_was_not_used_for_longest_goes_first(path: Path) -> None:
    with closing(ResponseStore(path, 20_000)) as store:
        for name in "abc":
            await store.put("me", make(name, text="x" * 2000))
        await chain(store, "a")  # used now
        await store.put("me", make("d", text="x" * 2000))
        assert await kept(store, *"abcd") == ["a", "c", "d"]
        with pytest.raises(NotStored, match="in all"):
            await store.put("me", make("e", text="x" * 20_000))
        assert await kept(store, *"abcd") == ["a", "c", "d"]


async def test_who_holds_most_makes_room(path: Path) -> None:
    with closing(ResponseStore(path, 30_000)) as store:
        await store.put("you", make("yours", text="x" * 2000))
        for index in range(20):
            await store.put("me", make(f"mine{index}", text="x" * 2000))
        assert await kept(store, "yours", tenant="you") == ["yours"]
        assert await kept(store, "mine0", "mine19") == ["mine19"]


async def test_what_is_too_old_goes(path: Path) -> None:
    with closing(ResponseStore(path, 2**20, max_age=-1)) as store:
        await store.put("me", make("a"))
        await store.put("me", make("b"))
        assert await kept(store, "a", "b") == ["b"]


async def test_nothing_is_kept_where_none_may_be(path: Path) -> None:
    with closing(ResponseStore(path, 0)) as store:
        assert not store.keeps
        assert await store.get("me", "a") is None
        assert await chain(store, "a") is None
    assert not path.exists()


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_broken_file_is_set_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with closing(ResponseStore(path, 2**20)) as store:
        await store.put("me", make("a"))
        assert await kept(store, "a") == ["a"]
    assert path.with_name("responses.sqlite.broken").read_bytes() == content


async def test_pages_broken_in_the_middle_are_found_out(path: Path) -> None:
    with closing(ResponseStore(path, 2**20)) as store:
        for index in range(40):
            await store.put("me", make(str(index), text="x" * 3000))
    data = bytearray(path.read_bytes())
    data[8192:-8192] = b"\xa5" * (len(data) - 16384)
    path.write_bytes(data)
    with closing(ResponseStore(path, 2**20)) as store:
        assert await kept(store, *map(str, range(40))) == []
        await store.put("me", make("a"))
        assert await kept(store, "a") == ["a"]


async def test_a_file_of_another_version_is_set_aside(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    with closing(ResponseStore(path, 2**20)) as store:
        await store.put("me", make("a"))
        assert await kept(store, "a") == ["a"]


@pytest.mark.parametrize("broken", ["CAST(replace(input, 'Hi', 'Ho') AS BLOB)", "5", "'x'"])
async def test_a_broken_row_is_removed_and_the_others_stay(path: Path, broken: str) -> None:
    with closing(ResponseStore(path, 2**20)) as store:
        await store.put("me", make("a"))
        await store.put("me", make("b"))
        with closing(sqlite3.connect(path)) as other, other:
            other.execute(f"UPDATE responses SET input = {broken} WHERE id = 'a'")
        assert await kept(store, "a", "b") == ["b"]


async def test_a_file_that_cannot_be_used_is_told_of(path: Path) -> None:
    path.mkdir(parents=True)
    with closing(ResponseStore(path, 2**20)) as store:
        with pytest.raises(NotStored) as caught:
            await store.check()
        assert str(path.parent) not in caught.value.message


async def test_a_full_disk_keeps_what_was_there(store: ResponseStore) -> None:
    await store.put("me", make("a"))
    await store._database.do(
        lambda db: db.execute("PRAGMA max_page_count = 1")
    )  # as many as there are
    with pytest.raises(NotStored, match="full"):
        await store.put("me", make("b", text="x" * 200_000))
    assert await kept(store, "a", "b") == ["a"]


async def test_two_stores_write_one_file_at_a_time(path: Path) -> None:
    with closing(ResponseStore(path, 2**20)) as one, closing(ResponseStore(path, 2**20)) as other:
        stores = [one, other]
        await asyncio.gather(
            *(stores[index % 2].put("me", make(str(index))) for index in range(40))
        )
        assert len(await kept(one, *map(str, range(40)))) == 40
