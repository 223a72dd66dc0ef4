"""Models the tests run on: fetched once into the cache folder, then read from there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest

from f1.models.pull import pull
from f1.settings import Settings

# Who runs the tests has runs of their own in the cache: tests that keep some say where.
os.environ["F1_RUNS_DISK"] = "0"


@pytest.fixture(scope="session")
def smollm_path() -> Path:
    return pull("smollm2-135m", Settings.from_env())


@pytest.fixture(scope="session")
def qwen_path() -> Path:
    return pull("qwen2.5-coder-0.5b", Settings.from_env())


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Postgres]:
    found = postgres.programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    with postgres.running(found) as server:
        yield server
