"""Hugging Face folders: config.json, safetensors and tokenizer.json, translated to our names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from f1.errors import ModelFileError
from f1.models.chat import ChatTemplate, template_or_default
from f1.models.checkpoint import ARCHITECTURES, Checkpoint, ModelConfig, TensorRef
from f1.models.files import read_file
from f1.models.rope import Frequencies, inverse_frequencies, scaled_like_llama3
from f1.models.safetensors import read_headers
from f1.models.tokenizer_json import read_json, tokenizer_from_folder

_WHOLE = {
    "model.embed_tokens.weight": "embed.weight",
    "lm_head.weight": "head.weight",
    "model.norm.weight": "final_norm.weight",
}
_IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "q.weight",
    "self_attn.k_proj.weight": "k.weight",
    "self_attn.v_proj.weight": "v.weight",
    "self_attn.q_proj.bias": "q.bias",
    "self_attn.k_proj.bias": "k.bias",
    "self_attn.v_proj.bias": "v.bias",
    "self_attn.q_norm.weight": "q_norm.weight",
    "self_attn.k_norm.weight": "k_norm.weight",
    "self_attn.o_proj.weight": "o.weight",
    "post_attention_layernorm.weight": "mlp_norm.weight",
    "mlp.gate_proj.weight": "gate.weight",
    "mlp.up_proj.weight": "up.weight",
    "mlp.down_proj.weight": "down.weight",
}
_MAX_TEMPLATE = 2**20  # bytes
_DERIVED = "self_attn.rotary_emb.inv_freq"  # old files carry it; it follows from the config


def load_folder(folder: Path, name: str) -> Checkpoint:
    """Raises ModelFileError naming the file and the field or tensor."""
    try:
        return _load(folder, name)
    except ModelFileError as error:
        raise ModelFileError(f"{folder.name}: {error.message}") from error


def _load(folder: Path, name: str) -> Checkpoint:
    fields = read_json(folder / "config.json")
    architecture = fields.get("model_type")
    if architecture not in ARCHITECTURES:
        raise ModelFileError(
            f"config.json: model_type is {architecture!r}; known are {', '.join(ARCHITECTURES)}"
        )
    _refuse_unsupported(fields)
    config = _config(fields)
    tensors = _tensors(folder, tied=bool(fields.get("tie_word_embeddings", False)))
    tokenizer = tokenizer_from_folder(folder, config.vocab_size)
    template = ChatTemplate(template_or_default(_template(folder), tokenizer), tokenizer)
    return Checkpoint(name, architecture, config, tensors, tokenizer, template)


def _tensors(folder: Path, *, tied: bool) -> dict[str, TensorRef]:
    tensors = {
        _canonical_name(name): ref
        for name, ref in read_headers(folder).items()
        if not name.endswith(_DERIVED)
    }
    if tied:  # files of tied models may still carry the head
        tensors.pop("head.weight", None)
    elif "head.weight" not in tensors:
        raise ModelFileError("tensor 'lm_head.weight' is missing, and the head is not tied")
    return tensors


def _canonical_name(name: str) -> str:
    if name in _WHOLE:
        return _WHOLE[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    if not name.startswith("model.layers.") or not layer.isdecimal() or part not in _IN_LAYER:
        raise ModelFileError(f"tensor {name!r} is not part of a known architecture")
    return f"layers.{int(layer)}.{_IN_LAYER[part]}"


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Options that change the arithmetic and that the core does not have."""
    expected = {
        "hidden_act": ("silu", None),
        "use_sliding_window": (False, None),
        "quantization_config": (None,),
        "mlp_bias": (False, None),
        "pretraining_tp": (1, None),
    }
    for field, allowed in expected.items():
        if (value := fields.get(field)) not in allowed:
            raise ModelFileError(f"config.json: {field} is {value!r}; supported is {allowed[0]!r}")


def _config(fields: Mapping[str, Any]) -> ModelConfig:
    num_heads, hidden_size = _size(fields, "num_attention_heads"), _size(fields, "hidden_size")
    head_dim = _size(fields, "head_dim", hidden_size // num_heads or None)
    return ModelConfig(
        num_layers=_size(fields, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=_size(fields, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=_size(fields, "num_key_value_heads", num_heads),
        head_dim=head_dim,
        vocab_size=_size(fields, "vocab_size"),
        max_positions=_size(fields, "max_position_embeddings"),
        norm_eps=_number(fields, "rms_norm_eps", 1e-6),
        rope_inv_freq=tuple(_rope(fields, head_dim).tolist()),
        rope_interleaved=False,
    )


def _rope(fields: Mapping[str, Any], head_dim: int) -> Frequencies:
    """`rope_parameters` holds everything in new configs; before, `rope_theta` stood on its own."""
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelFileError(f"config.json: rope_parameters is {scaling!r}, not an object")
    rope = {"rope_theta": fields.get("rope_theta"), **scaling}
    frequencies = inverse_frequencies(head_dim, _number(rope, "rope_theta", 10000.0))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / _number(rope, "factor")
    if kind == "llama3":
        return scaled_like_llama3(
            frequencies,
            factor=_number(rope, "factor"),
            low_freq_factor=_number(rope, "low_freq_factor"),
            high_freq_factor=_number(rope, "high_freq_factor"),
            trained_positions=_size(rope, "original_max_position_embeddings"),
        )
    raise ModelFileError(
        f"config.json: rope_type is {kind!r}; known are default, linear and llama3"
    )


def _size(fields: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = fields.get(field)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 2**31:
        raise ModelFileError(f"config.json: {field} is {value!r}, expected a positive integer")
    return value


def _number(fields: Mapping[str, Any], field: str, default: float | None = None) -> float:
    value: Any = fields.get(field)
    value = default if value is None else value
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise ModelFileError(f"config.json: {field} is {value!r}, expected a positive number")
    return float(value)


def _template(folder: Path) -> str | None:
    """A file of its own in new folders, a field of tokenizer_config.json in old ones."""
    if (file := folder / "chat_template.jinja").is_file():
        return read_file(file, _MAX_TEMPLATE).decode("utf-8", "replace")
    path = folder / "tokenizer_config.json"
    found = read_json(path).get("chat_template") if path.is_file() else None
    for entry in found if isinstance(found, list) else ():  # several, by name
        match entry:
            case {"name": "default", "template": template}:
                found = template
    return found if isinstance(found, str) else None
