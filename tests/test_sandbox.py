"""The sandbox of tools: ways out of it, each of which is first shown to be one without it; and that
there is no tool where there is no sandbox."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import escapes
import pytest

from f1.errors import InvalidRequest
from f1.tools.configured import configured_tool
from f1.tools.runners.cgroups import find_bounds
from f1.tools.runners.process import ProcessRunner, Workers
from f1.tools.runners.sandbox import Sandbox
from f1.tools.runners.workers import WorkerSettings
from f1.tools.spec import CallLimits, Output, ToolFailure

SECRET = b"sesame"
MEMORY, DISK, PROCESSES = 256 << 20, 16 << 20, 32
LIMITS = CallLimits(timeout=20)
ROOT = os.geteuid() == 0
BOUNDS = {file for files in find_bounds(1, 1).values() for file in files}

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")

# By what they need to be a way out where nothing is in their way.
ESCAPES = """
    ssh_key cache environment_file configuration accounts machine_id link_to_outside dots list_home
    writes_outside deletes_outside changes_its_source poisons_bytecode
    changes_a_mode links_hard
    root_of_another folder_of_another environments memory_of_another memory_by_call traces
    traces_its_child file_of_another descriptor_of_another kills signals_the_server
    signals_by_descriptor slows limits_another pins_another offers_the_server_to_the_killer
    tcp udp unix abstract netlink interfaces segment_of_another shared_memory_of_another
    queue_of_another keyring keyring_of_the_user writes_to_a_terminal makes_a_namespace
    clones_into_a_namespace clones_the_new_way rings handles_faults
    calls_as_32_bits forks starts_threads takes_shared_memory takes_memory_as_files takes_segments
    children_take_memory fills_its_folder fills_shared_memory opens_files
""".split()
OF_ROOT = """
    reads_by_handle reads_the_log_of_the_kernel becomes_another runs_as_the_owner raw
    icmp mounts mounts_again mounts_the_new_way changes_its_root enters_a_namespace
    enters_by_process loads_bpf names_the_machine takes_cores sets_the_kernel
    changes_python changes_f1 leaves_its_group fills_devices fills_the_root types_for_the_user
""".split()
# Not on all kernels and machines, nor for all users.
IF_THERE = """
    tcp6 vsock ciphers_of_the_kernel watches_the_processor reads_the_disk
    presses_keys_of_the_kernel reads_kernel_memory lifts_its_limits
""".split()
# Also held off without a sandbox, which other tests show; or too harmful to be tried there.
NO_PROOF = """
    environment inherited_descriptors kills_all takes_memory sends_a_huge_frame
    sends_a_false_length sends_a_pickle answers_a_later_call passes_descriptors outlives
    refuses_to_die
