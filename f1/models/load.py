"""From a model's name to its weights in the core."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f1.errors import ModelFileError
from f1.models.checkpoint import Checkpoint
from f1.models.fingerprint import fingerprint
from f1.models.gguf import load_gguf
from f1.models.huggingface import load_folder
from f1.models.pull import resolve
from f1.settings import Settings
from f1.store.packed import PackedFile

if TYPE_CHECKING:
    from f1 import _core


def load_checkpoint(name_or_path: str, settings: Settings | None = None) -> Checkpoint:
    """Reads what `resolve` finds under that name: a GGUF file or a Hugging Face folder.

    Raises ModelNotFound, DownloadError, or ModelFileError naming tensor, field or offset.
    """
    path = resolve(name_or_path, settings or Settings.from_env())
    if path.is_dir():
        return load_folder(path, Path(name_or_path).name)
    return load_gguf(path, path.stem)


def snapshot_key(checkpoint: Checkpoint, model: _core.Model) -> dict[str, str | int]:
    """All but the tokens that decides what is in a page of K and V, for f1.store."""
    return {
        "model": fingerprint(checkpoint),
        "core": _core_digest(),
        "backend": model.backend_name,
        "page_bytes": model.kv_page_bytes,
    }


def _core_digest() -> str:
    """Tells builds of the core apart: layouts and the order of sums may differ between them."""
    from f1 import _core

    return hashlib.sha256(Path(_core.__file__).read_bytes()).hexdigest()


def packed_file(checkpoint: Checkpoint, settings: Settings) -> PackedFile | None:
    """Where the checkpoint's packed weights are kept; None where they are not."""
    if settings.packed_disk == 0 or settings.isa == "cuda":
        return None
    made_of = f"{fingerprint(checkpoint)} {_core_digest()} {settings.isa}"
    name = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    return PackedFile(settings.cache / "packed" / f"{name}.bin", settings.packed_disk)


def load_model(
    checkpoint: Checkpoint,
    *,
    num_threads: int = 0,
    isa: str = "auto",
    packed: PackedFile | None = None,
) -> _core.Model:
    """Maps and packs the weights, or reads them packed. `num_threads` 0 means every core.

    Raises ModelFileError naming the tensor that is missing or of the wrong shape.
    """

    if packed is not None and packed.exists():
        try:
            return _load(checkpoint, num_threads, isa, str(packed.path))
        except ModelFileError as error:
            packed.discard(error)
    model = _load(checkpoint, num_threads, isa)
    if packed is not None:
        packed.save(model.packed_bytes, model.save_packed)
    return model


def _load(checkpoint: Checkpoint, num_threads: int, isa: str, packed_path: str = "") -> _core.Model:
    from f1 import _core

    fields: dict[str, Any] = asdict(checkpoint.config)
    config = _core.ModelConfig(**fields | {"rope_inv_freq": list(fields["rope_inv_freq"])})
    try:
        paths = {ref.path for ref in checkpoint.tensors.values()}
        files = {path: _core.MappedFile(str(path)) for path in paths}
        sources = {
            name: _core.TensorSource(
                files[ref.path], ref.offset, ref.num_bytes, ref.dtype, list(ref.shape)
            )
            for name, ref in checkpoint.tensors.items()
        }
        return _core.Model(
            config, sources, num_threads=num_threads, isa=isa, packed_path=packed_path
        )
    except _core.InvalidArgument as error:
        raise ModelFileError(f"{checkpoint.name}: {error}") from error
