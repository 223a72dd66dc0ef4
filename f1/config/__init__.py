"""`f1.toml`: which models there are, what each is for, and what every request begins with.

    [models.NAME]    a model here (`model`: catalogue name or hub id; `path`) or on a server
                     (`base_url`, `model`); each answers under its NAME
    [roles]          who does what behind the id "f1": a NAME, or several: the next stands in
    [memory]         what the models here may take together
    [defaults]       what a request to "f1" need not say
    [tools.NAME]     tools, and [toolsets.NAME] of them, for everybody who asks
    [mcp.NAME]       servers of tools, each of them a toolset of its NAME
    [[policy]]       rules on what F1 may run (f1.tools.policy); [approvals]: who may allow the rest
    [workers]        what the processes may take that run functions of the operator's
    [trace]          what is hidden in what is written down of runs, and where spans of it go
    [serve]          where `f1 serve` listens, and to whom
    [settings]       f1.settings.Settings; the environment goes first

Everything in it is checked when it is read. Errors name the file, the key and what is expected.
examples/f1.toml has every key.
"""

from __future__ import annotations

from f1.config.parsing import parse_config, read_config
from f1.config.words import (
    ORCHESTRATED,
    ROLES,
    ApprovalOptions,
    Config,
    LocalModel,
    RemoteModel,
    ServeOptions,
    TraceOptions,
)

__all__ = [
    "ORCHESTRATED",
    "ROLES",
    "ApprovalOptions",
    "Config",
    "LocalModel",
    "RemoteModel",
    "ServeOptions",
    "TraceOptions",
    "parse_config",
    "read_config",
]
