"""Tools that do what tools must not. Every one leaves a file in $F1_TEST_MARK to show that it has
begun (as does every process that it starts), and then misbehaves."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import fcntl
import json
import multiprocessing.pool
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import f1

MARK = os.environ["F1_TEST_MARK"]
Path(MARK).mkdir(parents=True, exist_ok=True)  # in a sandbox it is one of its own
SLEEP = f"""
import pathlib, os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
pathlib.Path({MARK!r}, str(os.getpid())).touch()
time.sleep(1000)
"""


def begun() -> None:
    Path(MARK, str(os.getpid())).touch()


def started(number: int) -> None:
    """Waits until so many processes have begun."""
    while len(list(Path(MARK).iterdir())) < number:
        time.sleep(0.01)


def good(x: int = 1) -> int:
    return x + 1


# --- what never ends ------------------------------------------------------------------------------


def cpu_loop() -> None:
    begun()
    while True:
        pass


def cpu_loop_in_c() -> None:
    begun()
    sum(range(10**13))


def cpu_loop_in_a_pattern() -> None:
    begun()
    re.match(r"(a*)*b", "a" * 64)


def cpu_loops_in_threads() -> None:
    begun()
    for _ in range(4):
        threading.Thread(target=cpu_loop).start()
    cpu_loop()


def lock() -> None:
    begun()
    held = threading.Lock()
    with held:
        held.acquire()


def reads_a_pipe() -> None:
    begun()
    os.read(os.pipe()[0], 1)


def accepts() -> None:
    begun()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.accept()


def opens_a_fifo() -> None:
    begun()
    os.mkfifo(f"{MARK}/fifo")
    Path(MARK, "fifo").read_bytes()


def ignores_signals() -> None:
    begun()
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def catches_all() -> None:
    begun()
    while True:
        with suppress(BaseException):
            time.sleep(1000)


def stops_itself() -> None:
    begun()
    os.kill(os.getpid(), signal.SIGSTOP)


def in_a_finaliser() -> int:
    class Late:
        def __del__(self) -> None:
            begun()
            time.sleep(1000)

    return len([Late()])


async def coroutine() -> None:
    begun()
    await asyncio.Event().wait()


async def coroutine_that_blocks() -> None:
    begun()
    time.sleep(1000)


async def coroutine_that_is_not_cancelled() -> None:
    begun()
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            continue


def main_thread_leaves() -> None:
    begun()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    ctypes.CDLL(None).pthread_exit(None)


def prints_without_end() -> None:
    begun()
    while True:
        print("x" * 100_000)


def children() -> None:
    begun()
    for _ in range(3):
        subprocess.Popen([sys.executable, "-c", SLEEP])
    started(4)
    time.sleep(1000)


def shell_pipeline() -> None:
    begun()
    subprocess.run(f"touch {MARK}/shell; yes | cat > /dev/null", shell=True, check=False)


def grandchildren() -> None:
    begun()
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n{SLEEP}"
    subprocess.Popen([sys.executable, "-c", code])
    started(3)
    time.sleep(1000)


def forks() -> None:
    begun()
    for _ in range(20):
        if os.fork() == 0:
            cpu_loop()
    started(21)
    time.sleep(1000)


def forks_without_end() -> None:
    begun()
    while True:  # each is replaced the moment it is ended, but for its parent
        if os.fork() == 0:
            begun()
            time.sleep(0.2)
            os._exit(0)
        time.sleep(0.005)


def _daemon(setup: str = "") -> None:
    code = (
        "import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
        f"{setup}\n{SLEEP}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def daemon() -> None:
    begun()
    _daemon()
    started(2)
    time.sleep(1000)


def daemon_that_hides() -> None:
    begun()
    _daemon("os.environ.clear(); os.closerange(0, 256); os.chdir('/')")
    started(2)
    time.sleep(1000)


async def coroutine_that_spins() -> None:
    begun()
    while True:
        await asyncio.sleep(0)


async def coroutine_with_a_thread() -> None:
    begun()
    await asyncio.to_thread(time.sleep, 1000)


async def coroutine_behind_a_shield() -> None:
    begun()
    await asyncio.shield(asyncio.ensure_future(coroutine_that_is_not_cancelled()))


async def coroutine_with_a_process() -> None:
    begun()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SLEEP)
    await process.wait()


async def coroutine_that_swarms() -> None:
    begun()
    await asyncio.gather(*(asyncio.sleep(1000) for _ in range(10_000)))


def waits_for_a_child() -> None:
    begun()
    subprocess.run([sys.executable, "-c", SLEEP], check=False)


def pool_of_processes() -> None:
    begun()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(time.sleep, [1000, 1000])


def pool_of_threads() -> None:
    begun()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(time.sleep, [1000] * 4))


def locks_a_file_twice() -> None:
    begun()
    path = Path(MARK, "lock")
    with path.open("w") as first, path.open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        fcntl.flock(second, fcntl.LOCK_EX)


def storms_itself_with_signals() -> None:
    begun()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    while True:
        time.sleep(1000)


def survives_faults() -> None:
    begun()
    signal.signal(signal.SIGSEGV, lambda *_: None)
    os.kill(os.getpid(), signal.SIGSEGV)
    ctypes.string_at(0)  # again and again: the handler returns to it


def zombies() -> None:
    begun()
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)
    time.sleep(1000)


def stops_its_group() -> None:
    begun()
    subprocess.Popen([sys.executable, "-c", SLEEP])
    started(2)
    os.killpg(0, signal.SIGSTOP)


def returns_what_never_ends() -> Iterator[int]:
    begun()
    yield 1
    time.sleep(1000)


def drips() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"T", 3, 1 << 20, 1 << 20))
    while True:
        os.write(_channel(), b"x")
        time.sleep(0.01)


def executes_another_program() -> None:
    begun()
    os.execv(sys.executable, [sys.executable, "-c", SLEEP])


def stops_its_supervisor() -> None:
    begun()
    _daemon()
    started(2)
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(1000)


def half_a_header() -> None:
    begun()
    os.write(_channel(), b"J\0\0")
    time.sleep(1000)


def half_a_body() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 3, 100, 100) + b"[")
    time.sleep(1000)


# --- what ends otherwise --------------------------------------------------------------------------


def segfault() -> None:
    begun()
    ctypes.string_at(0)


def abort() -> None:
    begun()
    os.abort()


def kills_itself() -> None:
    begun()
    os.kill(os.getpid(), signal.SIGKILL)


def kills_its_group() -> None:
    begun()
    os.killpg(0, signal.SIGKILL)


def kills_its_supervisor() -> None:
    begun()
    subprocess.Popen([sys.executable, "-c", SLEEP])
    started(2)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def leaves() -> None:
    begun()
    os._exit(0)


def leaves_with_a_status() -> None:
    begun()
    os._exit(3)


def leaves_with_another_status() -> None:
    begun()
    os._exit(255)


def failure_that_is_none() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"F", 1, 2, 2) + b"{}")


def leaves_a_daemon() -> None:
    begun()
    _daemon()
    started(2)
    os._exit(0)


def exits() -> None:
    begun()
    sys.exit(5)


def interrupts() -> None:
    begun()
    raise KeyboardInterrupt


def raises() -> None:
    begun()
    raise LookupError("not there")


def raises_much() -> None:
    begun()
    raise ValueError("x" * 10_000_000)


def raises_what_cannot_be_told() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise self

    begun()
    raise Odd


def recurses() -> None:
    begun()
    recurses()


def takes_memory() -> None:
    begun()
    held = []
    while True:
        held.append(bytearray(1 << 24))


def takes_memory_of_the_system() -> None:
    begun()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while block := libc.malloc(1 << 26):
        ctypes.memset(block, 1, 1 << 26)
    raise MemoryError


def rings_an_alarm() -> None:
    begun()
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(1000)


def terminates_its_supervisor() -> None:
    begun()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(1000)


def overflows_the_stack() -> None:
    begun()
    deep: Any = ()
    for _ in range(1_000_000):
        deep = (deep,)
    hash(deep)


def opens_all_files() -> None:
    begun()
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = [os.pipe() for _ in range(200)]
    raise AssertionError(len(held))


def starts_all_threads() -> None:
    begun()
    while True:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def asks_the_user() -> str:
    begun()
    return input("? ")


def raises_a_group() -> None:
    begun()
    raise BaseExceptionGroup("several", [ValueError("one"), KeyboardInterrupt()])


def raises_a_long_chain() -> None:
    begun()
    error = ValueError("last")
    for _ in range(50_000):
        cause, error = error, ValueError("x")
        error.__cause__ = cause
    raise error


def raises_with_a_long_name() -> None:
    begun()
    raise type("X" * 1_000_000, (Exception,), {})


async def coroutine_that_cancels_itself() -> None:
    begun()
    raise asyncio.CancelledError


async def coroutine_in_a_loop_of_its_own() -> None:
    begun()
    asyncio.run(asyncio.sleep(0))


async def coroutine_that_leaves() -> None:
    begun()
    os._exit(4)


def returns_an_async_generator() -> Any:
    begun()

    async def numbers() -> Any:
        yield 1

    return numbers()


def returns_what_breaks() -> Iterator[int]:
    begun()
    yield 1
    raise LookupError("half of it")


def answers_no_json() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 1, 1, 1) + b"{")
    time.sleep(1000)


def answers_what_is_no_number() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 1, 3, 3) + b"NaN")
    time.sleep(1000)


def answers_depth() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 1, 100_000, 100_000) + b"[" * 100_000)
    time.sleep(1000)


def answers_of_no_kind() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"X", 1, 4, 4) + b"null")
    time.sleep(1000)


def answers_more_than_it_says() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"T", 1, 1, 100) + b"x" * 100)
    time.sleep(1000)


def fails_at_length() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"F", 1, 1 << 30, 1 << 30))
    time.sleep(1000)


def returns_what_is_no_json() -> Any:
    begun()
    return threading.Lock()


def returns_a_circle() -> Any:
    begun()
    circle: list[Any] = []
    circle.append(circle)
    return circle


def returns_depth() -> Any:
    begun()
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    return deep


def closes_everything() -> None:
    begun()
    os.closerange(0, 256)


def closes_the_channel() -> None:
    begun()
    os.close(_channel())


def garbage() -> None:
    begun()
    os.write(_channel(), os.urandom(1000))


def garbage_of_text() -> None:
    begun()
    os.write(_channel(), b'{"jsonrpc": "2.0", "result": null}\n' * 100)


def says_it_is_endless() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 1, 2**64 - 1, 2**32 - 1))


def another_answer() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 7777, 4, 4) + b"null")


def burst() -> None:
    begun()
    while True:
        os.write(_channel(), b"\xff" * 65536)


def talks_later() -> int:
    """When its answer has been read."""

    def talk() -> None:
        started(1)
        os.write(_channel(), b"by the way")
        begun()

    threading.Thread(target=talk).start()
    return os.getpid()


def returns_twice() -> int:
    begun()
    os.fork()
    begun()
    return 1


def _channel() -> int:
    """The worker's own socket, where it is not to be found."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
        except OSError:
            continue
    raise RuntimeError("there is no socket")


