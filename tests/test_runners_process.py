"""Worker processes: what bad tools do to them, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from f1.errors import InvalidRequest
from f1.planning.executor import Executor
from f1.planning.gates import Gates
from f1.tools.runners.process import ProcessRunner, Workers
from f1.tools.runners.sandbox import Sandbox
from f1.tools.runners.supervisor import keep_to_itself
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import INVOCATION, CallLimits, Invocation, Output, ToolFailure, ToolSpec
from f1.types import Node, Tool

HERE = Path(__file__).parent
LIMITS = CallLimits(timeout=120)
USER = 12345


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that every process of a bad tool names in its environment or its arguments."""
    monkeypatch.setenv("F1_TEST_MARK", str(tmp_path))
    monkeypatch.setenv("F1_TEST_SECRET", "sesame")
    return tmp_path


@pytest.fixture
def workers(mark: Path) -> Iterator[Workers]:
    settings = WorkerSettings(HERE, ("F1_TEST_MARK",), memory_bytes=256 << 20)
    threads, files = threading.enumerate(), num_files()
    workers = Workers(settings)
    yield workers
    workers.close()
    assert living(mark) == []
    assert threading.enumerate() == threads
    assert num_files() == files


def num_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def living(mark: Path) -> list[str]:
    """Command lines of all processes on the machine that carry the mark, ours aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            carried = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            if str(mark).encode() in carried and folder.name != str(os.getpid()):
                found.append(f"{folder.name} {(folder / 'stat').read_text()[:60]}")
        except OSError:  # it has ended
            continue
    return found


def bad(workers: Workers, name: str) -> ProcessRunner:
    return ProcessRunner(workers, "badtools", name)


# How each ends: by its time, by a failure that says so, or well.
NEVER_END = """
    cpu_loop cpu_loop_in_c cpu_loop_in_a_pattern cpu_loops_in_threads lock reads_a_pipe accepts
    opens_a_fifo ignores_signals catches_all stops_itself in_a_finaliser coroutine
    coroutine_that_blocks coroutine_that_is_not_cancelled main_thread_leaves prints_without_end
    children shell_pipeline grandchildren forks forks_without_end daemon daemon_that_hides
    stops_its_supervisor half_a_header half_a_body coroutine_that_spins coroutine_with_a_thread
    coroutine_behind_a_shield coroutine_with_a_process coroutine_that_swarms waits_for_a_child
    pool_of_processes pool_of_threads locks_a_file_twice storms_itself_with_signals survives_faults
    zombies stops_its_group returns_what_never_ends drips
""".split()
PROCESSES = {"children": 4, "grandchildren": 3, "forks": 21} | dict.fromkeys(
    "daemon daemon_that_hides stops_its_supervisor waits_for_a_child stops_its_group".split(), 2
)
FAIL = {
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "kills_itself": "SIGKILL",
    "kills_its_group": "SIGKILL",
    "kills_its_supervisor": "ended",
    "leaves": "status 0",
    "leaves_with_a_status": "status 3",
    "leaves_with_another_status": "status 255",
    "failure_that_is_none": "no answer",
    "leaves_a_daemon": "status 0",
    "executes_another_program": "ended",
    "exits": "SystemExit: 5",
    "interrupts": "KeyboardInterrupt",
    "raises": "LookupError: not there",
    "raises_much": "ValueError: xxx",
    "raises_what_cannot_be_told": "Odd",
    "recurses": "RecursionError",
    "takes_memory": "MemoryError",
    "takes_memory_of_the_system": "MemoryError",
    "returns_what_is_no_json": "serialize",
    "returns_a_circle": "Circular",
    "returns_depth": "ValueError|RecursionError",
    "closes_everything": "ended",
    "closes_the_channel": "ended",
    "garbage": "no answer",
    "garbage_of_text": "no answer",
    "says_it_is_endless": "no answer",
    "another_answer": "no answer",
    "burst": "no answer",
    "rings_an_alarm": "SIGALRM",
    "terminates_its_supervisor": "ended",
    "overflows_the_stack": "SIGSEGV",
    "opens_all_files": "Too many open files",
    "starts_all_threads": "can't start new thread",
    "asks_the_user": "EOFError",
    "raises_a_group": "several",
    "raises_a_long_chain": "ValueError: x|RecursionError|ended",
    "raises_with_a_long_name": "XXX",
    "coroutine_that_cancels_itself": "CancelledError",
    "coroutine_in_a_loop_of_its_own": "RuntimeError",
    "coroutine_that_leaves": "status 4",
    "returns_an_async_generator": "serialize",
    "returns_what_breaks": "LookupError: half of it",
    "answers_no_json": "no JSON",
    "answers_what_is_no_number": "no JSON",
    "answers_depth": "no JSON",
    "answers_of_no_kind": "no answer",
    "answers_more_than_it_says": "no answer",
    "fails_at_length": "no answer",
}
END_WELL = """
    returns_twice takes_away_output leaves_a_thread leaves_a_task leaves_a_child
    leaves_work_for_the_end leaves_its_folder changes_its_environment prints_what_is_no_text
