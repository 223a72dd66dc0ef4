"""C++ programs that tests compile for themselves; what has not changed is not compiled again."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all".split()


def build(
    folder: Path,
    name: str,
    sources: Sequence[Path],
    flags: Callable[[Path], Sequence[str]],
    include: Path,
) -> Path:
    """A program of these sources, each compiled with its own flags, linked with sanitizers."""
    compiler = os.environ.get("CXX", "g++")
    headers = sorted((ROOT / "csrc").rglob("*.h")) + sorted(include.glob("*.h"))
    common = b"".join(path.read_bytes() for path in headers)

    def compile_one(source: Path) -> Path:
        spelled = repr([compiler, flags(source)]).encode()
        key = hashlib.sha256(common + spelled + source.read_bytes()).hexdigest()[:16]
        target = folder / f"{source.name}.{key}.o"
        if not target.exists():
            unfinished = target.with_suffix(f".{os.getpid()}")
            places = ["-I", ROOT / "csrc", "-I", include]
            _run([compiler, *flags(source), *places, "-x", "c++", "-c", source, "-o", unfinished])
            unfinished.rename(target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources))
    key = hashlib.sha256(repr(objects).encode()).hexdigest()[:16]
    program = folder / f"{name}.{key}"
    if not program.exists():
        unfinished = program.with_suffix(f".{os.getpid()}")
        _run([compiler, *SANITIZE, *objects, "-o", unfinished, "-lpthread"])
        unfinished.rename(program)
    for stale in {*folder.glob("*.o"), *folder.glob(f"{name}.????????????????")}:
        if stale not in (*objects, program):
            stale.unlink(missing_ok=True)
    return program


def _run(command: list[Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
