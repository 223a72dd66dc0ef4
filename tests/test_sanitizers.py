"""The core under AddressSanitizer, UBSan, ThreadSanitizer and valgrind: nothing to report.

    pytest -m full tests/test_sanitizers.py

Builds the core once for each (CMake's F1_SANITIZE; kept in pytest's cache, some minutes the first
time). Each tool first has to see faults that were planted for it. Nothing of ours is suppressed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from compiled import ROOT
from test_gguf import BROKEN, GOOD

HERE = ROOT / "tests/sanitizers"
KINDS = {"address": "address,undefined", "thread": "thread"}
FOUND = 99  # the exit code of a program that had something to report
OPTIONS = {
    "ASAN_OPTIONS": f"exitcode={FOUND}",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "LSAN_OPTIONS": f"exitcode={FOUND}",
    "TSAN_OPTIONS": f"exitcode={FOUND}:halt_on_error=1",
}
PLANTED = {
    "address": ["overflow", "after free", "undefined", "leak"],
    "thread": ["race"],
}
# What the core is tested by from Python, with models of random weights.
SUITE = [
    *("test_engine.py", "test_engine_requests.py", "test_sampling.py", "test_pages.py"),
    *("test_prefix_pages.py", "test_attention.py", "test_packed.py", "test_gguf.py"),
    *("test_soft.py", "test_pause.py", "test_deciding.py"),
]
TINY = "not smollm and not qwen"


def run(
    command: Sequence[object], *, seconds: float = 1800, given: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **OPTIONS, **env},
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def passed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    assert request.config.cache is not None
    return request.config.cache.mkdir("sanitizers")


def build_core(folder: Path, kind: str, target: str = "f1_core") -> Path:
    """The build tree, for one kind of sanitizer."""
    pybind11 = pytest.importorskip("pybind11")
    tree = folder / kind
    passed(
        run(
            [
                *("cmake", "-S", ROOT, "-B", tree, "-DF1_CUDA=OFF", "-DCMAKE_BUILD_TYPE=None"),
                f"-DF1_SANITIZE={KINDS[kind]}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            ]
        )
    )
    passed(run(["cmake", "--build", tree, "--target", target, "--parallel", os.cpu_count()]))
    return tree


def build(source: Path, tree: Path, kind: str, *libraries: object) -> Path:
    program = tree / source.stem
    flags = [] if kind == "valgrind" else [f"-fsanitize={KINDS[kind]}"]
    passed(
        run(
            [
                os.environ.get("CXX", "g++"),
                *("-std=c++20", "-g1", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover"),
                *("-I", ROOT / "csrc", *flags, source, *libraries, "-lpthread"),
                *("-o", program),
            ]
        )
    )
    return program


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tree(folder: Path, kind: str) -> Path:
    return build_core(folder, kind)


@pytest.mark.full
def test_what_is_planted_is_seen(tree: Path, kind: str) -> None:
    program = build(HERE / "planted.cpp", tree, kind)
    assert run([program, "nothing"]).returncode == 0
    for fault in PLANTED[kind]:
        done = run([program, fault])
        assert done.returncode != 0, fault
        assert "Sanitizer" in done.stderr or "runtime error" in done.stderr, done.stderr


@pytest.mark.full
@pytest.mark.parametrize("manner", ["alone", "crowd"])
def test_the_engine_in_a_storm(tree: Path, kind: str, manner: str, tmp_path: Path) -> None:
    """Any calls in any order; and the model unloaded and loaded while others call."""
    program = build(HERE / "storm.cpp", tree, kind, tree / "libf1_core.a")
    how = [20 if kind == "address" else 5] if manner == "alone" else [8, "crowd"]
    print(passed(run([program, tmp_path, *how])))


@pytest.fixture(scope="module")
def package(folder: Path) -> Path:
    """F1 with the sanitised module in place of its own."""
    module = next(build_core(folder, "address", "_core").glob("_core*.so"))
    place = folder / "package"
    shutil.rmtree(place, ignore_errors=True)
    (place / "f1").mkdir(parents=True)
    for path in [*(p for p in (ROOT / "f1").iterdir() if not p.name.startswith("_core.")), module]:
        (place / "f1" / path.name).symlink_to(path)
    (place / "grammars").symlink_to(ROOT / "grammars")
    return place


def python(package: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python whose memory is watched. What the interpreter itself never frees is no report."""
    compiler = os.environ.get("CXX", "g++")
    # The second too, or else the first finds nobody who throws when Python has just begun.
    libraries = [
        str(Path(passed(run([compiler, f"-print-file-name={name}"])).strip()).resolve())
        for name in ("libasan.so", "libstdc++.so")
    ]
    return run(
        [sys.executable, "-P", *arguments],
        LD_PRELOAD=" ".join(libraries),
        PYTHONPATH=str(package),
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS=f"exitcode={FOUND}:detect_leaks=0",
    )


