"""What a file says, once it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from f1.config.where import Table
from f1.planning.run import Role
from f1.settings import Settings
from f1.tools.mcp.settings import McpServer
from f1.tools.policy import AllowAll, Policy
from f1.types import RunOptions

ROLES: tuple[Role, ...] = get_args(Role)
ORCHESTRATED = "f1"  # the model id that stands for the whole system


@dataclass(frozen=True, slots=True)
class LocalModel:
    """`source` is a catalogue name, a path or a hub id; `settings` are this model's own."""

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """`model` of the server at `base_url`. `dialect` "openai" sends nothing that only F1 knows, and
    holds what comes back to the tools' schemas."""

    base_url: str
    model: str
    api_key_env: str | None = None  # the variable that holds the key
    timeout: float = 120.0  # seconds in which it may say nothing
    dialect: Literal["openai", "f1"] = "openai"
    omit: tuple[str, ...] = ()  # fields of the body that this server does not take
    body: Table = field(default_factory=dict)  # and those that it wants


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Those that are None are as the command line or the environment has them."""

    host: str | None = None
    port: int | None = None
    keys_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalOptions:
    """`approvers`: whose keys may decide, for everybody; None: each tenant's for its own runs; ():
    nobody's. An approval that nobody decides on for `seconds` is rejected."""

    approvers: tuple[str, ...] | None = None
    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """`redact`: names of fields whose values are secret; `otlp`: a collector of OpenTelemetry's
    (None: the one that OTEL_EXPORTER_OTLP_ENDPOINT names, if any), which is told what was said and
    done with `otlp_content` alone."""

    redact: tuple[str, ...] = ()
    otlp: str | None = None
    otlp_content: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A file, read. `embedder` is one of `models`, on a server, or F1's own as is None; `memory` is
    in bytes; `tools` are tables for f1.tools.configured, `toolsets` names of tools; `workers` are
    fields of f1.tools.runners.workers.WorkerSettings, `settings` texts as environment variables
    have them."""

    models: Mapping[str, LocalModel | RemoteModel]
    roles: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    embedder: str | None = None
    memory: int | None = None
    defaults: RunOptions = field(default_factory=RunOptions)
    tools: Mapping[str, Table] = field(default_factory=dict)
    toolsets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    serve: ServeOptions = ServeOptions()
    policy: Policy = field(default_factory=AllowAll)
    approvals: ApprovalOptions = ApprovalOptions()
    workers: Table = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    mcp: Mapping[str, McpServer] = field(default_factory=dict)
    trace: TraceOptions = TraceOptions()
    file: Path = Path("f1.toml")  # its paths start from the folder it is in

    @classmethod
    def of(cls, source: str) -> Config:
        """One model for all, called as its source is."""
        return cls({Path(source).name.removesuffix(".gguf"): LocalModel(source)})

    def all_settings(self, env: Mapping[str, str]) -> Settings:
        """The file's, with the environment's in place of those that it sets."""
        given = {f"F1_{name.upper()}": text for name, text in self.settings.items()}
        return Settings.from_env(given | {name: text for name, text in env.items() if text.strip()})
