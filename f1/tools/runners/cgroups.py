"""What a sandbox may take as a whole, where the kernel lets us say so: cgroups, of both versions.

RLIMIT_NPROC does not hold for root, who needs this. For others it is one more bound where their
group is theirs to divide: on the memory of all processes and files together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_FILES = {"pids": ("pids.max", "pids.max"), "memory": ("memory.max", "memory.limit_in_bytes")}

Bounds = Mapping[str, Mapping[str, str]]  # a group of ours → {file: what its new child has there}


def find_bounds(processes: int, memory_bytes: int) -> Bounds:
    """What can be bounded in a child of our own group; {} where nothing can."""
    wanted = {"pids": processes, "memory": memory_bytes}
    found: dict[str, dict[str, str]] = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            ours, is_old = _ROOT / controllers / path.lstrip("/"), bool(controllers)
            if not os.access(ours, os.W_OK):
                continue
            enabled = controllers.split(",")
            if not is_old:
                enabled = (ours / "cgroup.subtree_control").read_text().split()
            for name in wanted.keys() & set(enabled):
                found.setdefault(str(ours), {})[_FILES[name][is_old]] = str(wanted[name])
    return found


def bounds_processes(bounds: Bounds) -> bool:
    return any("pids.max" in files for files in bounds.values())


def enter_groups(bounds: Bounds, name: str) -> None:
    """Into a new child of each, called `name`. Raises OSError."""
    for parent, files in bounds.items():
        group = Path(parent, name)
        group.mkdir()
        for file, value in files.items():
            (group / file).write_text(value)
        (group / "cgroup.procs").write_text("0")


def remove_groups(bounds: Bounds, name: str) -> bool:
    """False where one is left, with somebody still in it."""
    for parent in bounds:
        try:
            Path(parent, name).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
