"""A model's files, opened with care: no pipe is waited for, no device is read for ever."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from f1.errors import ModelFileError


def open_file(path: Path) -> BufferedReader:
    """Raises ModelFileError naming the file where it is missing or is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ModelFileError(f"{path.name} is missing") from None
    except OSError as error:
        raise ModelFileError(f"{path.name}: cannot open: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelFileError(f"{path.name}: not a file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, limit: int) -> bytes:
    """All of it; raises ModelFileError as open_file does, and where there are more bytes."""
    with open_file(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ModelFileError(f"{path.name}: more than {limit} bytes")
    return content
