"""Ways out of a sandbox. Every one returns something true where it was a way out; without the
sandbox that is what it does, of which the tests make sure first. `prey` says where things are."""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import pty
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Prey = dict[str, Any]
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"


def good(x: int = 1) -> int:
    return x + 1


def syscall(on_x86: int, on_arm: int, *arguments: Any) -> int:
    result: int = LIBC.syscall(ctypes.c_long(on_x86 if X86 else on_arm), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read(path: str) -> str:
    return Path(path).read_text(errors="replace")


# --- files ----------------------------------------------------------------------------------------


def ssh_key(prey: Prey) -> bool:
    return "sesame" in read(prey["key"])


def cache(prey: Prey) -> bool:
    return "sesame" in read(prey["cache"])


def environment_file(prey: Prey) -> bool:
    return "sesame" in read(prey["folder"] + "/.env")


def configuration(prey: Prey) -> bool:
    return "sesame" in read(prey["folder"] + "/f1.toml")


def accounts(prey: Prey) -> bool:
    return "root" in read("/etc/passwd")


def machine_id(prey: Prey) -> bool:
    return bool(os.listdir("/sys/class") or os.listdir("/var"))


def link_to_outside(prey: Prey) -> bool:
    return "sesame" in read(prey["folder"] + "/link")


def dots(prey: Prey) -> bool:
    return "sesame" in read(prey["folder"] + "/../home/.ssh/id")


def list_home(prey: Prey) -> bool:
    return bool(os.listdir(prey["home"]))


def root_of_another(prey: Prey) -> bool:
    return "sesame" in read(f"/proc/{prey['server']}/root{prey['key']}")


def folder_of_another(prey: Prey) -> bool:
    return bool(os.listdir(f"/proc/{prey['server']}/cwd/"))


def writes_outside(prey: Prey) -> bool:
    return bool(Path(prey["home"], "written").write_text("x"))


def deletes_outside(prey: Prey) -> bool:
    Path(prey["home"], "victim").unlink()
    return True


def changes_its_source(prey: Prey) -> bool:
    with open(__file__, "r+b") as file:
        return file.writable()


def poisons_bytecode(prey: Prey) -> bool:
    folder = Path(prey["folder"], "__pycache__")
    folder.mkdir(exist_ok=True)
    return bool((folder / "other.cpython-311.pyc").write_bytes(b"x"))


def changes_python(prey: Prey) -> bool:
    with open(os.__file__, "r+b") as file:
        return file.writable()


def changes_f1(prey: Prey) -> bool:
    with open(sys.modules["f1"].__file__ or "", "r+b") as file:
        return file.writable()


def changes_a_mode(prey: Prey) -> bool:
    os.chmod(__file__, 0o4777)
    return True


def links_hard(prey: Prey) -> bool:
    os.link(__file__, prey["folder"] + "/hard")
    return True


def reads_by_handle(prey: Prey) -> bool:
    """The i-node of the root directory, through a descriptor of any file of that disk."""
    handle = ctypes.create_string_buffer(struct.pack("=Iiii", 8, 1, 2, 0) + bytes(128))
    with open(__file__) as file:
        fd = syscall(304, 265, file.fileno(), handle, os.O_RDONLY)
    return "etc" in os.listdir(fd)


def reads_the_disk(prey: Prey) -> bool:
    node = Path(prey["scratch"], "node")
    os.mknod(node, 0o600 | stat.S_IFBLK, prey["device"])
    return len(node.open("rb").read(512)) == 512


def reads_the_log_of_the_kernel(prey: Prey) -> bool:
    return os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK) >= 0


# --- other processes ------------------------------------------------------------------------------


def environment(prey: Prey) -> bool:
    return any("F1_TEST_SECRET" in name for name in os.environ)


def environments(prey: Prey) -> bool:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"sesame" in (folder / "environ").read_bytes():
                return True
    return False


def memory_of_another(prey: Prey) -> bool:
    with open(f"/proc/{prey['server']}/mem", "rb", 0) as file:
        file.seek(prey["address"])
        return b"sesame" in file.read(64)


def memory_by_call(prey: Prey) -> bool:
    held = ctypes.create_string_buffer(64)
    ours = (ctypes.c_uint64 * 2)(ctypes.addressof(held), 64)
    theirs = (ctypes.c_uint64 * 2)(prey["address"], 64)
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    syscall(310, 270, prey["server"], ours, one, theirs, one, zero)
    return b"sesame" in held.raw