# --- what may be done -----------------------------------------------------------------------------


def prints_and_reads(x: int) -> list[Any]:
    os.write(1, b"raw\n")
    print("said", x)
    print("complained", file=sys.stderr)
    return [sys.stdin.read(), x]


def takes_away_output() -> int:
    begun()
    sys.stdout.close()
    sys.stderr = None  # type: ignore[assignment]
    return 1


def leaves_a_thread() -> int:
    begun()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return 1


def answers_and_goes_on() -> None:
    begun()
    os.write(_channel(), struct.pack("!cQQI", b"J", 1, 1, 1) + b"1")
    time.sleep(1000)


def breaks_the_interpreter() -> int:
    begun()
    json.loads = None  # type: ignore[assignment]
    return 2


async def leaves_a_task() -> int:
    begun()
    task = asyncio.ensure_future(coroutine_that_spins())
    return 1 if not task.done() else 0


def leaves_a_child() -> int:
    begun()
    subprocess.Popen([sys.executable, "-c", SLEEP])
    started(2)
    return 1


def leaves_work_for_the_end() -> int:
    begun()
    atexit.register(time.sleep, 1000)
    return 1


def leaves_its_folder() -> int:
    begun()
    folder = Path(MARK, "gone")
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    folder.rmdir()
    return 1


