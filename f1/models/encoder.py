"""Encoders of the tokenizers library, whose refusals are made errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from f1.errors import ModelFileError


@contextmanager
def refusals_of(field: str) -> Iterator[None]:
    """Raises ModelFileError naming the field where the library refuses what it is made from: with
    a plain Exception, or with a panic of Rust's, which is none."""
    try:
        yield
    except ModelFileError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ModelFileError(f"{field}: {str(error)[:1000]}") from error
        raise
