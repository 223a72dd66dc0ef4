"""The head of a request: what is refused before a byte of its body is read."""

from __future__ import annotations

from starlette.types import Scope

from f1.errors import InvalidRequest
from f1.serve.limits import Limits


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "head_too_large"


class UrlTooLong(InvalidRequest):
    status = 414
    code = "url_too_long"


class UnsupportedEncoding(InvalidRequest):
    status = 415
    code = "unsupported_encoding"


def check_head(scope: Scope, limits: Limits) -> None:
    """Raises InvalidRequest."""
    headers = scope["headers"]
    num_bytes = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > limits.max_headers or num_bytes > limits.max_head_bytes:
        raise HeadTooLarge(
            f"{len(headers)} headers of {num_bytes} bytes; there may be {limits.max_headers} "
            f"of {limits.max_head_bytes}"
        )
    if len(scope["raw_path"]) + len(scope["query_string"]) > limits.max_url_bytes:
        raise UrlTooLong(f"the URL is longer than {limits.max_url_bytes} bytes")
    names = {name for name, _ in headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        # Who stands before this server may have gone by the other one.
        raise InvalidRequest("there are two lengths: content-length and transfer-encoding")
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            # What a few bytes unpack to has no bound.
            raise UnsupportedEncoding("bodies must not be compressed", param="content-encoding")
