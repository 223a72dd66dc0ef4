"""Model files: what they say reaches the core unchanged, and what is broken is named.

Architectures without a real file at hand are tiny models with random weights, saved by transformers
and compared with transformers' own logits.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers

import f1.models.gguf
from f1 import _core
from f1.errors import ModelFileError
from f1.models.load import load_checkpoint, load_model
from f1.models.safetensors import read_header
from f1.types import Message

V, D, MLP, H, G, E, LAYERS = 320, 64, 96, 4, 2, 16, 2
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def tiny(
    config: type[transformers.PretrainedConfig], **options: Any
) -> transformers.PreTrainedModel:
    """A model with random weights, biases and norms, large enough that every one of them shows."""
    torch.manual_seed(0)
    defaults = {
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": H,
        "num_key_value_heads": G,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }
    model = transformers.AutoModelForCausalLM.from_config(config(**{**defaults, **options}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if "norm" in name else 0.0
            parameter.copy_(around + 0.2 * torch.randn_like(parameter))
    return model.eval()


def save(model: transformers.PreTrainedModel, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    plain = tokenizers.Tokenizer(tokenizers.models.BPE({c: n for n, c in enumerate(alphabet)}, []))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    return folder


def our_logits(path: Path, token_ids: np.ndarray) -> np.ndarray:
    return load_model(load_checkpoint(str(path)), num_threads=1).logits(token_ids)


def their_logits(model: transformers.PreTrainedModel, token_ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(token_ids)[None].long()).logits[0].numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The cache of K and V in f16 is what sets ours apart: about 1e-3 of the logits' size. A wrong
    frequency, norm or order of rows makes it 1e-1 and more."""
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < 3e-3


@pytest.fixture(scope="module")
def token_ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, 70, dtype=np.int32)


