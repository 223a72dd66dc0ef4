"""A process that is killed at any moment loses nothing that it has told of, and does nothing twice
that may not be done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("kills", "seed"),
    [(4, 1), pytest.param(200, 2, marks=pytest.mark.full)],
)
def test_kills_at_random_moments(kills: int, seed: int, tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(tmp_path), str(kills), str(seed)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert found["kills"] >= kills
    assert found["calls"] > kills
    if kills >= 200:
        assert found["unknown"] > 0
        assert found["put began again"] > 0
