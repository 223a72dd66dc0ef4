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

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, cast, get_args

from f1.calling.validating import PatternError, matches
from f1.errors import InvalidRequest
from f1.models.catalogue import EMBEDDING_MODEL
from f1.planning.run import Role
from f1.settings import Settings, parse_bytes
from f1.tools.mcp.settings import McpServer, read_server
from f1.tools.policy import Action, AllowAll, Condition, Policy, Rule, Rules, TaintKind, Test
from f1.tools.spec import Annotations
from f1.types import Budget, RunOptions, StrategyName

ROLES: tuple[Role, ...] = get_args(Role)
ORCHESTRATED = "f1"  # the model id that stands for the whole system
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\Z")

Table = Mapping[str, Any]
Reader = Callable[[Any], Any]  # raises _Unfit


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
    where = _Where(path)
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
    nameable = _Known((*tools, *more_tools), toolsets, tuple(mcp))
    policy = _policy(
        tables.get("policy", []),
        approvals.pop("unmatched", "allow"),
        where.into("policy"),
        nameable,
    )
    return Config(
        models,
        cast("Mapping[Role, tuple[str, ...]]", roles),
        embedder,
        where.into("memory").read(given["memory"], {"models": _size}).get("models"),
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


# --- tables --------------------------------------------------------------------------------------


def _model(name: str, table: object, where: _Where, folder: Path) -> LocalModel | RemoteModel:
    if not _MODEL_NAME.match(name) or name == ORCHESTRATED:
        told = "A-Z a-z 0-9 . _ : / -, and not 'f1', which stands for all"
        raise where.wrong(f"is no name of a model: that is 1 to 128 of {told}")
    values = where.table(table)
    if "base_url" in values:
        given = where.read(values, _REMOTE)
        if "model" not in given:
            raise where.into("model").wrong("is missing: which model of that server?")
        return RemoteModel(**given)
    given = where.read(values, _LOCAL)
    if "path" in given and "model" in given:
        raise where.into("path").wrong("and 'model' say the same: give one")
    source = given.pop("model", name)
    if (place := given.pop("path", None)) is not None:
        source = str(folder / place.expanduser())
    return LocalModel(source, given)


def _defaults(table: object, where: _Where) -> RunOptions:
    given = where.read(where.table(table), _DEFAULTS)
    if "budget" in given:
        given["budget"] = Budget(**where.into("budget").read(given["budget"], _BUDGET))
    return RunOptions(**given)


def _toolsets(table: Table, where: _Where) -> dict[str, tuple[str, ...]]:
    read = {name: where.into(name).read(where.into(name).table(t), _TOOLSET)
            for name, t in table.items()}  # fmt: skip
    return {name: given.get("tools", ()) for name, given in read.items()}


def _mcp(table: Table, where: _Where, folder: Path) -> dict[str, McpServer]:
    try:
        return {
            name: read_server(name, where.into(name).table(said), folder.absolute())
            for name, said in table.items()
        }
    except InvalidRequest as error:
        if error.message.startswith(str(where.file)):
            raise
        raise InvalidRequest(f"{where.file}: {error.message}", param=error.param) from None


def _serve(table: object, where: _Where, folder: Path) -> ServeOptions:
    given = where.read(where.table(table), _SERVE)
    if "keys_file" in given:
        given["keys_file"] = folder / given["keys_file"].expanduser()
    return ServeOptions(**given)


@dataclass(frozen=True, slots=True)
class _Known:
    """What rules may name. Tools of MCP servers have names like SERVER__tool; which ones there are
    is known once the server has said so."""

    tools: Collection[str]
    toolsets: Mapping[str, tuple[str, ...]]
    servers: tuple[str, ...]

    def has(self, glob: str) -> bool:
        of_server = any(glob.startswith(f"{server}__") for server in self.servers)
        return of_server or glob == "*" or any(fnmatchcase(name, glob) for name in self.tools)

    def members(self, toolset: str) -> tuple[str, ...]:
        return self.toolsets.get(toolset, (f"{toolset}__*",))


def _policy(tables: object, unmatched: Action, where: _Where, known: _Known) -> Policy:
    if not isinstance(tables, list):
        raise where.wrong("must be rules, each under a [[policy]] of its own")
    rules = [_rule(table, where.at(index), known) for index, table in enumerate(tables)]
    return Rules(tuple(rules), unmatched) if rules or unmatched != "allow" else AllowAll()


def _rule(table: object, where: _Where, known: _Known) -> Rule:
    given = where.read(where.table(table), _RULE)
    if "action" not in given:
        raise where.into("action").wrong("is missing: allow, ask or deny")
    if "taint_in" in given and "taint" not in given:
        raise where.into("taint_in").wrong("says where; `taint` has to say what")
    for name in given.get("tools", ()):
        if not known.has(name):
            names = [*known.tools, *(f"{server}__*" for server in known.servers)]
            raise where.into("tools").wrong(f"names no tool: {name!r}{_meant(name, names)}")
    sets = {**known.toolsets, **dict.fromkeys(known.servers, ())}
    tools = list(given.get("tools", ()))
    for name in given.pop("toolsets", ()):
        where.into("toolsets").check_name(name, sets, "toolset")
        tools += known.members(name)
        given["tools"] = tools
    if "tools" in given:
        given["tools"] = tuple(given["tools"])
    annotations = where.into("annotations").read(given.get("annotations", {}), _ANNOTATIONS)
    arguments = tuple(
        _condition(path, condition, where.into("arguments", path))
        for path, condition in given.get("arguments", {}).items()
    )
    return Rule(name=where.name, **given | {"annotations": annotations, "arguments": arguments})


def _condition(path: str, table: object, where: _Where) -> Condition:
    given = where.read(where.table(table), _CONDITION)
    if len(given) != 1:
        raise where.wrong(f"must have one of {', '.join(_CONDITION)}, not {len(given)}")
    ((test, value),) = given.items()
    return Condition(path, cast(Test, test), value)


def _settings(table: object, where: _Where) -> dict[str, str]:
    """Each is tried alone, so that the one that is wrong is named."""
    known: dict[str, Reader] = {each.name: _setting for each in fields(Settings)}
    given: dict[str, str] = where.read(where.table(table), known)
    for name, text in given.items():
        try:
            Settings.from_env({f"F1_{name.upper()}": text})
        except InvalidRequest as error:
            raise where.into(name).wrong(f"is not understood: {error}") from None
    return given


class _Unfit(Exception):
    """A value is not what its key takes. The message says what that is."""


@dataclass(frozen=True, slots=True)
class _Where:
    """A place in a file."""

    file: Path
    path: tuple[str, ...] = ()

    def into(self, *names: str) -> _Where:
        return _Where(self.file, (*self.path, *map(_quoted, names)))

    def at(self, index: int) -> _Where:
        return _Where(self.file, (*self.path[:-1], f"{self.path[-1]}[{index}]"))

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def wrong(self, told: str) -> InvalidRequest:
        path = self.name
        return InvalidRequest(f"{self.file}: {path} {told}" if path else f"{self.file}: {told}",
                              param=path or None)  # fmt: skip

    def table(self, value: object) -> Table:
        if not isinstance(value, Mapping):
            raise self.wrong(f"must be a table, not {_shown(value)}")
        return value

    def read(self, table: Table, known: Mapping[str, Reader]) -> dict[str, Any]:
        """The values that are given. Raises InvalidRequest for the first that is wrong."""
        self.check_keys(table, known)
        found = {}
        for key, value in table.items():
            try:
                found[key] = known[key](value)
            except _Unfit as unfit:
                raise self.into(key).wrong(f"must be {unfit}, not {_shown(value)}") from None
        return found

    def check_keys(self, table: Table, known: Mapping[str, object] | frozenset[str]) -> None:
        for key in table:
            if key not in known:
                raise self.into(key).wrong(f"is not known{_meant(key, list(known))}")

    def check_name(self, name: str, known: Mapping[str, object], what: str) -> None:
        if name not in known:
            raise self.wrong(f"names no {what}: {name!r}{_meant(name, list(known))}")


def _meant(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name[:100]}"'


def _shown(value: object) -> str:
    return repr(value)[:100]


# --- values --------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Unfit("a text")
    return value


def _path(value: Any) -> Path:
    return Path(_text(value))


def _count(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _Unfit(f"an integer from {low} to {high}")
        return value

    return read


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 86400:
        raise _Unfit("a number of seconds up to 86400")
    return float(value)


def _size(value: Any) -> int:
    try:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if isinstance(value, str) and (size := parse_bytes(value)) > 0:
            return size
    except ValueError:
        pass
    raise _Unfit('a size in bytes such as "8GiB"')


def _names(value: Any) -> tuple[str, ...]:
    """One, or several in order."""
    listed = [value] if isinstance(value, str) else value
    fine = isinstance(listed, list) and listed and all(isinstance(n, str) and n for n in listed)
    if not fine or len(set(listed)) < len(listed):
        raise _Unfit("a name, or a list of different names")
    return tuple(listed)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _Unfit("a list of texts")
    return tuple(value)


def _some_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise _Unfit("a list of one text or more")
    return tuple(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


def _scalar(value: Any) -> Any:
    if not isinstance(value, str | int | float | bool):
        raise _Unfit("a text, a number, true or false")
    return value


def _pattern(value: Any) -> str:
    """Of RE2, as `matches` takes it."""
    try:
        matches(_text(value), "")
    except PatternError:
        raise _Unfit("a pattern of RE2") from None
    return cast(str, value)


def _word(*words: str) -> Reader:
    def read(value: Any) -> str:
        if value not in words:
            raise _Unfit(f"one of {', '.join(words)}")
        return cast(str, value)

    return read


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


def _any_table(value: Any) -> Table:
    if not isinstance(value, Mapping):
        raise _Unfit("a table")
    return value


def _url(value: Any) -> str:
    if not isinstance(value, str) or not re.match(r"https?://[^\s/]+", value):
        raise _Unfit('an address like "https://host/v1"')
    return value


def _setting(value: Any) -> str:
    if not isinstance(value, str | int):
        raise _Unfit("a text, a number, or true or false")
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


_MANY = 1 << 30
_TABLES = frozenset(
    "models roles memory defaults tools toolsets mcp approvals workers trace serve settings".split()
)
_LOCAL: dict[str, Reader] = {
    "model": _text,
    "path": _path,
    "context_length": _count(1, _MANY),
    "kv_memory": _size,
    "max_sequences": _count(1, 4096),
    "max_batch_tokens": _count(1, 1 << 20),
    "num_threads": _count(0, 4096),
}
_REMOTE: dict[str, Reader] = {
    "base_url": _url,
    "model": _text,
    "api_key_env": _text,
    "timeout": _seconds,
    "dialect": _word("openai", "f1"),
    "omit": _texts,
    "body": _any_table,
}
_ROLES: dict[str, Reader] = dict.fromkeys(ROLES, _names) | {"embedder": _text}
_DEFAULTS: dict[str, Reader] = {
    "strategy": _word(*get_args(StrategyName)),
    "budget": _any_table,
    "max_tools": _count(1, 512),
    "samples": _count(1, 32),
    "toolsets": _texts,
}
_BUDGET: dict[str, Reader] = {
    "steps": _count(1, 1024),
    "calls": _count(1, 1 << 16),
    "tokens": _count(1, _MANY),
    "seconds": _seconds,
}
_TOOLSET: dict[str, Reader] = {"tools": _texts}
_RULE: dict[str, Reader] = {
    "action": _word(*get_args(Action)),
    "tools": _some_texts,
    "toolsets": _some_texts,
    "annotations": _any_table,
    "arguments": _any_table,
    "taint": _word(*get_args(TaintKind)),
    "taint_in": _some_texts,
    "why": _text,
}
_ANNOTATIONS: dict[str, Reader] = {each.name: _flag for each in fields(Annotations)}
_CONDITION: dict[str, Reader] = {
    "is": _scalar,
    "is_not": _scalar,
    "contains": _pattern,
    "outside": _pattern,
}
_APPROVALS: dict[str, Reader] = {
    "unmatched": _word(*get_args(Action)),
    "approvers": _texts,
    "seconds": _seconds,
}
_WORKERS: dict[str, Reader] = {
    "environment": _texts,
    "memory_bytes": _size,
    "cpu_seconds": _seconds,
    "idle": _count(0, 64),
    "sandbox": _switch,
    "network": _switch,
    "readable": _texts,
    "processes": _count(1, 1 << 15),
    "disk_bytes": _size,
}
_TRACE: dict[str, Reader] = {"redact": _texts, "otlp": _url, "otlp_content": _flag}
_SERVE: dict[str, Reader] = {
    "host": _text,
    "port": _count(0, 65535),
    "keys_file": _path,
    "allowed_hosts": _texts,
    "allowed_origins": _texts,
}