MODELS = {
    "llama": lambda: tiny(transformers.LlamaConfig),
    "llama-tied": lambda: tiny(transformers.LlamaConfig, tie_word_embeddings=True),
    "llama-multi-head": lambda: tiny(transformers.LlamaConfig, num_key_value_heads=H),
    "llama3-rope": lambda: tiny(transformers.LlamaConfig, rope_parameters=LLAMA3),
    "linear-rope": lambda: tiny(
        transformers.LlamaConfig,
        rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1000.0},
    ),
    "qwen2": lambda: tiny(transformers.Qwen2Config),
    "qwen2-tied": lambda: tiny(transformers.Qwen2Config, tie_word_embeddings=True),
    "qwen3": lambda: tiny(transformers.Qwen3Config, head_dim=32),
    "qwen3-tied": lambda: tiny(transformers.Qwen3Config, head_dim=16, tie_word_embeddings=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_folder_logits_equal_transformers(name: str, token_ids: np.ndarray, tmp_path: Path):
    model = MODELS[name]()
    ours = our_logits(save(model, tmp_path), token_ids)
    assert_close(ours, their_logits(model, token_ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_folders(dtype: torch.dtype, token_ids: np.ndarray, tmp_path: Path):
    """Compared with transformers in f32 on the same rounded weights."""
    model = tiny(transformers.Qwen2Config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    ours = our_logits(save(copy.deepcopy(model).to(dtype), tmp_path), token_ids)
    assert_close(ours, their_logits(model, token_ids))


def test_sharded_folder(token_ids: np.ndarray, tmp_path: Path):
    model = tiny(transformers.LlamaConfig)
    folder = save(model, tmp_path, max_shard_size="80KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    expected = their_logits(model, token_ids)
    assert_close(our_logits(folder, token_ids), expected)


def test_old_config_spelling(token_ids: np.ndarray, tmp_path: Path):
    """Before `rope_parameters`, theta stood alone and scaling in `rope_scaling`."""
    model = tiny(transformers.LlamaConfig, rope_parameters=LLAMA3)
    folder = save(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    (folder / "config.json").write_text(json.dumps(config))
    expected = their_logits(model, token_ids)
    assert_close(our_logits(folder, token_ids), expected)


def test_folder_prompt(tmp_path: Path):
    checkpoint = load_checkpoint(str(save(tiny(transformers.Qwen2Config), tmp_path / "mine")))
    assert (checkpoint.name, checkpoint.architecture) == ("mine", "qwen2")
    token_ids = checkpoint.template.render([Message("user", "hi<|im_end|>")])
    text = "<|im_start|>user\nhi<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert checkpoint.tokenizer.decode(token_ids).decode() == text
    end = checkpoint.tokenizer.token_id("<|im_end|>")
    assert token_ids.count(end) == 1
    assert checkpoint.tokenizer.stop_token_ids == {end}
    assert checkpoint.tokenizer.vocab_size == V


# --- GGUF ----------------------------------------------------------------------------------------

_GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    path: Path,
    architecture: str,
    tensors: dict[str, np.ndarray],
    change: Callable[[dict[str, Any]], object] = lambda fields: None,
) -> Path:
    """A GGUF file as converters write it; `change` may edit its fields first."""
    writer = gguf.GGUFWriter(path, architecture)
    tokens = [c.encode() for c in sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
    tokens += [b"<|im_start|>", b"<|im_end|>"] + [f"[PAD{n}]".encode() for n in range(V - 258)]
    fields: dict[str, Any] = {
        f"{architecture}.block_count": LAYERS,
        f"{architecture}.context_length": 128,
        f"{architecture}.embedding_length": D,
        f"{architecture}.feed_forward_length": MLP,
        f"{architecture}.attention.head_count": H,
        f"{architecture}.attention.head_count_kv": G,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{architecture}.rope.freq_base": 1000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 3] + [5] * (V - 258),
        "tokenizer.ggml.merges": ["a a"],
        "tokenizer.ggml.eos_token_id": 257,
    }
    tokens[258] = b"aa"
    fields["tokenizer.ggml.token_type"][258] = 1
    change(fields)
    for name, value in fields.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add.get(type(value), writer.add_array)(name, value)
    for name, data in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensors(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """A model's tensors under GGUF's names, the rows of llama's q and k permuted to make pairs of
    neighbours out of the halves of each head."""
    tensors = {}
    for name, value in model.state_dict().items():
        data = value.float().numpy()
        stem, _, kind = name.rpartition(".")
        if model.config.model_type == "llama" and stem.endswith(("q_proj", "k_proj")):
            data = data.reshape(-1, 2, E // 2, D).swapaxes(1, 2).reshape(data.shape)
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            tensors[f"blk.{layer}.{_GGUF_NAMES[part]}.{kind}"] = data
        else:
            whole = {
                "model.embed_tokens": "token_embd",
                "model.norm": "output_norm",
                "lm_head": "output",
            }
            tensors[f"{whole[stem]}.{kind}"] = data
    return tensors


@pytest.fixture(scope="module")
def llama_tensors() -> dict[str, np.ndarray]:
    return gguf_tensors(tiny(transformers.LlamaConfig))


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_gguf_logits_equal_transformers(name: str, token_ids: np.ndarray, tmp_path: Path):
    configs = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }
    options = {"head_dim": 32} if name == "qwen3" else {}
    model = tiny(configs[name], **options)

    def widths(fields: dict[str, Any]) -> None:
        if name == "qwen3":
            fields |= {"qwen3.attention.key_length": 32, "qwen3.attention.value_length": 32}

    path = write_gguf(tmp_path / "m.gguf", name, gguf_tensors(model), widths)
    expected = their_logits(model, token_ids)
    assert_close(our_logits(path, token_ids), expected)


def test_gguf_rope_factors(
    token_ids: np.ndarray, llama_tensors: dict[str, np.ndarray], tmp_path: Path
):
    """Llama 3's scaling comes as factors that divide the frequencies."""
    model = tiny(transformers.LlamaConfig, rope_parameters=LLAMA3)
    plain = 500.0 ** -(np.arange(0, E, 2) / E)
    factors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    tensors = {**llama_tensors, "rope_freqs.weight": factors}
    path = write_gguf(
        tmp_path / "m.gguf", "llama", tensors, lambda f: f.update({"llama.rope.freq_base": 500.0})
    )
    expected = their_logits(model, token_ids)
    assert_close(our_logits(path, token_ids), expected)


def test_real_file(smollm_path: Path):
    checkpoint = load_checkpoint(str(smollm_path))
    config = checkpoint.config
    assert (config.num_layers, config.hidden_size, config.num_heads) == (30, 576, 9)
    assert (config.num_kv_heads, config.head_dim, config.vocab_size) == (3, 64, 49152)
    assert config.rope_interleaved
    assert "head.weight" not in checkpoint.tensors
    assert checkpoint.tensors["layers.29.down.weight"].shape == (576, 1536)
    assert len(checkpoint.tensors) == 272


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update({"llama.rope.scaling.type": "yarn"}), "rope.scaling.type is 'yarn'"),
        (lambda f: f.pop("llama.block_count"), "llama.block_count is missing"),
        (lambda f: f.update({"llama.block_count": 0}), "llama.block_count is 0"),
        (lambda f: f.update({"llama.block_count": "two"}), "llama.block_count is 'two'"),
        (
            lambda f: f.update({"llama.attention.head_count_kv": [2, 1]}),
            r"head_count_kv is \[2, 1\]",
        ),
        (lambda f: f.update({"llama.block_count": 2.0}), "llama.block_count is 2.0"),
        (lambda f: f.update({"llama.rope.freq_base": float("nan")}), "rope.freq_base is nan"),
        (lambda f: f.update({"llama.rope.freq_base": 0.0}), "rope.freq_base is 0.0"),
        (lambda f: f.update({"llama.attention.key_length": 15}), "15"),
        (lambda f: f.update({"llama.rope.dimension_count": 8}), "rope.dimension_count is 8"),
        (lambda f: f.pop("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens is missing"),
        (lambda f: f.update({"tokenizer.chat_template": "{% if %}"}), "chat template"),
        (lambda f: f.update({"llama.block_count": 3}), "layers.2"),
        (lambda f: f.update({"llama.feed_forward_length": 95}), "gate"),
    ],
)
def test_wrong_gguf_field_is_named(
    change: Callable[[dict[str, Any]], object],
    message: str,
    llama_tensors: dict[str, np.ndarray],
    tmp_path: Path,
):
    path = write_gguf(tmp_path / "broken.gguf", "llama", llama_tensors, change)
    with pytest.raises(ModelFileError, match=rf"broken.*{message}"):
        load_model(load_checkpoint(str(path)), num_threads=1)


def test_wrong_gguf_tensors_are_named(llama_tensors: dict[str, np.ndarray], tmp_path: Path):
    embed = llama_tensors["token_embd.weight"]
    short = {**llama_tensors, "token_embd.weight": embed[:-1], "output.weight": embed[:-1]}
    changed = {
        "expert": ({**llama_tensors, "blk.0.ffn_gate_inp.weight": embed}, "blk.0.ffn_gate_inp"),
        "short": (short, "320 entries, but token_embd.weight 319 rows"),
        "norm": ({**llama_tensors, "output_norm.weight": np.ones(D + 1, np.float32)}, "final_norm"),
    }
    for name, (tensors, message) in changed.items():
        path = write_gguf(tmp_path / f"{name}.gguf", "llama", tensors)
        with pytest.raises(ModelFileError, match=rf"{name}.*{message}"):
            load_model(load_checkpoint(str(path)), num_threads=1)


def test_unknown_architecture(llama_tensors: dict[str, np.ndarray], tmp_path: Path):
    path = write_gguf(tmp_path / "m.gguf", "mamba", llama_tensors)
    with pytest.raises(ModelFileError, match=r"general\.architecture is 'mamba'"):
        load_checkpoint(str(path))


def test_truncated_gguf(llama_tensors: dict[str, np.ndarray], tmp_path: Path):
    data = write_gguf(tmp_path / "whole.gguf", "llama", llama_tensors).read_bytes()
    path = tmp_path / "cut.gguf"
    for length in [0, 3, 4, 12, 24, 60, 1000, len(data) // 2, len(data) - 40]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"cut\.gguf"):
            load_checkpoint(str(path))


# --- broken folders ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny(transformers.LlamaConfig), tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": 63}, "odd|63"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_hidden_layers": 3}, "layers.2"),
        ({"vocab_size": 2**40}, "vocab_size"),
        ({"vocab_size": 100}, "token id"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is None"),
    ],
)
def test_wrong_config_field_is_named(
    change: dict[str, Any], message: str, folder: Path, tmp_path: Path
):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelFileError, match=message):
        load_model(load_checkpoint(str(tmp_path)), num_threads=1)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(missing: str, folder: Path, tmp_path: Path):
    for path in folder.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelFileError, match=f"{missing} is missing"):
        load_checkpoint(str(tmp_path))


def _header(entries: Any, data: bytes = bytes(64)) -> bytes:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


def _entry(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of 0 bytes"),
        (b"\xff" * 8, "header of"),
        (struct.pack("<Q", 50) + b"{}", "header of 50 bytes"),
        (_header(b"{]"), "offset 8"),
        (_header(b"[" * 10_000), "offset 8"),
        (_header([]), "not an object"),
        (_header({"w": 3}), "'w': dtype, shape or data_offsets"),
        (_header({"w": _entry(shape=[-1])}), "'w': dtype, shape or data_offsets"),
        (_header({"w": _entry(shape=[True])}), "'w': dtype, shape or data_offsets"),
        (_header({"w": _entry(shape=[2**31, 2**31])}), "'w': F32"),
        (_header({"w": _entry(dtype="I32")}), "'w': dtype 'I32'"),
        (_header({"w": _entry(offsets=[0, 12])}), "takes 16 bytes"),
        (_header({"w": _entry(offsets=[56, 72])}), r"\[56, 72\] exceed the 64 bytes"),
        (_header({"w": _entry(offsets=[-16, 0])}), "exceed"),
        (_header({"w": _entry(), "x": _entry(offsets=[12, 28])}), "'x' at offset .* overlaps 'w'"),
    ],
)
def test_broken_safetensors(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"model\.safetensors.*{message}"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "no weight_map"),
        ('{"weight_map": 1}', "not an object"),
        ('{"weight_map": {"w": "../../etc/passwd"}}', "not a file beside it"),
        ('{"weight_map": {"w": "absent.safetensors"}}', "absent.safetensors is missing"),
        ('{"weight_map": {"w": "model.safetensors"}}', "'w' is not in model.safetensors"),
    ],
)
def test_broken_index(index: str, message: str, folder: Path, tmp_path: Path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFileError, match=message):
        load_checkpoint(str(tmp_path))