""".split()
QUICK = {
    *("ssh_key", "link_to_outside", "environments", "memory_of_another", "kills", "abstract"),
    *("keyring", "takes_cores", "forks", "takes_shared_memory", "fills_its_folder", "outlives"),
}
# Only a group of processes as a whole can be held to these.
BY_GROUPS = {"children_take_memory"}


def test_each_way_out_is_tried() -> None:
    functions = {name for name in vars(escapes) if "prey" in getattr(
        getattr(escapes, name), "__annotations__", {})}  # fmt: skip
    assert functions == {*ESCAPES, *OF_ROOT, *IF_THERE, *NO_PROOF}


def cases() -> list[Any]:
    names = [*ESCAPES, *OF_ROOT, *IF_THERE, *NO_PROOF]
    return [pytest.param(n, id=n, marks=() if n in QUICK else pytest.mark.full) for n in names]


@pytest.fixture
def den(tmp_path: Path) -> Path:
    """A folder of tools, and what lies in and beside it."""
    folder = tmp_path / "tools"
    folder.mkdir()
    shutil.copy(escapes.__file__, folder)
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    secrets = ("home/.ssh/id", "cache/runs", "tools/.env", "tools/f1.toml", "home/victim")
    for name in secrets:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(SECRET)
    (folder / "link").symlink_to(tmp_path / "home/.ssh/id")
    (tmp_path / "scratch").mkdir()
    return folder


@pytest.fixture
def workers(den: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setenv("F1_TEST_SECRET", SECRET.decode())
    settings = WorkerSettings(
        den,
        memory_bytes=MEMORY,
        disk_bytes=DISK,
        processes=PROCESSES,
        hidden=(den / "f1.toml", den.parent / "cache"),
    )
    threads, files = threading.enumerate(), len(os.listdir("/proc/self/fd"))
    with closing(Workers(settings)) as workers:
        yield workers
    assert threading.enumerate() == threads
    assert len(os.listdir("/proc/self/fd")) == files


@pytest.fixture
def prey(den: Path) -> Iterator[dict[str, Any]]:
    """All that a way out could lead to."""
    top = den.parent
    with ExitStack() as stack:
        found: dict[str, Any] = {
            "folder": str(den),
            "home": str(top / "home"),
            "key": str(top / "home/.ssh/id"),
            "cache": str(top / "cache/runs"),
            "server": os.getpid(),
            "device": os.stat(top).st_dev,
            "processes": PROCESSES * 2,
            "memory": MEMORY * 5 // 4,
            "disk": DISK * 2,
            "files": 300,
            "pickle": pickle.dumps(_Touches(top / "touched")).hex(),
        }
        victim = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(1000)"],
            env={**os.environ, "HIDDEN": SECRET.decode()},
        )
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        found["victim"] = victim.pid
        held = ctypes.create_string_buffer(SECRET, 64)
        found["address"] = ctypes.addressof(held)
        file = stack.enter_context((top / "home/.ssh/id").open("rb"))
        os.set_inheritable(file.fileno(), True)
        found["fd"] = file.fileno()
        found |= _listeners(stack, top)
        shared = Path(f"/dev/shm/f1-test-{os.getpid()}")
        shared.write_bytes(SECRET)
        stack.callback(shared.unlink)
        found["shared"] = str(shared)
        found |= _segments(stack)
        ours, terminal = os.openpty()
        found["terminal"] = os.ttyname(terminal)
        stack.callback(os.close, ours)
        stack.callback(os.close, terminal)
        yield found


class _Touches:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _listeners(stack: ExitStack, top: Path) -> dict[str, Any]:
    """Which say the secret to whoever comes."""
    name = f"\0f1-test-{os.getpid()}"
    tcp = socket.create_server(("127.0.0.1", 0))
    unix, abstract = (socket.socket(socket.AF_UNIX) for _ in range(2))
    unix.bind(str(top / "unix"))
    abstract.bind(name)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    listeners = [tcp, unix, abstract]
    ports = {"tcp": tcp.getsockname()[1], "tcp6": 9, "udp": udp.getsockname()[1]}
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        listeners.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
        ports["tcp6"] = listeners[-1].getsockname()[1]

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # it is shut
                return
            with connection:
                connection.sendall(SECRET)

    def answer() -> None:
        while (asked := udp.recvfrom(10))[0]:
            udp.sendto(SECRET, asked[1])
        udp.close()

    def stop() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", udp.getsockname())

    thread = threading.Thread(target=answer)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop)
    for listener in listeners:
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        stack.callback(listener.close)
        stack.callback(thread.join)
        stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return {**ports, "unix": str(top / "unix"), "abstract": name}


def _segments(stack: ExitStack) -> dict[str, Any]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = (ctypes.c_void_p,)
    segment = libc.shmget(0, 4096, 0o1600)
    address = libc.shmat(segment, None, 0)
    ctypes.memmove(address, SECRET, len(SECRET))
    stack.callback(libc.shmctl, segment, 0, None)
    stack.callback(libc.shmdt, address)
    key = os.getpid()
    queue = libc.msgget(key, 0o1600)
    stack.callback(libc.msgctl, queue, 0, None)
    return {"segment": segment, "queue_key": key}


async def gets_out(
    workers: Workers, name: str, prey: dict[str, Any], sandbox: Sandbox | None
) -> bool:
    """A failure of any kind, and a call that had to be ended, is none."""
    scratch = "/tmp" if sandbox else str(Path(prey["home"]).parent / "scratch")
    given = {**prey, "scratch": scratch}
    limits = CallLimits(timeout=1) if name == "refuses_to_die" else LIMITS
    try:
        output = await ProcessRunner(workers, "escapes", name, sandbox).call(
            {"prey": given}, limits
        )
    except (ToolFailure, TimeoutError) as failure:
        print(name, repr(failure))  # which pytest shows where it fails
        return False
    return bool(output.value)


@pytest.mark.parametrize("name", cases())
async def test_there_is_no_way_out(name: str, workers: Workers, prey: dict[str, Any]) -> None:
    if name in BY_GROUPS and not {"memory.max", "memory.limit_in_bytes"} & BOUNDS:
        pytest.skip("there is no cgroup to be had")
    if name in ESCAPES or (name in OF_ROOT and ROOT):
        assert await gets_out(workers, name, prey, None)
    elif name in IF_THERE:
        print(await gets_out(workers, name, prey, None))
    if name == "kills":
        os.waitid(os.P_PID, prey["victim"], os.WEXITED | os.WNOWAIT)
        prey = {**prey, "victim": os.getpid()}
    (Path(prey["home"]) / "victim").touch()
    assert not await gets_out(workers, name, prey, Sandbox())
    good = ProcessRunner(workers, "escapes", "good", Sandbox())
    assert await good.call({"x": 2}, LIMITS) == Output(3)
    assert (Path(prey["home"]) / "victim").exists()
    assert not (Path(prey["home"]).parent / "touched").exists()
    if name in ("outlives", "refuses_to_die"):
        workers.close()
        assert not running(Path(prey["folder"]))


def running(den: Path) -> dict[str, str]:
    """Processes of its sandboxes that are not only waited for, and their parents."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            started = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if state not in "ZX" and b"bwrap" in started and str(den).encode() in started:
            found[folder.name] = parent
    return found


