"""From TOML to a Config, table by table."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import cast, get_args

from f1.config import values
from f1.config.rules import Known, read_policy
from f1.config.where import Reader, Table, Where
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
from f1.errors import InvalidRequest
from f1.models.catalogue import EMBEDDING_MODEL
from f1.planning.run import Role
from f1.settings import Settings
from f1.tools.mcp.settings import McpServer, read_server
from f1.tools.policy import Action
from f1.types import Budget, RunOptions, StrategyName

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\Z")
_MANY = 1 << 30
_TABLES = frozenset(
    "models roles memory defaults tools toolsets mcp approvals workers trace serve settings".split()
)
_LOCAL: dict[str, Reader] = {
    "model": values.text,
    "path": values.path,
    "context_length": values.count(1, _MANY),
    "kv_memory": values.size,
    "max_sequences": values.count(1, 4096),
    "max_batch_tokens": values.count(1, 1 << 20),
    "num_threads": values.count(0, 4096),
}
_REMOTE: dict[str, Reader] = {
    "base_url": values.url,
    "model": values.text,
    "api_key_env": values.text,
    "timeout": values.seconds,
    "dialect": values.word("openai", "f1"),
    "omit": values.texts,
    "body": values.any_table,
}
_ROLES: dict[str, Reader] = dict.fromkeys(ROLES, values.names) | {"embedder": values.text}
_DEFAULTS: dict[str, Reader] = {
    "strategy": values.word(*get_args(StrategyName)),
    "budget": values.any_table,
    "max_tools": values.count(1, 512),
    "samples": values.count(1, 32),
    "toolsets": values.texts,
}
_BUDGET: dict[str, Reader] = {
    "steps": values.count(1, 1024),
    "calls": values.count(1, 1 << 16),
    "tokens": values.count(1, _MANY),
    "seconds": values.seconds,
}
_TOOLSET: dict[str, Reader] = {"tools": values.texts}
_APPROVALS: dict[str, Reader] = {
    "unmatched": values.word(*get_args(Action)),
    "approvers": values.texts,
    "seconds": values.seconds,
}
_WORKERS: dict[str, Reader] = {
    "environment": values.texts,
    "memory_bytes": values.size,
    "cpu_seconds": values.seconds,
    "idle": values.count(0, 64),
    "sandbox": values.flag,
    "network": values.flag,
    "readable": values.texts,
    "processes": values.count(1, 1 << 15),
    "disk_bytes": values.size,
}
_TRACE: dict[str, Reader] = {
    "redact": values.texts,
    "otlp": values.url,
    "otlp_content": values.flag,
}
_SERVE: dict[str, Reader] = {
    "host": values.text,
    "port": values.count(0, 65535),
    "keys_file": values.path,
    "allowed_hosts": values.texts,
    "allowed_origins": values.texts,
}


def read_config(path: Path, more_tools: Collection[str] = ()) -> Config:
    """`more_tools` are there beside those of the file, for rules to name. Raises InvalidRequest."""
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}", param="config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: not TOML: {error}", param="config") from None
    return parse_config(tables, path, more_tools)


def parse_config(tables: Table, path: Path, more_tools: Collection[str] = ()) -> Config:
    """`path` is where the tables were read: errors name it, their paths start from its folder."""
    where = Where(path)
    where.check_keys(tables, _TABLES | {"policy"})
    given = {name: where.into(name).table(tables.get(name, {})) for name in _TABLES}
    models = {
        name: _model(name, table, where.into("models", name), path.parent)
        for name, table in given["models"].items()
    }
    if not models:
        raise where.into("models").wrong("has to have a model: [models.NAME]")
    roles = where.into("roles").read(given["roles"], _ROLES)
    embedder = roles.pop("embedder", None)
    if embedder is not None and not isinstance(models.get(embedder), RemoteModel):
        servers = {n: m for n, m in models.items() if isinstance(m, RemoteModel)}
        known = {EMBEDDING_MODEL: None} | servers
        where.into("roles", "embedder").check_name(embedder, known, "embedding model")
    decoding = {name: model for name, model in models.items() if name != embedder}
    for role, names in roles.items():
        for name in names:
            where.into("roles", role).check_name(name, decoding, "model")
    if not decoding:
        raise where.into("models").wrong("has to have a model beside the embedder")
    tools, toolsets = given["tools"], _toolsets(given["toolsets"], where.into("toolsets"))
    for name, members in toolsets.items():
        for member in members:
            where.into("toolsets", name).check_name(member, tools, "tool")
    mcp = _mcp(given["mcp"], where.into("mcp"), path.parent)
    for name in mcp.keys() & toolsets.keys():
        raise where.into("toolsets", name).wrong("is the toolset of the MCP server, too")
    defaults = _defaults(given["defaults"], where.into("defaults"))
    for name in defaults.toolsets:
        where.into("defaults", "toolsets").check_name(name, {**toolsets, **mcp}, "toolset")
    approvals = where.into("approvals").read(given["approvals"], _APPROVALS)
    nameable = Known((*tools, *more_tools), toolsets, tuple(mcp))
    policy = read_policy(
        tables.get("policy", []),
        approvals.pop("unmatched", "allow"),
        where.into("policy"),
        nameable,
    )
    return Config(
        models,
        cast("Mapping[Role, tuple[str, ...]]", roles),
        embedder,
        where.into("memory").read(given["memory"], {"models": values.size}).get("models"),
        defaults,
        {name: where.into("tools", name).table(table) for name, table in tools.items()},
        toolsets,
        _serve(given["serve"], where.into("serve"), path.parent),
        policy,
        ApprovalOptions(**approvals),
        where.into("workers").read(given["workers"], _WORKERS),
        _settings(given["settings"], where.into("settings")),
        mcp,
        TraceOptions(**where.into("trace").read(given["trace"], _TRACE)),
        path,
    )


def _model(name: str, table: object, where: Where, folder: Path) -> LocalModel | RemoteModel:
    if not _MODEL_NAME.match(name) or name == ORCHESTRATED:
        told = "A-Z a-z 0-9 . _ : / -, and not 'f1', which stands for all"
        raise where.wrong(f"is no name of a model: that is 1 to 128 of {told}")
    said = where.table(table)
    if "base_url" in said:
        given = where.read(said, _REMOTE)
        if "model" not in given:
            raise where.into("model").wrong("is missing: which model of that server?")
        return RemoteModel(**given)
    given = where.read(said, _LOCAL)
    if "path" in given and "model" in given:
        raise where.into("path").wrong("and 'model' say the same: give one")
    source = given.pop("model", name)
    if (place := given.pop("path", None)) is not None:
        source = str(folder / place.expanduser())
    return LocalModel(source, given)


def _defaults(table: object, where: Where) -> RunOptions:
    given = where.read(where.table(table), _DEFAULTS)
    if "budget" in given:
        given["budget"] = Budget(**where.into("budget").read(given["budget"], _BUDGET))
    return RunOptions(**given)


def _toolsets(table: Table, where: Where) -> dict[str, tuple[str, ...]]:
    read = {name: where.into(name).read(where.into(name).table(t), _TOOLSET)
            for name, t in table.items()}  # fmt: skip
    return {name: given.get("tools", ()) for name, given in read.items()}


def _mcp(table: Table, where: Where, folder: Path) -> dict[str, McpServer]:
    try:
        return {
            name: read_server(name, where.into(name).table(said), folder.absolute())
            for name, said in table.items()
        }
    except InvalidRequest as error:
        if error.message.startswith(str(where.file)):
            raise
        raise InvalidRequest(f"{where.file}: {error.message}", param=error.param) from None


def _serve(table: object, where: Where, folder: Path) -> ServeOptions:
    given = where.read(where.table(table), _SERVE)
    if "keys_file" in given:
        given["keys_file"] = folder / given["keys_file"].expanduser()
    return ServeOptions(**given)


def _settings(table: object, where: Where) -> dict[str, str]:
    """Each is tried alone, so that the one that is wrong is named."""
    known: dict[str, Reader] = {each.name: values.setting for each in fields(Settings)}
    given: dict[str, str] = where.read(where.table(table), known)
    for name, text in given.items():
        try:
            Settings.from_env({f"F1_{name.upper()}": text})
        except InvalidRequest as error:
            raise where.into(name).wrong(f"is not understood: {error}") from None
    return given