# --- any field, any value ------------------------------------------------------------------------

ODD = [None, True, 0, -1, 2**40, 1.5, float("nan"), "x", b"x", [], [1], [b"x"], [1.5] * V, {"x": 1}]


def test_odd_gguf_values_are_typed_errors(
    llama_tensors: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever a field holds: the file opens, or a ModelFileError says why not."""
    path = write_gguf(tmp_path / "m.gguf", "llama", llama_tensors)
    file = _core.read_gguf(str(path))
    refused = 0
    for field in [*file.metadata, "llama.attention.key_length", "tokenizer.chat_template"]:
        for value in ODD:
            changed = SimpleNamespace(
                metadata={**file.metadata, field: value}, tensors=file.tensors
            )
            monkeypatch.setattr(f1.models.gguf, "_read", lambda path, changed=changed: changed)
            refused += _is_refused(path)
    assert refused > 100


def test_odd_json_values_are_typed_errors(folder: Path, tmp_path: Path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = [v for v in ODD if v != b"x" and v != [b"x"] and v == v]
    refused = 0
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"]:
        spec = json.loads((folder / name).read_text())
        for field in spec:
            for value in values:
                (tmp_path / name).write_text(json.dumps({**spec, field: value}))
                refused += _is_refused(tmp_path)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert refused > 50


def _is_refused(path: Path) -> bool:
    try:
        load_checkpoint(str(path))
    except ModelFileError:
        return True
    return False
