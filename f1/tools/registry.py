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
MAX_REMOVED = 1024  # names of removed toolsets whose numbers are remembered, of each owner
MAX_NAMED = 20_000  # tools that one request may name in all, each as often as it is named
MAX_BYTES = 32 << 20  # of JSON that one tenant may have registered, old versions included

Tenant = str | None
Said = tuple[ToolSpec, bytes]  # a tool, and the digest of what it says


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    spec: ToolSpec
    owner: Tenant
    created: int  # seconds since 1970
    num_bytes: int
    digest: bytes = field(repr=False)  # of what it says

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def id(self) -> str:
        return self.spec.name


@dataclass(frozen=True, slots=True)
class Toolset:
    """One version of it. `digest` is of its content: equal content is the same version; `digests`
    are of each tool."""

    name: str
    version: int
    tools: tuple[ToolSpec, ...]
    owner: Tenant
    created: int
    num_bytes: int
    digest: bytes = field(repr=False)
    digests: tuple[bytes, ...] = field(repr=False)

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
    """What one owner has. Toolsets by name, their versions in order; `removed`: the highest number
    that a removed version had, where none after it is there."""

    tools: dict[str, RegisteredTool] = field(default_factory=dict)
    toolsets: dict[str, tuple[Toolset, ...]] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
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
            if had is not None and _equal((had.spec, had.digest), (spec, made.digest)):
                return had
            self._check_room(tenant, made.num_bytes - (had.num_bytes if had else 0))
        return made

    def toolset_to_be(self, tenant: Tenant, name: str, specs: Sequence[ToolSpec]) -> Toolset:
        """The same of a toolset."""
        made = make_toolset(tenant, name, 1, specs)
        with self._lock:
            space = self._own(tenant)
            versions = space.toolsets.get(name, ())
            if versions and _same(versions[-1], made):
                return versions[-1]
            freed = _size(versions[: len(versions) + 1 - MAX_VERSIONS])
            self._check_room(tenant, made.num_bytes - freed)
            given = max(versions[-1].version if versions else 0, space.removed.get(name, 0))
        return replace(made, version=given + 1)

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
                if entry.version >= space.removed.get(entry.name, 0):
                    space.removed.pop(entry.name, None)
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
            if had and had[-1] not in kept[-1:]:
                self._remember(space, name, had[-1].version)
        return len(kept) < len(had)

    def never_again(self, tenant: Tenant, name: str, version: int) -> None:
        """What was removed had this number: the next one has a higher one."""
        with self._lock:
            self._remember(self._spaces.setdefault(tenant, _Space()), name, version)

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
        naming the entry that is not registered for this tenant, holds another tool of a name that
        is there already, or is one too many."""
        single: list[RegisteredTool] = []
        whole: list[Toolset] = []
        with self._lock:
            for index, name in enumerate(tools):
                where, tool = f"{param}.tools[{index}]", self._tool(tenant, name)
                if tool is None:
                    raise _unknown(where, f"no tool '{name[:100]}' is registered")
                single.append(tool)
            for index, name in enumerate(toolsets):
                where = f"{param}.toolsets[{index}]"
                toolset = self._toolset(tenant, *parse_toolset(name))
                if toolset is None:
                    raise _unknown(where, f"no toolset '{name[:100]}' is registered")
                whole.append(toolset)
        if len(whole) == 1 and not single:
            return whole[0].tools  # the same object each time: what is made of it can be kept
        return _united(single, whole, param)

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
            if (versions := space.toolsets.get(name)) is not None:  # one's own hides all of another
                found = (old for old in reversed(versions) if version in (None, old.version))
                return next(found, None)
        return None

    def _remember(self, space: _Space, name: str, version: int) -> None:
        space.removed[name] = max(version, space.removed.pop(name, 0))
        if len(space.removed) > MAX_REMOVED:
            del space.removed[next(iter(space.removed))]

    def _check_room(self, tenant: Tenant, more: int) -> None:
        held = self._own(tenant).num_bytes
        if tenant is not OPERATOR and held + more > self._max_bytes:
            told = f"{held} bytes of tools are registered, {more} more would be over {{}}"
            raise InvalidRequest(told.format(self._max_bytes), param="tools", code="no_room")


def make_registered(tenant: Tenant, spec: ToolSpec, created: int | None = None) -> RegisteredTool:
    created = int(time.time()) if created is None else created
    text = _text(spec)
    return RegisteredTool(spec, tenant, created, len(text), _digest(text))


def make_toolset(
    tenant: Tenant,
    name: str,
    version: int,
    specs: Sequence[ToolSpec],
    created: int | None = None,
) -> Toolset:
    texts = [_text(spec) for spec in specs]
    digests = tuple(map(_digest, texts))
    created = int(time.time()) if created is None else created
    size, whole = sum(map(len, texts)), _digest(b"".join(digests))
    return Toolset(name, version, tuple(specs), tenant, created, size, whole, digests)


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


def _united(
    single: Sequence[RegisteredTool], whole: Sequence[Toolset], param: str
) -> tuple[ToolSpec, ...]:
    found: dict[str, Said] = {}
    for index, tool in enumerate(single):
        _take(found, (tool.spec, tool.digest), f"{param}.tools[{index}]")
    num_named = len(single)
    for index, toolset in enumerate(whole):
        where = f"{param}.toolsets[{index}]"
        num_named += len(toolset.tools)
        if num_named > MAX_NAMED:
            told = f"'{where}': a request may name {MAX_NAMED} tools in all; up to this there are"
            raise InvalidRequest(f"{told} {num_named}", param=where)
        for said in zip(toolset.tools, toolset.digests, strict=True):
            _take(found, said, where)
    return tuple(spec for spec, _ in found.values())


def _take(found: dict[str, Said], said: Said, where: str) -> None:
    spec, _ = said
    if not _equal(found.setdefault(spec.name, said), said):
        told = f"'{where}' holds another '{spec.name}' than what is named before it"
        raise InvalidRequest(told, param=where, code="name_taken")


def _unknown(where: str, told: str) -> InvalidRequest:
    return InvalidRequest(f"'{where}': {told}", param=where, code="tool_not_found")


def _same(one: Toolset, other: Toolset) -> bool:
    if one.digest != other.digest:
        return False
    pairs = zip(one.tools, other.tools, strict=True)
    return all(old.runner == new.runner for old, new in pairs)


def _equal(one: Said, other: Said) -> bool:
    same = one[0] is other[0]
    return same or (one[1] == other[1] and one[0].runner == other[0].runner)


def _size(toolsets: Iterable[Toolset]) -> int:
    return sum(toolset.num_bytes for toolset in toolsets)


def _text(spec: ToolSpec) -> bytes:
    """All that it says, but how it is run. The order of keys counts: the model sees it."""
    return orjson.dumps([spec.name, write_table(spec)])


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


def _page(seen: Mapping[str, Entry], after: str, limit: int, backwards: bool) -> Page[Entry]:
    names = sorted(seen)
    if backwards:
        end = len(names) if not after else bisect_right(names, after)
        names = [name for name in names[:end] if name != after][::-1]
    else:
        names = names[bisect_right(names, after) :]
    return Page(tuple(seen[name] for name in names[:limit]), len(names) > limit)
