"""What tells one model's weights from another's without reading all of them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict

from f1.models.checkpoint import Checkpoint

_SAMPLE = 256  # bytes, of the beginning and of the end of every tensor


def fingerprint(checkpoint: Checkpoint) -> str:
    """A sha256 over the numbers, the chat template, every tensor's name, type, shape, place and
    first and last bytes, and each file's size and time of change.

    Other weights in the same shapes (a fine-tune) differ in the samples; a file changed in place,
    anywhere, differs in its time. The same file fetched again counts as another one.
    """
    digest = hashlib.sha256()
    tensors = sorted(checkpoint.tensors.items())
    described = [
        (name, ref.dtype, ref.shape, ref.offset, ref.num_bytes, ref.path.name)
        for name, ref in tensors
    ]
    known = [asdict(checkpoint.config), checkpoint.template.source, described]
    digest.update(json.dumps(known).encode())
    for path in sorted({ref.path for _, ref in tensors}):
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            for _, ref in tensors:
                if ref.path != path:
                    continue
                for offset in (ref.offset, max(ref.offset, ref.offset + ref.num_bytes - _SAMPLE)):
                    length = min(_SAMPLE, ref.num_bytes)
                    digest.update(os.pread(file.fileno(), length, offset))
    return digest.hexdigest()
