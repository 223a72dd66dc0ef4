"""The house's walls: who may import whom, read from the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INCLUDE = re.compile(r'^\s*#include\s+[<"]([^>"]+)[>"]', re.MULTILINE)

# C++: what each part may include, itself aside.
CORE = {
    "core": set(),
    "backend": {"core"},
    "weights": {"core"},
    "model": {"core", "backend", "weights"},
    "engine": {"core", "backend", "weights", "model"},
    "bindings": {"core", "backend", "weights", "model", "engine"},
}

# Python, low to high: a module imports only what stands before it (or its own package).
ORDER = (
    "types errors codec settings _core store models calling drafting choices delivery stepping "
    "engine tools trace planning config keeping pool apart fallback roles serve portal remote "
    "offload offloaded_embedder registering supervised client narrator demo ask tooling "
    "retelling tracing bench mcp_command cli"
).split()

# Who may use a library that has one door.
DOORS = {
    "xgrammar": {"calling"},
    "jsonschema": {"calling"},
    "re2": {"calling", "trace"},
    "tokenizers": {"models"},
    "huggingface_hub": {"models"},
    "fastapi": {"serve"},
    "prometheus_client": {"serve"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "opentelemetry": {"trace"},
    "mcp": {"tools", "serve"},
    "httpx2": {"tools"},
    "typer": {"cli", "mcp_command", "tracing"},
    "llama_cpp": {"bench"},
    "openvino_genai": {"bench"},
}


def sources(folder: str, *endings: str) -> list[Path]:
    found = [p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in endings]
    assert found
    return found


@pytest.mark.parametrize("path", sources("csrc", ".h", ".cpp", ".cu"), ids=lambda p: p.name)
def test_cpp_includes(path: Path) -> None:
    place = path.relative_to(ROOT / "csrc").as_posix()
    part = place.split("/")[0]
    for included in INCLUDE.findall(path.read_text()):
        other = included.split("/")[0]
        if other in CORE:
            assert other == part or other in CORE[part], f"{path} includes {included}"
        if other in ("pybind11", "Python.h"):
            assert part == "bindings", f"{path} includes {included}"
        if included.startswith("cuda"):
            assert place == "backend/cuda/nvcc.h", f"{path} includes {included}"
        if included.startswith("backend/cuda/shim/"):
            assert place.startswith("backend/cuda/"), f"{path} includes {included}"
        for device, other_device in (("cpu", "cuda"), ("cuda", "cpu")):
            if place.startswith(f"backend/{device}/"):
                assert not included.startswith(f"backend/{other_device}/"), f"{path}: {included}"


def test_who_asks_how_the_core_is_built() -> None:
    """F1_CUDA is looked at in one file, the shim's switch in another."""
    found = {
        (path.relative_to(ROOT / "csrc").as_posix(), macro)
        for path in sources("csrc", ".h", ".cpp", ".cu")
        for macro in re.findall(r"^\s*#\s*if.*\b(F1_CUDA\w*)", path.read_text(), re.MULTILINE)
    }
    assert found == {
        ("backend/registry.cpp", "F1_CUDA"),
        ("backend/cuda/runtime.h", "F1_CUDA_SHIM"),
    }


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "f1").with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in the file, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sources("f1", ".py"), ids=lambda p: p.name)
def test_python_imports(path: Path) -> None:
    module = module_of(path)
    if module == "__init__":
        return  # the front door: lazily imports what it re-exports
    assert module in ORDER, f"{module} has no place in the order"
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in ("tests", "bench"), f"{path} imports {name}"
        if top in DOORS:
            assert module in DOORS[top], f"{path} imports {name}"
        if top == "f1" and rest and not rest.startswith("__"):
            other = rest.split(".")[0]
            assert ORDER.index(other) <= ORDER.index(module), f"{path} imports {name}"
