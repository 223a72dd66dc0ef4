"""A model as found on disk: numbers, tensors by their canonical names, tokenizer and template.

Nothing of the weights is read here; the core maps the files and packs them (`load_model`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f1.errors import ModelFileError
from f1.models.chat import ChatTemplate
from f1.models.pull import resolve
from f1.models.tokenizer import Tokenizer
from f1.settings import Settings
from f1.types import Message

if TYPE_CHECKING:
    from f1 import _core

ARCHITECTURES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The numbers of a Llama-family decoder; the fields of the core's `ModelConfig`."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_inv_freq: tuple[float, ...]  # [head_dim / 2], theta and scaling included
    rope_interleaved: bool


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a tensor's bytes lie. `shape` is outermost first; `dtype` is GGUF's name for it."""

    path: Path
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model, ready to load. `tensors` has the names listed in csrc/model/model.h."""

    name: str
    architecture: str  # one of ARCHITECTURES
    config: ModelConfig
    tensors: Mapping[str, TensorRef]
    tokenizer: Tokenizer
    template: ChatTemplate


def load_checkpoint(name_or_path: str, settings: Settings | None = None) -> Checkpoint:
    """Reads what `resolve` finds under that name: a GGUF file or a Hugging Face folder.

    Raises ModelNotFound, DownloadError, or ModelFileError naming tensor, field or offset.
    """
    from f1.models.gguf import load_gguf
    from f1.models.huggingface import load_folder

    path = resolve(name_or_path, settings or Settings.from_env())
    if path.is_dir():
        return load_folder(path, Path(name_or_path).name)
    return load_gguf(path, path.stem)


def load_model(checkpoint: Checkpoint, *, num_threads: int = 0, isa: str = "auto") -> _core.Model:
    """Maps and packs the weights. `num_threads` 0 means every core.

    Raises ModelFileError naming the tensor that is missing or of the wrong shape.
    """
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
        return _core.Model(config, sources, num_threads=num_threads, isa=isa)
    except _core.InvalidArgument as error:
        raise ModelFileError(f"{checkpoint.name}: {error}") from error


def render_prompt(checkpoint: Checkpoint, messages: Sequence[Message]) -> list[int]:
    """Token ids of the conversation; see `ChatTemplate.render`."""
    return checkpoint.template.render(messages)