def changes_its_environment() -> int:
    begun()
    os.environ.clear()
    os.umask(0o777)
    return 1


def prints_what_is_no_text() -> int:
    begun()
    os.write(1, os.urandom(10_000) + b"\x1b[2J\x1b]0;title\x07")
    return 1


def state() -> list[Any]:
    """Of the process, which a call before may have changed."""
    mask = os.umask(0)
    os.umask(mask)
    return [os.getcwd(), mask, dict(os.environ)]


KEPT: list[int] = []


def remembers(x: int) -> list[int]:
    KEPT.append(x)
    return KEPT


def environment() -> dict[str, str]:
    return dict(os.environ)


def where() -> list[int]:
    return [os.getpid(), os.getpgrp(), os.getppid(), os.getsid(0)]


# --- output ---------------------------------------------------------------------------------------


def long_text() -> str:
    return "x" * (1 << 30)


def long_bytes() -> bytes:
    return os.urandom(1 << 20) * 256


def lines() -> str:
    return "line\n" * 1_000_000


def rows() -> list[str]:
    return ["line"] * 1_000_000


def without_end() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def prints_a_gigabyte() -> int:
    piece = b"x" * (1 << 20)
    for _ in range(1 << 10):
        os.write(1, piece)
    return 1


def which_call() -> str | None:
    call = f1.invocation()
    return call and call.key


async def which_call_later() -> list[str | None]:
    return [which_call(), await asyncio.to_thread(which_call)]
