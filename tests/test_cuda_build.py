"""Kernels compile for every GPU we name, and what builds without one says so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from f1 import _core

ROOT = Path(__file__).parent.parent
FLAGS = (
    "-std=c++20 -O1 --expt-relaxed-constexpr -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror "
    "-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a --threads 0 -fatbin"
).split()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_every_kernel_compiles_without_a_warning(tmp_path: Path) -> None:
    sources = sorted((ROOT / "csrc/backend/cuda").glob("*.cu"))
    assert sources
    for source in sources:
        command = ["nvcc", *FLAGS, "-I", ROOT / "csrc", source, "-o", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_machine_without_cuda_names_the_option() -> None:
    try:
        name = _core.testing.isa_name("cuda")
    except _core.InvalidArgument as error:
        assert "isa 'cuda'" in str(error)  # noqa: PT017  either way is right
    else:
        assert name.startswith("cuda ")