@pytest.mark.full
def test_the_cores_tests_under_address_sanitizer(folder: Path, package: Path) -> None:
    library = build(HERE / "planted.cpp", folder / "address", "address", "-shared", "-fPIC")
    planted = f"import ctypes; ctypes.CDLL({str(library)!r}).planted(b'after free', 1)"
    done = python(package, "-c", planted)
    assert done.returncode == FOUND, done.stderr
    assert "heap-use-after-free" in done.stderr
    origin = passed(python(package, "-c", "import f1._core; print(f1._core.__file__)"))
    assert origin.startswith(str(package)), origin
    files = [ROOT / "tests" / name for name in SUITE]
    flags = ("-q", "-s", "-p", "no:cacheprovider", "-k", TINY)  # reports are not captured, either
    told = passed(python(package, "-m", "pytest", *flags, *files))
    print(told[-200:])
    assert " passed" in told


@pytest.mark.full
def test_masks_of_grammars_under_address_sanitizer(package: Path, smollm_path: Path) -> None:
    """From Python through the core and back: tools, formats, drafts, decisions, n choices; and
    closed while all that runs."""
    print(passed(python(package, HERE / "serve.py", smollm_path)))


@pytest.mark.full
def test_the_loader_under_valgrind(folder: Path, tmp_path: Path) -> None:
    if (valgrind := shutil.which("valgrind")) is None:
        pytest.skip("there is no valgrind")
    tree = folder / "valgrind"
    tree.mkdir(exist_ok=True)
    check = [valgrind, "-q", f"--error-exitcode={FOUND}", "--leak-check=full"]
    program = build(HERE / "planted.cpp", tree, "valgrind")
    assert run([*check, program, "nothing"]).returncode == 0
    for fault in ("uninitialised", "after free", "leak"):
        assert run([*check, program, fault]).returncode == FOUND, fault
    reader = build(
        ROOT / "tests/weights/read.cpp",
        tree,
        "valgrind",
        *(ROOT / "csrc/core" / name for name in ("dtype.cpp", "mapped_file.cpp")),
        *sorted((ROOT / "csrc/weights").glob("*.cpp")),
    )
    good, broken = tmp_path / "good.gguf", tmp_path / "broken.gguf"
    good.write_bytes(GOOD)
    files = [good]
    for index, (raw, _) in enumerate(BROKEN.values()):
        files.append(broken.with_name(f"{index}.gguf"))
        files[-1].write_bytes(raw)
    told = passed(run([*check, reader], given="".join(f"{path}\n" for path in files)))
    # The good one, and one whose text is not UTF-8, which is for Python to refuse.
    assert (told.count("refused "), told.count("read ")) == (len(files) - 2, 2)


@pytest.mark.full
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_cuda_backend_under_compute_sanitizer(tool: str, tmp_path: Path) -> None:
    """test_cuda.py on a device, each process of the probe watched; cuda/device.sh has built it."""
    sanitizer, probe = shutil.which("compute-sanitizer"), os.environ.get("F1_CUDA_PROBE")
    if sanitizer is None or probe is None:
        pytest.skip("no compute-sanitizer, or no probe of a device (cuda/device.sh)")
    check = [sanitizer, "--tool", tool, f"--error-exitcode={FOUND}"]
    planted = tmp_path / "planted"
    passed(run(["nvcc", ROOT / "tests/cuda/planted.cu", "-o", planted]))
    passed(run([*check, planted, "nothing"]))
    assert run([*check, planted, tool]).returncode == FOUND
    watched = tmp_path / "watched"  # who reads the probe's answers sees nothing of the reports
    words = [*check, "--log-file", str(tmp_path / "%p.log"), probe]
    watched.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
    watched.chmod(0o755)
    tests = [*("-m", "pytest", "-q", "-p", "no:cacheprovider"), ROOT / "tests/test_cuda.py"]
    print(passed(run([sys.executable, *tests], F1_CUDA_PROBE=str(watched)))[-200:])
    told = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    found = re.findall(r"SUMMARY: (\d+)", told)
    assert len(found) > 10, told
    assert set(found) == {"0"}, told
