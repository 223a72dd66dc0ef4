"""What every published figure carries: the machine, the commit, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def describe_run(*packages: str, **settings: object) -> dict[str, Any]:
    """`packages` are looked up by their names on the package index; absent ones are None."""
    return {
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} logical cores",
        "load": os.getloadavg()[0],  # runnable threads over the last minute, ours not yet
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "settings": settings,
    }


def _commit() -> str | None:
    """Of the checkout that this file is in or, installed, of the one that is the current folder."""
    file = Path(__file__).resolve()
    for folder in (file.parents[2], Path.cwd()):
        here = folder / "f1" / "bench" / file.name
        if (folder / ".git").exists() and here.is_file() and here.read_bytes() == file.read_bytes():
            command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
            found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            return found.stdout.strip() or None
    return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
