"""What a user may set once for the whole process, from the environment (`F1_*`) or in code."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from f1.errors import InvalidRequest

_SIZES = ("kv_memory", "snapshot_disk", "packed_disk", "responses_disk", "runs_disk")  # in bytes
_SWITCHES = ("forced_text", "speculation", "engine_process", "log_requests", "log_prompts")
_SWITCHED = {"1": True, "on": True, "true": True, "0": False, "off": False, "false": False}
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is also the environment variable `F1_<FIELD>`; the cache folder is `F1_CACHE`."""

    cache: Path = Path("~/.cache/f1")  # models live in its folder `models`
    grammars: Path | None = None  # a folder of your own family files; they go before F1's
    context_length: int | None = None  # tokens; None: as trained, as far as the KV memory reaches
    kv_memory: int = 2**30  # bytes for pages of K and V; "512M" and "2GiB" are understood
    snapshot_disk: int = 2 * 2**30  # bytes for snapshots of registered toolsets; 0: none are kept
    packed_disk: int = 0  # bytes for packed weights, which load some 0.2 s faster; 0: none are kept
    responses_disk: int = 2**28  # bytes for stored responses; 0: none are kept
    runs_disk: int = 2**30  # bytes for what runs and sessions leave behind; 0: none are kept
    runs_days: int = 30  # that they are kept for after their last use
    runs_url: str = ""  # a database for them in place of a file in `cache`: "postgresql://…"
    num_threads: int = 0  # 0: every core
    isa: str = "auto"  # kernels: "scalar" runs on any processor, "cuda" on the first GPU
    # What was computed for a turn that called tools is given up for others last, for so many
    # seconds, as far as half of `kv_memory` goes. 0: it takes its chance.
    warm_seconds: int = 60
    max_batch_tokens: int = 256  # tokens computed in one step
    max_sequences: int = 32  # requests decoded side by side
    # Commits what the grammar leaves one continuation for, without asking the model. Calls are then
    # written in one way, their white space too.
    forced_text: bool = True
    # Looks up what may come next in the prompt and in what was decoded lately, and verifies it in
    # one go. The same tokens, sooner.
    speculation: bool = True
    max_queued: int = 256  # requests that wait for a server's turn; more are refused
    engine_process: bool = True  # a server's engines run in processes of their own, and may die
    log_requests: bool = True  # the server writes a line of JSON a request to stderr
    log_prompts: bool = False  # what users wrote is in it, too
    shutdown_grace: int = 30  # seconds a server that is told to stop gives what it has begun

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Settings as the environment has them; an unset or empty variable keeps the default."""
        env = os.environ if env is None else env
        found = {f.name: env.get(f"F1_{f.name.upper()}", "").strip() for f in fields(cls)}
        return cls(**{name: _parse(name, text) for name, text in found.items() if text})

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", Path(self.cache).expanduser())
        if self.grammars is not None and not Path(self.grammars).is_dir():
            raise InvalidRequest(f"grammars: {self.grammars} is not a folder", param="grammars")
        for name in ("kv_memory", "max_batch_tokens", "max_sequences"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"{name} must be at least 1", param=name)
        for name in (
            "num_threads", "snapshot_disk", "packed_disk", "responses_disk", "runs_disk",
            "runs_days", "shutdown_grace", "max_queued", "warm_seconds",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise InvalidRequest(f"{name} must not be negative", param=name)
        if self.context_length is not None and self.context_length < 1:
            raise InvalidRequest("context_length must be at least 1", param="context_length")

    @property
    def models_dir(self) -> Path:
        return self.cache / "models"

    @property
    def responses_file(self) -> Path:
        return self.cache / "responses.sqlite"

    @property
    def tools_file(self) -> Path:
        return self.cache / "tools.sqlite"

    @property
    def runs_file(self) -> Path:
        return self.cache / "runs.sqlite"

    @property
    def redaction_file(self) -> Path:
        return self.cache / "redaction.key"

    @property
    def pins_file(self) -> Path:
        """What a person has approved of what MCP servers offer."""
        return self.cache / "mcp.json"

    @property
    def vectors_file(self) -> Path:
        return self.cache / "vectors.sqlite"

    @property
    def snapshots_dir(self) -> Path:
        return self.cache / "snapshots"


def parse_bytes(text: str) -> int:
    """ "1073741824", "512M", "2GiB" (powers of 1024) → bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"not a size: {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _parse(name: str, text: str) -> Any:
    if name in ("cache", "grammars"):
        return Path(text)
    if name in ("isa", "runs_url"):
        return text
    if name in _SWITCHES:
        if text.lower() not in _SWITCHED:
            variable = f"F1_{name.upper()}"
            raise InvalidRequest(f"{variable} is neither on nor off: {text!r}", param=variable)
        return _SWITCHED[text.lower()]
    try:
        return parse_bytes(text) if name in _SIZES else int(text)
    except ValueError:
        variable = f"F1_{name.upper()}"
        raise InvalidRequest(f"{variable} is not a number: {text!r}", param=variable) from None