def test_a_pickle_would_have_been_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Touches(tmp_path / "touched")))
    assert (tmp_path / "touched").exists()


async def test_what_a_tool_needs_is_there(workers: Workers, den: Path) -> None:
    (den / "useful.py").write_text(
        "import asyncio, os, ssl, subprocess, sqlite3, tempfile, threading, pydantic, zoneinfo\n"
        "import multiprocessing.pool\n"
        "def use() -> list[object]:\n"
        "    with tempfile.NamedTemporaryFile() as file:\n"
        "        file.write(bytes(1 << 20))\n"
        "    ran = subprocess.run('echo $HOME', shell=True, capture_output=True, text=True)\n"
        "    with multiprocessing.pool.ThreadPool(4) as pool:\n"
        "        squares = pool.map(lambda x: x * x, range(4))\n"
        "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "        lengths = pool.map(len, ['a', 'bc'])\n"
        "    with sqlite3.connect(os.path.expanduser('~/x.db')) as db:\n"
        "        db.execute('create table t (x)')\n"
        "    slept = asyncio.run(asyncio.sleep(0, 7))\n"
        "    return [ran.stdout.split()[0], squares, lengths, slept, os.getcwd()]\n"
    )
    output = await ProcessRunner(workers, "useful", "use", Sandbox()).call({}, LIMITS)
    assert output == Output(["/tmp", [0, 1, 4, 9], [1, 2], 7, str(den)])


async def test_what_is_shown_and_what_is_hidden(den: Path) -> None:
    """A folder that the operator names, without what must not be seen in it; a .venv in a hidden
    folder is there where it is Python's, or named."""
    data, hidden = den.parent / "data", den / ".hidden"
    (data / "keys").mkdir(parents=True)
    (hidden / "shown").mkdir(parents=True)
    for file in (data / "x", data / "keys/y", data / "z", hidden / "v", hidden / "shown/w"):
        file.write_bytes(SECRET)
    (den / "look.py").write_text(
        "from pathlib import Path\n"
        "def see(path: str) -> str: return Path(path).read_text()\n"
        "def change(path: str) -> int: return Path(path).write_text('x')\n"
    )
    readable = ("../data", str(hidden / "shown"))
    settings = WorkerSettings(den, readable=readable, hidden=(data / "keys", data / "z"))
    with closing(Workers(settings)) as workers:
        see, change = (ProcessRunner(workers, "look", n, Sandbox()) for n in ("see", "change"))
        for seen in (data / "x", hidden / "shown/w"):
            assert await see.call({"path": str(seen)}, LIMITS) == Output(SECRET.decode())
            with pytest.raises(ToolFailure, match="Read-only"):
                await change.call({"path": str(seen)}, LIMITS)
        for unseen in (data / "keys/y", data / "z", hidden / "v"):
            with pytest.raises(ToolFailure, match=r"No such file|Permission denied"):
                await see.call({"path": str(unseen)}, LIMITS)
        with pytest.raises(ToolFailure, match="Read-only"):
            await change.call({"path": str(hidden / "new")}, LIMITS)