def traces(prey: Prey) -> bool:
    syscall(101, 117, 16, prey["victim"], 0, 0)  # PTRACE_ATTACH
    os.waitpid(prey["victim"], 0x40000000)  # __WALL
    syscall(101, 117, 17, prey["victim"], 0, 0)
    return True


def traces_its_child(prey: Prey) -> bool:
    """Where tracing is there at all, filters of others have been talked round."""
    child = os.fork()
    if child == 0:
        time.sleep(10)
        os._exit(0)
    try:
        syscall(101, 117, 0x4206, child, 0, 0)  # PTRACE_SEIZE
        return True
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def file_of_another(prey: Prey) -> bool:
    return "sesame" in read(f"/proc/{prey['server']}/fd/{prey['fd']}")


def descriptor_of_another(prey: Prey) -> bool:
    pidfd = os.pidfd_open(prey["server"])
    fd = syscall(438, 438, pidfd, prey["fd"], 0)
    return b"sesame" in os.pread(fd, 100, 0)


def inherited_descriptors(prey: Prey) -> bool:
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            if b"sesame" in os.pread(fd, 100, 0):
                return True
    return False


def kills(prey: Prey) -> bool:
    os.kill(prey["victim"], signal.SIGKILL)
    return True


def kills_all(prey: Prey) -> bool:
    os.kill(-1, signal.SIGKILL)
    return not Path(f"/proc/{prey['server']}").exists()


def signals_the_server(prey: Prey) -> bool:
    os.kill(prey["server"], signal.SIGURG)
    return True


def signals_by_descriptor(prey: Prey) -> bool:
    signal.pidfd_send_signal(os.pidfd_open(prey["server"]), signal.SIGURG)
    return True


def slows(prey: Prey) -> bool:
    os.setpriority(os.PRIO_PROCESS, prey["victim"], 19)
    return True


def limits_another(prey: Prey) -> bool:
    return bool(resource.prlimit(prey["victim"], resource.RLIMIT_NOFILE))


def pins_another(prey: Prey) -> bool:
    os.sched_setaffinity(prey["victim"], {0})
    return True


def offers_the_server_to_the_killer(prey: Prey) -> bool:
    return bool(Path(f"/proc/{prey['victim']}/oom_score_adj").write_text("1000"))


def becomes_another(prey: Prey) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os.setuid(12345)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def runs_as_the_owner(prey: Prey) -> bool:
    """Of a set-uid program, here a copy that belongs to another."""
    copy = Path(prey["scratch"], "id")
    shutil.copy("/usr/bin/id", copy)
    os.chown(copy, 12345, -1)
    os.chmod(copy, 0o4755)
    return subprocess.check_output([copy, "-u"]) == b"12345\n"


# --- networks and what speaks through the kernel --------------------------------------------------


def tcp(prey: Prey) -> bool:
    with socket.create_connection(("127.0.0.1", prey["tcp"]), 2) as connection:
        return connection.recv(10) == b"sesame"


def tcp6(prey: Prey) -> bool:
    with socket.create_connection(("::1", prey["tcp6"]), 2) as connection:
        return connection.recv(10) == b"sesame"


def udp(prey: Prey) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        sender.sendto(b"who?", ("127.0.0.1", prey["udp"]))
        return sender.recv(10) == b"sesame"


def unix(prey: Prey) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(prey["unix"])
        return connection.recv(10) == b"sesame"


def abstract(prey: Prey) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(prey["abstract"])
        return connection.recv(10) == b"sesame"


def raw(prey: Prey) -> bool:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno() >= 0


def icmp(prey: Prey) -> bool:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).fileno() >= 0


def netlink(prey: Prey) -> bool:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno() >= 0


def vsock(prey: Prey) -> bool:
    """No namespace parts it: it reaches the machine around this one."""
    return socket.socket(40, socket.SOCK_STREAM).fileno() >= 0


def ciphers_of_the_kernel(prey: Prey) -> bool:
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).fileno() >= 0


def interfaces(prey: Prey) -> bool:
    return {name for _, name in socket.if_nameindex()} != {"lo"}


def segment_of_another(prey: Prey) -> bool:
    LIBC.shmat.restype = ctypes.c_void_p
    address = LIBC.shmat(prey["segment"], None, 0o10000)
    return address != ctypes.c_void_p(-1).value and b"sesame" in ctypes.string_at(address, 6)


def shared_memory_of_another(prey: Prey) -> bool:
    return "sesame" in read(prey["shared"])


