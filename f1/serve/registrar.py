"""Registering tools with a server: checked, made ready, stored, and only then seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from f1.errors import Forbidden, InvalidRequest, InvalidSchema, NotFound
from f1.serve.wire.fields import refuse
from f1.store.tools import StoredEntry, ToolStore
from f1.tools.registry import (
    MAX_REMOVED,
    MAX_VERSIONS,
    Entry,
    RegisteredTool,
    Registry,
    Toolset,
    check_toolset,
    make_registered,
    make_toolset,
    parse_toolset,
)
from f1.tools.spec import ToolSpec
from f1.tools.tables import check_spec, read_table, write_table

Json = Mapping[str, Any]
Prepare = Callable[[Sequence[ToolSpec]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Registrar:
    """One for an app. `new`: an entry of that name that says something else is not replaced."""

    registry: Registry = field(default_factory=Registry)
    store: ToolStore = field(default_factory=lambda: ToolStore(None))
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # of all that is put and removed

    def load(self) -> None:
        """What tenants registered before. Raises NotStored."""
        for stored in self.store.load():
            tenant, name, created = stored.tenant, stored.name, stored.created
            if stored.version == 0:
                self.registry.add(make_registered(tenant, read_table(name, stored.body), created))
                continue
            if stored.body is None:
                self.registry.never_again(tenant, name, stored.version)
                continue
            specs = [_read_named(table) for table in stored.body]
            self.registry.add(make_toolset(tenant, name, stored.version, specs, created))

    async def put_tool(
        self, tenant: str, spec: ToolSpec, prepare: Prepare, *, new: bool = False
    ) -> RegisteredTool:
        """Raises InvalidRequest naming the field, NotStored."""
        await asyncio.to_thread(check_spec, spec)
        await _prepared(prepare, [spec], lambda index: "")

        async def put() -> RegisteredTool:
            async with self._lock:
                entry = self.registry.tool_to_be(tenant, spec)
                had = _own(self.registry.tool(tenant, spec.name), tenant)
                if had is entry:
                    return entry
                if new and had is not None:
                    raise _taken(spec.name)
                body = write_table(spec)
                await self.store.put(StoredEntry(tenant, spec.name, 0, entry.created, body))
                return self.registry.add(entry)

        return await asyncio.shield(put())  # both or neither, also if the client goes away

    async def put_toolset(
        self,
        tenant: str,
        name: str,
        tools: Sequence[ToolSpec | str],
        prepare: Prepare,
        *,
        new: bool = False,
    ) -> Toolset:
        """The same of a set; strings are names of registered tools."""
        specs = [self._found(tenant, tool, index) for index, tool in enumerate(tools)]
        await asyncio.to_thread(check_toolset, name, specs)
        await _prepared(prepare, specs, lambda index: f"tools[{index}].")

        async def put() -> Toolset:
            async with self._lock:
                entry = await asyncio.to_thread(self.registry.toolset_to_be, tenant, name, specs)
                had = _own(self.registry.toolset(tenant, name), tenant)
                if had is entry:
                    return entry
                if new and had is not None:
                    raise _taken(name)
                body = [{"name": spec.name} | write_table(spec) for spec in specs]
                stored = StoredEntry(tenant, name, entry.version, entry.created, body)
                await self.store.put(stored, keep=MAX_VERSIONS)
                return self.registry.add(entry)

        return await asyncio.shield(put())

    async def remove_tool(self, tenant: str, name: str) -> None:
        """Raises NotFound, Forbidden, NotStored."""
        async with self._lock:
            _check_own(self.registry.tool(tenant, name), tenant, name, "tool")
            await self.store.delete(tenant, name, 0)
            self.registry.remove_tool(tenant, name)

    async def remove_toolset(self, tenant: str, name: str) -> None:
        """All versions, or with "name@2" that one."""
        async with self._lock:
            _check_own(self.registry.toolset(tenant, name), tenant, name, "toolset")
            await self.store.delete(tenant, *parse_toolset(name), remember=MAX_REMOVED)
            self.registry.remove_toolset(tenant, name)

    def _found(self, tenant: str, tool: ToolSpec | str, index: int) -> ToolSpec:
        if isinstance(tool, ToolSpec):
            return tool
        entry = self.registry.tool(tenant, tool)
        if entry is None:
            raise refuse(f"tools[{index}]", "names no registered tool", code="tool_not_found")
        if entry.spec.runner is not None:
            told = "is run by the server: name it in requests, beside the toolset"
            raise refuse(f"tools[{index}]", told, code="runner_not_allowed")
        return entry.spec


async def _prepared(
    prepare: Prepare, specs: Sequence[ToolSpec], path: Callable[[int], str]
) -> None:
    """Names fields as the body does: `path` is what stands before those of a tool."""
    try:
        await prepare(specs)
    except InvalidSchema as error:
        for index, spec in enumerate(specs):
            head = f"tools.{spec.name}."
            if (error.param or "").startswith(head):
                where = path(index) + (error.param or "").removeprefix(head)
                raise InvalidSchema(error.message, param=where) from None
        raise


def _own(entry: Entry | None, tenant: str) -> Entry | None:
    return entry if entry is not None and entry.owner == tenant else None


def _check_own(entry: RegisteredTool | Toolset | None, tenant: str, name: str, kind: str) -> None:
    if entry is None:
        raise NotFound(f"no {kind} '{name[:100]}' is registered", param="name")
    if entry.owner != tenant:
        raise Forbidden(f"the {kind} '{name}' is the operator's", param="name")


def _taken(name: str) -> InvalidRequest:
    told = f"'name': another '{name}' is registered; PUT replaces it"
    return InvalidRequest(told, param="name", code="name_taken")


def _read_named(table: Json) -> ToolSpec:
    rest = {key: value for key, value in table.items() if key != "name"}
    return read_table(table["name"], rest)