async def test_the_network_may_be_left(workers: Workers, prey: dict[str, Any]) -> None:
    """The host's, but not what listens under its abstract names."""
    for name, is_there in (
        ("tcp", True),
        ("abstract", False),
        ("ssh_key", False),
        ("netlink", False),
    ):
        assert await gets_out(workers, name, prey, Sandbox(network=True)) == is_there


# --- where there is none --------------------------------------------------------------------------

TOOL = "def double(x: int) -> int: return 2 * x\n"
FAKES = {
    "fails": ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "No permissions"),
    "says nothing": ("exit 1", "ended with status 1"),
    "leaves it out": ('while [ "$1" != -- ]; do shift; done; shift; exec "$@"', "not the one"),
    "keeps capabilities": ("s/--cap-drop ALL//", "one that was asked for: capabilities"),
    "keeps the network": ("s/--unshare-all/& --share-net/", "asked for: namespaces"),
    "leaves out the filter": ("s/--seccomp [0-9]*//", "asked for: filter"),
    "writes in /proc": ("s,--remount-ro /proc,,", "asked for: root"),
}


def configure(folder: Path, text: str, **settings: Any) -> Any:
    table = tomllib.loads(text)
    with closing(Workers(WorkerSettings(folder, **settings))) as workers:
        return configured_tool("t", table, workers).runner


@pytest.mark.parametrize("kind", FAKES)
def test_a_sandbox_that_is_none_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools.py").write_text(TOOL + f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    text = "python = 'tools.py:double'\n"
    if kind == "keeps capabilities" and not ROOT:
        pytest.skip("bwrap itself leaves a user none")
    assert configure(tmp_path, text).sandbox is None
    (tmp_path / "ran").unlink()
    script, told = FAKES[kind]
    fake = tmp_path / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text("#!/bin/bash\n" + _with_the_real(script) + "\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(InvalidRequest, match=told) as refused:
        configure(tmp_path, text + "sandbox = true")
    assert refused.value.param == "tools.t.python"
    assert not (tmp_path / "ran").exists()


def _with_the_real(script: str) -> str:
    """Where it is one of sed's, it is what becomes of the options."""
    if not script.startswith("s"):
        return script
    return (
        'options=(); while [ "$1" != -- ]; do options+=("$1"); shift; done\n'
        f'exec {shutil.which("bwrap")} $(echo "${{options[@]}}" | sed "{script}") "$@"'
    )


def test_no_bubblewrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools.py").write_text(TOOL)
    monkeypatch.setenv("PATH", str(tmp_path))
    for text, settings in (("sandbox = true", {}), ("", {"sandbox": True})):
        with pytest.raises(InvalidRequest, match="needs bubblewrap"):
            configure(tmp_path, f"python = 'tools.py:double'\n{text}", **settings)


def test_who_is_in_a_sandbox(tmp_path: Path) -> None:
    """The tool's own word goes before that of all."""
    (tmp_path / "tools.py").write_text(TOOL)
    python = "python = 'tools.py:double'\n"
    for text, settings, sandbox in (
        ("", {}, None),
        ("sandbox = true", {}, Sandbox()),
        ("sandbox = true\nnetwork = true", {}, Sandbox(network=True)),
        ("", {"sandbox": True}, Sandbox()),
        ("", {"sandbox": True, "network": True}, Sandbox(network=True)),
        ("sandbox = false", {"sandbox": True}, None),
    ):
        assert configure(tmp_path, python + text, **settings).sandbox == sandbox
    for text, param in (
        (python + "sandbox = 1", "tools.t.sandbox"),
        (python + "network = true", "tools.t.network"),
        ("sandbox = true", "tools.t.sandbox"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            configure(tmp_path, text)
        assert refused.value.param == param


def test_a_home_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools.py").write_text(TOOL)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(InvalidRequest, match="the home folder"):
        configure(tmp_path, "python = 'tools.py:double'\nsandbox = true")


async def test_ending_a_call_ends_its_sandbox(workers: Workers, den: Path) -> None:
    """At once, and with it the groups that bound it."""
    supervisors = set[str]()
    for _ in range(3):
        call = ProcessRunner(workers, "escapes", "refuses_to_die", Sandbox()).call(
            {"prey": {}}, LIMITS
        )
        task = asyncio.create_task(call)
        while not (seen := running(den)):
            await asyncio.sleep(0.01)
        supervisors |= set(seen.values())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    workers.close()
    assert not running(den)
    names = {f"f1-{process}" for process in supervisors}
    assert not [n for parent in find_bounds(1, 1) for n in names & set(os.listdir(parent))]
