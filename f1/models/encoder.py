"""Encoders of the tokenizers library: refusals made errors of ours, and texts read without
stopping the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenizers import Tokenizer as Encoder

from f1.errors import ModelFileError

_LONG = 4096  # characters; some milliseconds


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


def plain_ids(encoder: Encoder, text: str) -> list[int]:
    """The ids of a text, without those that would frame it. The library's `encode` holds Python's
    lock all the while, for megabytes seconds in which nothing else is served; a batch does not."""
    if len(text) < _LONG:
        ids: list[int] = encoder.encode(text, add_special_tokens=False).ids
    else:
        ids = encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids
