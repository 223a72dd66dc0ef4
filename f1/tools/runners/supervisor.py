"""The program that holds a worker: nothing that a tool has started outlives it.

    server ── control ──▶ supervisor ── fork ──▶ worker (worker.py beside this): the tool's code
       └───── channel ───────────────────────────┘  └── its children, their children, daemons …

In a sandbox the child becomes the program that sets it up (sandbox.py), which becomes the worker.

The supervisor runs no code of a tool. On Linux, orphans of its tree become its own children: so it
sees even what has left its parents, and has ended all of it when it has no children left. It does
so when the worker ends, and when the server lets go of `control` or is gone. What the tool prints
goes up `control` as it is; what nobody reads there is dropped. It exits with the worker's status,
128 + n after signal n.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

_SUBREAPER, _DEATH_SIGNAL, _DUMPABLE = 36, 1, 4  # of Linux's prctl
_END_SECONDS = 5.0  # what does not die by SIGKILL within them hangs in the kernel
_PIECE = 1 << 16


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)  # by programs that the tool starts

    def become(output: int) -> None:
        stand_apart(os.open(os.devnull, os.O_RDONLY), output, output)
        from f1.tools.runners.worker import work

        work(channel)

    if len(sys.argv) > 2:
        _hold_sandbox(json.loads(sys.argv[2]), channel)
    hold(become, channel.close)


def _hold_sandbox(plan: dict[str, Any], channel: socket.socket) -> NoReturn:
    """As Worker has written it down."""
    from f1.tools.runners.cgroups import enter_groups, remove_groups

    name = f"f1-{os.getpid()}"

    def become(output: int) -> None:
        stand_apart(os.open(os.devnull, os.O_RDONLY), output, output)
        try:
            enter_groups(plan["bounds"], name)
            for fd in (channel.fileno(), plan["seccomp"]):
                os.set_inheritable(fd, True)
            os.execv(plan["command"][0], plan["command"])
        except OSError as error:
            os.write(2, f"bwrap: {error.strerror}\n".encode())

    hold(become, channel.close, lambda: remove_groups(plan["bounds"], name))


def hold(
    become: Callable[[int], None],
    let_go: Callable[[], None],
    clean: Callable[[], object] = lambda: None,
) -> NoReturn:
    """Forks a child that shall `become` what is held, given where its output goes to; then, having
    `let_go` of what is the child's, holds it to its end, and cleans up. stdin is `control`."""
    control = socket.socket(fileno=sys.stdin.fileno())
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _prctl(_SUBREAPER, 1)
    printed, its_output = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            for fd in (woken, waker, printed):
                os.close(fd)
            become(its_output)
        finally:
            os._exit(1)
    keep_to_itself()
    let_go()
    os.close(its_output)
    code = os.waitstatus_to_exitcode(_until_the_end(worker, control, printed, woken))
    while _forward(printed, control):
        pass
    clean()
    os._exit(code if code >= 0 else 128 - code)


def stand_apart(*standard: int) -> None:
    """In the child: a group of its own, no life after its parent's, `standard` for 0, 1 and 2."""
    os.setpgid(0, 0)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for target, fd in enumerate(standard):
        os.dup2(fd, target)


def _until_the_end(worker: int, control: socket.socket, printed: int, woken: int) -> int:
    """The worker's status, once it has ended, or was to end, and nothing is left of it."""
    os.set_blocking(printed, False)
    poll = select.poll()
    for fd in (control.fileno(), printed, woken):
        poll.register(fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if printed in ready and not _forward(printed, control):
            poll.unregister(printed)
        if woken in ready:
            asked = signal.SIGTERM in os.read(woken, 512)
            status = _reap(worker)
            if asked or status is not None:
                return _end_tree(worker, status)
        if control.fileno() in ready:  # nothing is ever said there: it is the end
            return _end_tree(worker, None)


def _forward(printed: int, control: socket.socket) -> bool:
    """A piece, up, or away if nobody takes it. False where there is none."""
    try:
        piece = os.read(printed, _PIECE)
    except BlockingIOError:
        return False
    with suppress(OSError):
        control.send(piece, socket.MSG_DONTWAIT)
    return bool(piece)


def _reap(worker: int) -> int | None:
    """The worker's status, if it has just ended; orphans that have are forgotten. Raises
    ChildProcessError once nobody is left."""
    found = None
    while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
        found = reaped[1] if reaped[0] == worker else found
        if found is not None:
            break
    return found


def _end_tree(worker: int, status: int | None) -> int:
    """Ends all that has come of the worker: where orphans become ours, nothing can be left."""
    until = time.monotonic() + _END_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            ended = _reap(worker)
            status = ended if status is None else status
            kill_descendants(os.getpid())
            time.sleep(0.001)
    return status or 0


def kill_descendants(root: int) -> bool:
    """Once; more may have come up meanwhile. False if none was alive. On Linux."""
    found = descendants(root)
    for process in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    return any(found.values())


def descendants(root: int) -> dict[int, bool]:
    """All under `root` and in its session, as far as /proc tells, and if they are more than a
    status for their parents (a zombie may still have threads)."""
    children: dict[int, list[int]] = {}
    alive: dict[int, bool] = {}
    waiting, found = [root], set[int]()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):  # it has ended
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            state, parent, _, session = fields[:4]
            process = int(entry.parent.name)
            alive[process] = state not in "ZX"
            children.setdefault(int(parent), []).append(process)
            if int(session) == root and process != root:
                waiting.append(process)
                found.add(process)
    while waiting:
        under = children.pop(waiting.pop(), [])
        found.update(under)
        waiting += under
    return {process: alive[process] for process in found}


def keep_to_itself() -> None:
    """Other processes of this user do not read our memory, our environment and our descriptors.
    Those of root do."""
    _prctl(_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