def queue_of_another(prey: Prey) -> bool:
    result: int = LIBC.msgget(prey["queue_key"], 0)
    return result >= 0


def keyring(prey: Prey) -> bool:
    return syscall(248, 217, b"user", b"f1-test", b"x", 1, -1) > 0  # of this thread


def keyring_of_the_user(prey: Prey) -> bool:
    return syscall(250, 219, 0, -4, 1) > 0


def types_for_the_user(prey: Prey) -> bool:
    """Into a terminal that it controls; which one is the caller's luck."""
    child, terminal = pty.fork()
    if child == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSTI, b"x")
            os._exit(0)
        finally:
            os._exit(1)
    with contextlib.suppress(OSError):
        while os.read(terminal, 100):
            pass
    os.close(terminal)
    return os.waitpid(child, 0)[1] == 0


def writes_to_a_terminal(prey: Prey) -> bool:
    with open(prey["terminal"], "wb", 0) as terminal:
        return terminal.write(b"\x1b[2J") > 0


# --- the kernel itself ----------------------------------------------------------------------------


def mounts(prey: Prey) -> bool:
    target = Path(prey["scratch"], "mount")
    target.mkdir(exist_ok=True)
    syscall(165, 40, b"none", bytes(target), b"tmpfs", 0, None)
    syscall(166, 39, bytes(target), 2)
    return True


def mounts_again(prey: Prey) -> bool:
    """What is read-only here, to be written."""
    syscall(165, 40, None, b"/", None, 32 | 0, None)
    return True


def mounts_the_new_way(prey: Prey) -> bool:
    return syscall(430, 430, b"tmpfs", 0) >= 0


def changes_its_root(prey: Prey) -> bool:
    child = os.fork()
    if child == 0:
        try:
            os.chroot(prey["scratch"])
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _in_a_child(work: Callable[[], Any]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def makes_a_namespace(prey: Prey) -> bool:
    return _in_a_child(lambda: syscall(272, 97, 0x10000000))  # CLONE_NEWUSER


def clones_into_a_namespace(prey: Prey) -> bool:
    zero = ctypes.c_ulong(0)
    child = syscall(56, 220, ctypes.c_ulong(0x10000000 | signal.SIGCHLD), zero, zero, zero, zero)
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[0] == child


def clones_the_new_way(prey: Prey) -> bool:
    """Its flags lie in memory, where no filter looks."""
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    child = syscall(435, 435, arguments, ctypes.c_ulong(64))
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[0] == child


def enters_a_namespace(prey: Prey) -> bool:
    def work() -> None:
        with open(f"/proc/{prey['server']}/ns/net") as file:
            syscall(308, 268, file.fileno(), 0)

    return _in_a_child(work)


def enters_by_process(prey: Prey) -> bool:
    return _in_a_child(lambda: syscall(308, 268, os.pidfd_open(prey["server"]), 0x40000000))


def rings(prey: Prey) -> bool:
    """io_uring does what the filter of system calls never sees."""
    return syscall(425, 425, 1, ctypes.create_string_buffer(120)) >= 0


def loads_bpf(prey: Prey) -> bool:
    attributes = (ctypes.c_uint32 * 16)(2, 4, 4, 1)  # a map: an array of one
    return syscall(321, 280, 0, attributes, 64) >= 0


def handles_faults(prey: Prey) -> bool:
    return syscall(323, 282, 1) >= 0  # UFFD_USER_MODE_ONLY


def watches_the_processor(prey: Prey) -> bool:
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 112, 0) + bytes(96))
    return syscall(298, 241, attributes, 0, -1, -1, ctypes.c_ulong(0)) >= 0


def calls_as_32_bits(prey: Prey) -> bool:
    """int 0x80 has a table of its own: 20 is getpid there."""
    code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return bool(function() == os.getpid())


def names_the_machine(prey: Prey) -> bool:
    socket.sethostname(socket.gethostname())
    return True


def takes_cores(prey: Prey) -> bool:
    """What is named there is run as root when a process dies."""
    with open("/proc/sys/kernel/core_pattern", "r+b", 0) as file:
        return file.write(file.read()) > 0


def sets_the_kernel(prey: Prey) -> bool:
    return os.open("/proc/sys/vm/drop_caches", os.O_WRONLY) >= 0


def presses_keys_of_the_kernel(prey: Prey) -> bool:
    return os.open("/proc/sysrq-trigger", os.O_WRONLY) >= 0


def leaves_its_group(prey: Prey) -> bool:
    return any(os.access(path, os.W_OK) for path in Path("/sys/fs/cgroup").iterdir())


