"""How long the core takes to build from a clean copy of the sources, as `pip install` builds it.

    python bench/build.py [--jobs N] [--rounds 3] [--json FILE]     # needs cmake, ninja, pybind11

The copy is what git has at HEAD, which is what an sdist holds. Configuring counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from f1.bench.machine import describe_run

ROOT = Path(__file__).parent.parent


def build(jobs: int) -> dict[str, float]:
    """Seconds by the clock and of the processors."""
    import pybind11

    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        configure = [
            *("cmake", "-S", folder, "-B", f"{folder}/build", "-G", "Ninja"),
            *("-DCMAKE_BUILD_TYPE=Release", "-DF1_CUDA=OFF"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        for command in (configure, ["cmake", "--build", f"{folder}/build", "-j", str(jobs)]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write everything here")
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        rounds.append(build(options.jobs))
        print(f"{rounds[-1]['wall']:6.1f} s, {rounds[-1]['cpu']:6.1f} CPU s", flush=True)
    print(f"median {median(r['wall'] for r in rounds):.1f} s with {options.jobs} jobs")
    if options.json:
        described = describe_run("pybind11", jobs=options.jobs)
        options.json.write_text(json.dumps(described | {"rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
