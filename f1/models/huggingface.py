"""Hugging Face folders: config.json, safetensors, tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from f1.errors import ModelFileError
from f1.models.checkpoint import Checkpoint


def load_folder(path: Path, name: str) -> Checkpoint:
    raise ModelFileError(f"{name}: folders are not supported yet")
