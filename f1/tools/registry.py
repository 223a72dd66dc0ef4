"""Tools that requests may name instead of sending: the operator's, which everybody sees, and each
tenant's own, which nobody else does.

    tools      "search"        a tool by its name; put again, it is another
    toolsets   "travel"        the latest version of a namespace of tools
               "travel@2"      that version, whatever was put since

A toolset holds its tools as they were when it was put. What a request has resolved it keeps,
whatever is put or removed while it runs. Where a tenant and the operator use one name, the
tenant's own goes first, for that tenant alone.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from threading import Lock
from typing import Generic, TypeVar

import orjson

from f1.errors import InvalidRequest
from f1.tools.spec import ToolSpec
from f1.tools.tables import check_name, check_spec, write_table

OPERATOR = None  # owns what is set in f1.toml; tenants are strings
MAX_VERSIONS = 16  # of a toolset that are kept; the oldest goes first
MAX_BYTES = 32 << 20  # of JSON that one tenant may have registered, old versions included

Tenant = str | None


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    spec: ToolSpec
    owner: Tenant
    created: int  # seconds since 1970
    num_bytes: int

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def id(self) -> str:
        return self.spec.name


@dataclass(frozen=True, slots=True)
class Toolset:
    """One version of it. `digest` is of its content: equal content is the same version."""

    name: str
    version: int
    tools: tuple[ToolSpec, ...]
    owner: Tenant
    created: int
    num_bytes: int
    digest: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


Entry = TypeVar("Entry", RegisteredTool, Toolset)


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    entries: tuple[Entry, ...]
    has_more: bool


@dataclass(slots=True)
class _Space:
    """What one owner has. Toolsets by name, their versions in order."""

    tools: dict[str, RegisteredTool] = field(default_factory=dict)
    toolsets: dict[str, tuple[Toolset, ...]] = field(default_factory=dict)
    num_bytes: int = 0


class Registry:
    """Thread-safe. `max_bytes` bounds each tenant; the operator may have as many as they like."""

    def __init__(self, *, max_bytes: int = MAX_BYTES):
        self._max_bytes = max_bytes
        self._spaces: dict[Tenant, _Space] = {}
        self._lock = Lock()

    # --- putting and removing --------------------------------------------------------------------

    def put_tool(self, tenant: Tenant, spec: ToolSpec) -> RegisteredTool:
        """Checks it, and keeps it in place of another of its name. Raises InvalidRequest naming the
        field."""
        check_spec(spec)
        return self.add(self.tool_to_be(tenant, spec))

    def put_toolset(self, tenant: Tenant, name: str, specs: Sequence[ToolSpec]) -> Toolset:
        """The same of a whole set: a new version of it, unless nothing has changed."""
        check_toolset(name, specs)
        return self.add(self.toolset_to_be(tenant, name, specs))

    def tool_to_be(self, tenant: Tenant, spec: ToolSpec) -> RegisteredTool:
        """What `add` would keep of a checked tool; the one there is where nothing has changed.
        Raises InvalidRequest if there is no room."""
        made = make_registered(tenant, spec)
        with self._lock:
            had = self._own(tenant).tools.get(spec.name)
            if had is not None and _equal(had.spec, spec):
                return had
            self._check_room(tenant, made.num_bytes - (had.num_bytes if had else 0))
        return made

    def toolset_to_be(self, tenant: Tenant, name: str, specs: Sequence[ToolSpec]) -> Toolset:
        """The same of a toolset."""
        made = make_toolset(tenant, name, 1, specs)
        with self._lock:
            versions = self._own(tenant).toolsets.get(name, ())
            if versions and _same(versions[-1], made):
                return versions[-1]
            freed = _size(versions[: len(versions) + 1 - MAX_VERSIONS])
            self._check_room(tenant, made.num_bytes - freed)
        return replace(made, version=versions[-1].version + 1) if versions else made

    def add(self, entry: Entry) -> Entry:
        """Keeps it, as it was made by `…_to_be`, or again from what was stored."""
        with self._lock:
            space = self._spaces.setdefault(entry.owner, _Space())
            if isinstance(entry, RegisteredTool):
                had = space.tools.get(entry.name)
                space.num_bytes += entry.num_bytes - (had.num_bytes if had else 0)
                space.tools[entry.name] = entry
            else:
                others = space.toolsets.get(entry.name, ())
                versions = {old.version: old for old in others} | {entry.version: entry}
                kept = tuple(versions[key] for key in sorted(versions))[-MAX_VERSIONS:]
                space.num_bytes += _size(kept) - _size(others)
                space.toolsets[entry.name] = kept
        return entry

    def remove_tool(self, tenant: Tenant, name: str) -> bool:
        """False where the tenant has none. Toolsets that were put with it keep it."""
        with self._lock:
            space = self._own(tenant)
            removed = space.tools.pop(name, None)
            space.num_bytes -= removed.num_bytes if removed else 0
        return removed is not None

    def remove_toolset(self, tenant: Tenant, name: str) -> bool:
        """All its versions, or with "name@2" that one."""
        name, version = parse_toolset(name)
        with self._lock:
            space = self._own(tenant)
            had = space.toolsets.pop(name, ())
            kept = tuple(old for old in had if version is not None and old.version != version)
            if kept:
                space.toolsets[name] = kept
            space.num_bytes -= _size(had) - _size(kept)
        return len(kept) < len(had)

    # --- looking up ------------------------------------------------------------------------------

    def tool(self, tenant: Tenant, name: str) -> RegisteredTool | None:
        with self._lock:
            return self._tool(tenant, name)

    def toolset(self, tenant: Tenant, name: str) -> Toolset | None:
        """The latest of that name, or with "name@2" that one."""
        with self._lock:
            return self._toolset(tenant, *parse_toolset(name))

    def tools(
        self, tenant: Tenant, *, after: str = "", limit: int = 100, backwards: bool = False
    ) -> Page[RegisteredTool]:
        """Those that the tenant sees, by name, from the one `after` that name on."""
        with self._lock:
            seen = {entry.name: entry for space in self._seen(tenant) for entry in
                    space.tools.values()}  # fmt: skip
        return _page(seen, after, limit, backwards)

    def toolsets(
        self, tenant: Tenant, *, after: str = "", limit: int = 100, backwards: bool = False
    ) -> Page[Toolset]:
        """The latest version of each."""
        with self._lock:
            seen = {name: versions[-1] for space in self._seen(tenant) for name, versions in
                    space.toolsets.items()}  # fmt: skip
        return _page(seen, after, limit, backwards)

    def resolve(
        self,
        tenant: Tenant,
        tools: Sequence[str] = (),
        toolsets: Sequence[str] = (),
        *,
        param: str = "f1",
    ) -> tuple[ToolSpec, ...]:
        """The tools of those names, then those of the toolsets, each once. Raises InvalidRequest
        naming the entry that is not registered for this tenant, or holds another tool of a name
        that is there already."""
        found: dict[str, ToolSpec] = {}
        whole: list[Toolset] = []
        with self._lock:
            for index, name in enumerate(tools):
                where, tool = f"{param}.tools[{index}]", self._tool(tenant, name)
                if tool is None:
                    raise _unknown(where, f"no tool '{name[:100]}' is registered")
                _take(found, tool.spec, where)
            for index, name in enumerate(toolsets):
                where = f"{param}.toolsets[{index}]"
                toolset = self._toolset(tenant, *parse_toolset(name))
                if toolset is None:
                    raise _unknown(where, f"no toolset '{name[:100]}' is registered")
                whole.append(toolset)
                for spec in toolset.tools:
                    _take(found, spec, where)
        # A toolset alone is the same object each time: what is made of it can be kept.
        return whole[0].tools if len(whole) == 1 and not tools else tuple(found.values())

    # --- with the lock ---------------------------------------------------------------------------

    def _own(self, tenant: Tenant) -> _Space:
        return self._spaces.get(tenant) or _Space()

    def _seen(self, tenant: Tenant) -> list[_Space]:
        """The later one goes before the others."""
        owners = (OPERATOR,) if tenant is OPERATOR else (OPERATOR, tenant)
        return [self._own(owner) for owner in owners]

    def _tool(self, tenant: Tenant, name: str) -> RegisteredTool | None:
        for space in reversed(self._seen(tenant)):
            if (tool := space.tools.get(name)) is not None:
                return tool
        return None

    def _toolset(self, tenant: Tenant, name: str, version: int | None) -> Toolset | None:
        for space in reversed(self._seen(tenant)):
            for toolset in reversed(space.toolsets.get(name, ())):
                if version in (None, toolset.version):
                    return toolset
        return None

    def _check_room(self, tenant: Tenant, more: int) -> None:
        held = self._own(tenant).num_bytes
        if tenant is not OPERATOR and held + more > self._max_bytes:
            told = f"{held} bytes of tools are registered, {more} more would be over {{}}"
            raise InvalidRequest(told.format(self._max_bytes), param="tools", code="no_room")


def make_registered(tenant: Tenant, spec: ToolSpec, created: int | None = None) -> RegisteredTool:
    created = int(time.time()) if created is None else created
    return RegisteredTool(spec, tenant, created, len(_text(spec)))


def make_toolset(
    tenant: Tenant,
    name: str,
    version: int,
    specs: Sequence[ToolSpec],
    created: int | None = None,
) -> Toolset:
    texts = [_text(spec) for spec in specs]
    digest = blake2b(b"\n".join(texts), digest_size=16).digest()
    created = int(time.time()) if created is None else created
    return Toolset(name, version, tuple(specs), tenant, created, sum(map(len, texts)), digest)


def check_toolset(name: str, specs: Sequence[ToolSpec], *, param: str = "tools") -> None:
    """Raises InvalidRequest naming the first field that is wrong."""
    check_name(name, "name")
    seen = set[str]()
    for index, spec in enumerate(specs):
        if spec.name in seen:
            told = f"'{param}[{index}].name' is given twice: '{spec.name}'"
            raise InvalidRequest(told, param=f"{param}[{index}].name")
        seen.add(spec.name)
        check_spec(spec, f"{param}[{index}].")


def parse_toolset(text: str) -> tuple[str, int | None]:
    """ "travel@2" → ("travel", 2); "travel" → ("travel", None). What is no version is no toolset's
    either: 0."""
    name, at, version = text.partition("@")
    if not at:
        return name, None
    good = version.isascii() and version.isdigit() and len(version) <= 9
    return name, int(version) if good else 0


def _take(found: dict[str, ToolSpec], spec: ToolSpec, where: str) -> None:
    had = found.setdefault(spec.name, spec)
    if not _equal(had, spec):
        told = f"'{where}' holds another '{spec.name}' than what is named before it"
        raise InvalidRequest(told, param=where, code="name_taken")


def _unknown(where: str, told: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}': {told}", param=where, code="tool_not_found")


def _same(one: Toolset, other: Toolset) -> bool:
    if one.digest != other.digest:
        return False
    pairs = zip(one.tools, other.tools, strict=True)
    return all(old.runner == new.runner for old, new in pairs)


def _equal(one: ToolSpec, other: ToolSpec) -> bool:
    return one is other or (_text(one) == _text(other) and one.runner == other.runner)


def _size(toolsets: Iterable[Toolset]) -> int:
    return sum(toolset.num_bytes for toolset in toolsets)


def _text(spec: ToolSpec) -> bytes:
    """All that it says, but how it is run. The order of keys counts: the model sees it."""
    return orjson.dumps([spec.name, write_table(spec)])


def _page(seen: Mapping[str, Entry], after: str, limit: int, backwards: bool) -> Page[Entry]:
    names = sorted(seen)
    if backwards:
        end = len(names) if not after else bisect_right(names, after)
        names = [name for name in names[:end] if name != after][::-1]
    else:
        names = names[bisect_right(names, after) :]
    return Page(tuple(seen[name] for name in names[:limit]), len(names) > limit)