""".split()
OFTEN = {
    *("ignores_signals", "coroutine_that_is_not_cancelled", "prints_without_end"),
    *("daemon_that_hides", "stops_its_supervisor", "half_a_body"),
    *("segfault", "kills_its_supervisor", "leaves_a_daemon", "takes_memory", "burst"),
    *(
        "returns_twice",
        "coroutine_behind_a_shield",
        "drips",
        "overflows_the_stack",
        "answers_depth",
    ),
}


def some(names: Any) -> list[Any]:
    return [
        pytest.param(name, id=name, marks=() if name in OFTEN else pytest.mark.full)
        for name in names
    ]


async def is_well(workers: Workers) -> None:
    assert await bad(workers, "good").call({"x": 2}, LIMITS) == Output(3)


def has_begun(mark: Path, name: str = "") -> bool:
    """The tool, and all that it starts first."""
    return len(list(mark.iterdir())) >= PROCESSES.get(name, 1)


@pytest.mark.parametrize("name", some(NEVER_END))
async def test_what_is_cancelled_is_ended(name: str, workers: Workers, mark: Path) -> None:
    """With all that it has started, and the next call is served."""
    await is_well(workers)
    task = asyncio.create_task(bad(workers, name).call({}, LIMITS))  # the second of its worker
    async with asyncio.timeout(LIMITS.timeout):
        while not has_begun(mark, name):
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await is_well(workers)


@pytest.mark.full
@pytest.mark.parametrize("name", NEVER_END)
async def test_what_runs_out_of_time_is_ended(name: str, workers: Workers, mark: Path) -> None:
    """Within a second, on a machine that has nothing else to do."""
    runner = bad(workers, name)
    await runner.describe()  # the worker is warm, and its time its own
    limits = CallLimits(timeout=1.0)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await runner.call({}, limits)
    late = time.monotonic() - began - limits.timeout
    assert has_begun(mark, name)
    assert late < 1.0
    await is_well(workers)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
@pytest.mark.parametrize("name", [*NEVER_END, *FAIL])
async def test_in_a_sandbox_it_is_ended_as_well(name: str, workers: Workers) -> None:
    """Some are ended otherwise there: they cannot reach who holds them, or start no more."""
    good = ProcessRunner(workers, "badtools", "good", Sandbox())
    assert await good.call({"x": 2}, LIMITS) == Output(3)
    limits = CallLimits(timeout=1.0)
    began = time.monotonic()
    with pytest.raises((TimeoutError, ToolFailure)):
        await ProcessRunner(workers, "badtools", name, Sandbox()).call({}, limits)
    assert time.monotonic() - began - limits.timeout < 1.0
    assert await good.call({"x": 2}, LIMITS) == Output(3)


async def test_time_runs_out(workers: Workers) -> None:
    with pytest.raises(TimeoutError):
        await bad(workers, "cpu_loop").call({}, CallLimits(timeout=0.2))
    await is_well(workers)


@pytest.mark.parametrize("name", some(FAIL))
async def test_what_fails_says_so(name: str, workers: Workers, mark: Path) -> None:
    with pytest.raises(ToolFailure, match=FAIL[name]) as told:
        await bad(workers, name).call({}, LIMITS)
    assert has_begun(mark)
    assert len(str(told.value)) < 5000
    assert "/" not in str(told.value)  # no paths
    await is_well(workers)


@pytest.mark.parametrize("name", some(END_WELL))
async def test_what_ends_well_is_followed_by_others(name: str, workers: Workers) -> None:
    assert await bad(workers, name).call({}, LIMITS) == Output(1)
    for _ in range(3):
        await is_well(workers)


async def test_a_run_goes_on(workers: Workers) -> None:
    """What bad tools come to is a result of its kind, and the good one's is there."""
    limits = {"cpu_loop": CallLimits(timeout=0.3), "segfault": LIMITS, "good": LIMITS}
    specs = {
        name: ToolSpec(Tool(name), bad(workers, name), limits=limit)
        for name, limit in limits.items()
    }
    async with Executor(specs, Gates()) as executor:
        for number, name in enumerate(specs):
            executor.add(Node(str(number), name, {}))
        late, crashed, good = [await executor.result(str(number)) for number in range(3)]
    assert (late.failed, crashed.failed, good.failed) == ("timeout", "error", None)
    assert "SIGSEGV" in crashed.content
    assert good.value == 2


