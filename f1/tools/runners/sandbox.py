"""The sandbox of a worker, which bubblewrap sets up, and the proof that it has.

    supervisor ─ bwrap ─▶ user, mount, pid, net, ipc, uts and cgroup namespaces, a seccomp filter
                            read-only   /usr, /lib …, Python, F1, the tools' folder, `readable`
                            its own     /tmp (its HOME) and /dev/shm, of a size; /proc; /dev
                            not there   everything else

No weaker one is ever used in its place: where bwrap is missing or fails, and where the worker does
not find around it what is asked here (a bwrap may be another program), there is no worker.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import f1
from f1.tools.spec import ToolFailure

_NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
_ETC = "ld.so.cache localtime ssl pki ca-certificates alternatives mime.types".split()
_ETC_OF_NETWORKS = "resolv.conf hosts nsswitch.conf gai.conf services protocols".split()
_LOADER = "from f1.tools.runners.worker import main; main()"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """`network`: the host's; without it there is none, not even to the same machine."""

    network: bool = False


def command(
    sandbox: Sandbox,
    channel: int,
    seccomp: int,
    folder: Path,
    *,
    readable: Sequence[Path] = (),
    hidden: Sequence[Path] = (),
    disk_bytes: int,
) -> list[str]:
    """The command that starts a worker at the descriptor `channel`; `seccomp` is the filter's, from
    its beginning. Raises ToolFailure where there is no bwrap, or `folder` cannot be shown."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise ToolFailure("its sandbox needs bubblewrap (bwrap), which is not installed")
    _check_folder(folder)
    package = Path(f1.__file__).parent
    named = [Path(os.path.abspath(path)) for path in (*_python(), folder, *readable)]
    shared = {*named, *(path.resolve() for path in named)}
    paths = [p for p in sys.path if p and any(Path(p).is_relative_to(each) for each in shared)]
    size = str(disk_bytes)
    return [
        *(bwrap, "--unshare-user", "--unshare-all", "--cap-drop", "ALL"),
        *("--share-net",) * sandbox.network,
        *("--die-with-parent", "--new-session", "--hostname", "sandbox"),
        *("--seccomp", str(seccomp), "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"),
        *("--proc", "/proc", "--size", size, "--perms", "0700", "--tmpfs", "/tmp"),
        *_system(sandbox.network),
        *_shared({*shared, package}, _hidden(folder, hidden)),
        # As root, /proc/sys could be written, and what these roots hold be filled.
        *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"),
        *("--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"),
        *("--setenv", "PYTHONPATH", os.pathsep.join([str(package.parent), *paths])),
        *("--chdir", str(folder.absolute()), "--"),
        *(sys.executable, "-P", "-c", _LOADER, str(channel)),
    ]


def outside() -> dict[str, int]:
    """Our namespaces, none of which a sandbox shares."""
    return {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in _NAMESPACES}


def prove(outer: Mapping[str, int], network: bool) -> None:
    """In the worker, before anything of a tool's is run. Raises OSError where we are not in the
    sandbox that was asked for."""
    inner = outside()
    same = {kind for kind in inner if inner[kind] == outer[kind]}
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    proofs = {
        "namespaces": same == ({"net"} if network else set()),
        "capabilities": all(int(status[f"Cap{which}"], 16) == 0 for which in ("Prm", "Eff", "Bnd")),
        "privileges": status["NoNewPrivs"].strip() == "1",
        "filter": status["Seccomp"].strip() == "2",
        "root": all(os.statvfs(path).f_flag & os.ST_RDONLY for path in ("/", "/proc", "/dev")),
    }
    if missing := [name for name, is_so in proofs.items() if not is_so]:
        raise OSError(f"the sandbox is not the one that was asked for: {', '.join(missing)}")


def _check_folder(folder: Path) -> None:
    home = Path(os.path.expanduser("~")).resolve()
    if home.is_relative_to(folder.resolve()):
        raise ToolFailure(
            "its folder is the home folder or holds it, so a sandbox cannot show it: "
            "move the tools, and the configuration, to a folder of their own"
        )


def _python() -> Iterator[Path]:
    """Folders of the interpreter and of what is installed for it."""
    yield from (Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix))
    yield from (Path(path) for path in sysconfig.get_paths().values())
    packages = ("site-packages", "dist-packages")
    yield from (Path(path) for path in sys.path if path.endswith(packages))


def _system(network: bool) -> Iterator[str]:
    for path in _SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind-try", path, path)
    for name in (*_ETC, *(_ETC_OF_NETWORKS if network else ())):
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


def _shared(paths: set[Path], hidden: set[Path]) -> Iterator[str]:
    """Folders before what is in them: a hidden one may hold one that is shared (a .venv)."""
    emptied: list[Path] = []
    seen = {Path("/usr"): True}
    for path in sorted(path for path in paths | hidden if path.exists()):
        above = [each for each in path.parents if each in seen]  # the nearest first
        is_seen = bool(above) and seen[above[0]]
        if is_seen == (path in paths):
            continue  # as is
        seen[path] = path in paths
        if path in paths:
            yield from ("--ro-bind", str(path), str(path))
        elif path.is_dir():
            yield from ("--tmpfs", str(path))
            emptied.append(path)
        else:
            yield from ("--ro-bind", os.devnull, str(path))
    for path in emptied:
        yield from ("--remount-ro", str(path))


def _hidden(folder: Path, more: Sequence[Path]) -> set[Path]:
    """Beside the tools there may be .env, .git, .ssh: a sandbox has no use for them."""
    named = [path.absolute() for path in (*folder.glob(".*"), *more)]
    return {path for each in named for path in (each, each.resolve()) if not path.is_symlink()}