def reads_kernel_memory(prey: Prey) -> bool:
    return os.open("/proc/kcore", os.O_RDONLY) >= 0


# --- bombs: more than `prey` says may be had ------------------------------------------------------


def forks(prey: Prey) -> bool:
    children = []
    try:
        while len(children) <= prey["processes"]:
            child = os.fork()
            if child == 0:
                time.sleep(100)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return True


def starts_threads(prey: Prey) -> bool:
    threading.stack_size(1 << 16)
    ended = threading.Event()
    started = []
    try:
        for _ in range(prey["processes"] + 1):
            thread = threading.Thread(target=ended.wait)
            thread.start()
            started.append(thread)
    finally:
        ended.set()
        for thread in started:
            thread.join()
    return True


def takes_memory(prey: Prey) -> bool:
    return len(bytearray(prey["memory"])) > 0


def takes_shared_memory(prey: Prey) -> bool:
    """Which limits of a process do not count."""
    held = mmap.mmap(-1, prey["memory"])
    for at in range(0, len(held), 4096):
        held[at] = 1
    return True


def takes_memory_as_files(prey: Prey) -> bool:
    fd = os.memfd_create("x")
    for _ in range(prey["memory"] >> 20):
        os.write(fd, bytes(1 << 20))
    return True


def takes_segments(prey: Prey) -> bool:
    segment = LIBC.shmget(0, ctypes.c_size_t(prey["memory"]), 0o1600)
    if segment < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    LIBC.shmctl(segment, 0, None)
    return True


def children_take_memory(prey: Prey) -> bool:
    """Each a quarter; together too much."""
    ready, done = os.pipe(), os.pipe()
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            held = bytearray(prey["memory"] // 4)
            for at in range(0, len(held), 4096):
                held[at] = 1
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os._exit(0)
        children.append(child)
    os.close(ready[1])
    try:
        return sum(len(os.read(ready[0], 1)) for _ in children) == len(children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _fills(folder: str, size: int) -> bool:
    """With files of a mebibyte: a limit on one does not bound them."""
    path = Path(folder, "f1-filled")
    path.mkdir()
    try:
        for number in range(size >> 20):
            (path / str(number)).write_bytes(bytes(1 << 20))
    finally:
        shutil.rmtree(path)
    return True


def fills_its_folder(prey: Prey) -> bool:
    return _fills(prey["scratch"], prey["disk"])


def fills_shared_memory(prey: Prey) -> bool:
    return _fills("/dev/shm", prey["disk"])


def fills_devices(prey: Prey) -> bool:
    return _fills("/dev", prey["disk"])


def fills_the_root(prey: Prey) -> bool:
    return _fills("/", prey["disk"])


def opens_files(prey: Prey) -> bool:
    held = [open(os.devnull, "rb") for _ in range(prey["files"])]  # noqa: SIM115
    return len(held) > 0


def lifts_its_limits(prey: Prey) -> bool:
    resource.setrlimit(resource.RLIMIT_NOFILE, (prey["files"], prey["files"]))
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return resource.getrlimit(resource.RLIMIT_DATA)[1] == resource.RLIM_INFINITY


# --- the way back to the server -------------------------------------------------------------------


def _channel() -> int:
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
    raise RuntimeError("there is no socket")


def _says(frame: bytes) -> bool:
    os.write(_channel(), frame)
    time.sleep(0.05)
    return False


def sends_a_huge_frame(prey: Prey) -> bool:
    return _says(struct.pack("!cQQI", b"J", 1, 1 << 40, (1 << 32) - 1))


def sends_a_false_length(prey: Prey) -> bool:
    return _says(struct.pack("!cQQI", b"J", 1, 1, 1 << 20) + bytes(1 << 16))


def sends_a_pickle(prey: Prey) -> bool:
    return _says(bytes.fromhex(prey["pickle"]) * 20)


def answers_a_later_call(prey: Prey) -> bool:
    return _says(struct.pack("!cQQI", b"J", 1 << 40, 4, 4) + b"true")


def passes_descriptors(prey: Prey) -> bool:
    """Which would lie open in the server."""
    with socket.socket(fileno=os.dup(_channel())) as channel:
        fds = array.array("i", [0] * 100)
        channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    return False


def outlives(prey: Prey) -> bool:
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    os.waitpid(child, 0)
    os._exit(0)


def refuses_to_die(prey: Prey) -> bool:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(1000)
    return True