SERVER = """
import asyncio, sys
from pathlib import Path
from f1.tools.runners.process import ProcessRunner, Workers
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import CallLimits
workers = Workers(WorkerSettings(Path(sys.argv[1]), ("F1_TEST_MARK",)))
asyncio.run(ProcessRunner(workers, "badtools", "daemon_that_hides").call({}, CallLimits()))
"""


def test_all_ends_with_the_server(mark: Path) -> None:
    """Also where it had no time to do anything."""
    paths = os.pathsep.join(filter(None, sys.path))
    server = subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER, HERE], env={**os.environ, "PYTHONPATH": paths}
    )
    wait_for(lambda: has_begun(mark, "daemon_that_hides") or server.poll() is not None)
    assert len(living(mark)) >= 4  # itself, the supervisor, the worker, the daemon
    server.kill()
    server.wait()
    wait_for(lambda: not living(mark))


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.full
async def test_bad_tools_side_by_side(workers: Workers) -> None:
    """All of them at once, and good calls between them."""
    async with asyncio.timeout(120):
        ends = await asyncio.gather(
            *(bad(workers, name).call({}, CallLimits(timeout=5)) for name in [*NEVER_END, *FAIL]),
            *(bad(workers, "good").call({"x": n}, CallLimits()) for n in range(20)),
            return_exceptions=True,
        )
    assert all(isinstance(end, TimeoutError | ToolFailure) for end in ends[:-20])
    assert ends[-20:] == [Output(n + 1) for n in range(20)]


async def test_a_worker_is_kept_and_prints_for_the_log(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "f1.tools"):
        output = await bad(workers, "prints_and_reads").call({"x": 4}, LIMITS)
        assert output == Output(["", 4])
        first = await bad(workers, "where").call({}, LIMITS)
        process, group, parent, session = first.value
        assert process == group
        assert parent == session
        while "complained" not in caplog.text:
            assert await bad(workers, "where").call({}, LIMITS) == first
    assert "raw\nsaid 4" in caplog.text


async def test_another_is_started_ahead(mark: Path) -> None:
    """And has imported the module before it is asked."""
    (mark / "slow.py").write_text(
        "import os\nopen(f'imported-{os.getpid()}', 'w').close()\ndef die() -> None: os._exit(1)\n"
    )
    workers = Workers(WorkerSettings(mark))
    try:
        die = workers.tool("slow:die")
        assert len(list(mark.glob("imported-*"))) == 1
        for number in (2, 3):
            with pytest.raises(ToolFailure, match="status 1"):
                await ProcessRunner(workers, "slow", "die").call({}, die.limits)
            while len(list(mark.glob("imported-*"))) < number:
                await asyncio.sleep(0.01)
    finally:
        workers.close()


async def test_an_idle_worker_dies_or_talks(workers: Workers, mark: Path) -> None:
    """The next call has another."""
    [process, *_] = (await bad(workers, "where").call({}, LIMITS)).value
    os.kill(process, signal.SIGKILL)
    while Path(f"/proc/{process}").exists():
        await asyncio.sleep(0.01)
    talker = (await bad(workers, "talks_later").call({}, LIMITS)).value
    (mark / "heard").touch()
    while not (mark / str(talker)).exists():
        await asyncio.sleep(0.01)
    await is_well(workers)


async def test_a_call_does_not_wait_for_the_last_one(workers: Workers, mark: Path) -> None:
    """Which has answered by itself, and has not ended; or has broken its interpreter."""
    for name, answer in (("answers_and_goes_on", Output(1)), ("breaks_the_interpreter", Output(2))):
        assert await bad(workers, name).call({}, LIMITS) == answer
        await is_well(workers)


async def test_secrets_stay_here(workers: Workers, mark: Path) -> None:
    seen = (await bad(workers, "environment").call({}, LIMITS)).value
    assert seen["F1_TEST_MARK"] == str(mark)
    assert os.environ["F1_TEST_SECRET"] == "sesame"
    assert "sesame" not in str(seen)
    assert "PYTHONPATH" not in seen


async def test_a_tool_knows_which_call_it_is(workers: Workers) -> None:
    """And the next one is not told of the last."""
    for key in ("one", "two", None):
        token = INVOCATION.set(Invocation(key) if key else None)
        assert await bad(workers, "which_call").call({}, LIMITS) == Output(key)
        assert await bad(workers, "which_call_later").call({}, LIMITS) == Output([key, key])
        INVOCATION.reset(token)


async def test_a_call_begins_as_the_first_one_did(workers: Workers) -> None:
    """Whatever the one before has done to its folder and its environment."""
    first = (await bad(workers, "state").call({}, LIMITS)).value
    for name in ("leaves_its_folder", "changes_its_environment"):
        await bad(workers, name).call({}, LIMITS)
        assert (await bad(workers, "state").call({}, LIMITS)).value == first


async def test_a_process_for_each_call(mark: Path) -> None:
    """What a module keeps is there for the next call; where none is kept idle, it is not."""
    for idle, seen in ((4, [1, 2]), (0, [2])):
        settings = WorkerSettings(HERE, ("F1_TEST_MARK",), idle=idle)
        with closing(Workers(settings)) as workers:
            await bad(workers, "remembers").call({"x": 1}, LIMITS)
            assert await bad(workers, "remembers").call({"x": 2}, LIMITS) == Output(seen)


def readable(path: str) -> bool:
    """For another process, of an ordinary user where we are root."""
    reader = os.fork()
    if reader == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(USER, USER, USER)
                os.setresuid(USER, USER, USER)
            os.close(os.open(path, os.O_RDONLY))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(reader, 0)[1] == 0


@pytest.mark.parametrize("what", ["environ", "mem", "auxv"])
def test_others_of_the_user_do_not_read_the_server(what: str) -> None:
    """A child stands for it, and the tool for another."""
    told, tell = os.pipe()
    go, wait = os.pipe()
    server = os.fork()
    if server == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(USER, USER, USER)
                os.setresuid(USER, USER, USER)
                ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as it is for who was no other before
            os.write(tell, b"x")
            os.read(go, 1)
            keep_to_itself()
            os.write(tell, b"x")
            os.read(go, 1)
        finally:
            os._exit(0)
    try:
        os.read(told, 1)
        assert readable(f"/proc/{server}/{what}")
        os.write(wait, b"x")
        os.read(told, 1)
        assert not readable(f"/proc/{server}/{what}")
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        for fd in (told, tell, go, wait):
            os.close(fd)


async def test_processor_time_is_bounded(mark: Path) -> None:
    settings = WorkerSettings(HERE, ("F1_TEST_MARK",), cpu_seconds=0.1)
    workers = Workers(settings)
    try:
        with pytest.raises(ToolFailure, match="SIGXCPU"):
            await bad(workers, "cpu_loop").call({}, LIMITS)
        await is_well(workers)
    finally:
        workers.close()


def test_a_function_describes_itself(workers: Workers) -> None:
    spec = workers.tool("badtools:good")
    assert spec.name == "good"
    assert spec.output == {"type": "integer"}
    assert spec.tool.parameters["properties"] == {"x": {"type": "integer", "default": 1}}
    assert spec.runner is not None
    assert asyncio.run(spec.runner.call({"x": 5}, spec.limits)) == Output(6)
    assert workers.tool("badtools.py:good").tool == spec.tool
    by_file = workers.tool(f"{HERE / 'badtools.py'}:good")
    assert by_file.tool == spec.tool


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("badtools", "neither"),
        ("badtools:", "neither"),
        ("bad tools:good", "neither"),
        ("badtools:good()", "neither"),
        ("not_there_at_all:f", "No module named 'not_there_at_all'"),
        ("not_there.py:f", "not_there.py"),
        ("badtools:nothing", "nothing"),
        ("badtools:MARK", "signature|callable"),
        ("badtools:some.thing", "some"),
    ],
)
def test_what_is_not_there_is_refused(
    workers: Workers, path: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidRequest, match=told) as refused:
        workers.tool(path)
    assert refused.value.param == "python"
    assert path in str(refused.value)
    if path.startswith("not_there"):
        assert caplog.text == ""  # no trace of what looked for it: the error says it all


def test_where_no_process_can_be_started(tmp_path: Path) -> None:
    workers = Workers(WorkerSettings(tmp_path / "nowhere"))
    with pytest.raises(InvalidRequest, match="cannot be started: No such file"):
        workers.tool("badtools:good")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("lines", 5_000_000),
        ("rows", 7_000_001),
        pytest.param("long_text", 1 << 30, marks=pytest.mark.full),
        pytest.param("long_bytes", 256 << 20, marks=pytest.mark.full),
        ("without_end", None),
        pytest.param("prints_a_gigabyte", 0, marks=pytest.mark.full),
    ],
)
async def test_giant_output_is_cut_and_costs_little(
    name: str, size: int | None, mark: Path
) -> None:
    workers = Workers(WorkerSettings(HERE, ("F1_TEST_MARK",)))
    limits = CallLimits(timeout=60)
    try:
        await is_well(workers)
        before = resident()
        output = await bad(workers, name).call({}, limits)
        after = resident()
        if size == 0:
            assert output == Output(1)
        else:
            assert output.num_bytes is not None
            assert output.num_bytes == size or (
                size is None and output.num_bytes > limits.max_bytes
            )
            assert limits.max_bytes // 4 <= len(output.value) <= limits.max_bytes
        assert after - before < 16 << 20
    finally:
        workers.close()


def resident() -> int:
    """Bytes of ours at their peak since the last time."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return peak
