"""The models behind the id `f1`: which there are, and which of them does what.

role ──f1.toml, or the request──▶ names ──▶ an engine, or Fallback over several
router, caller, writer, verifier            (of this process's pool, or on a server)
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from f1.apart.engine import ApartEngine
from f1.config import ORCHESTRATED, ROLES, Config, LocalModel, RemoteModel
from f1.errors import InvalidRequest, ModelNotFound
from f1.fallback import Fallback, Outages
from f1.models.pull import resolve
from f1.planning.run import Engine, Role
from f1.pool import SLACK, EnginePool, Loadable, LocalEngine, Pooled
from f1.settings import Settings

Connect = Callable[[str, RemoteModel], Engine]  # its name here; raises InvalidRequest
_MACHINES_SHARE = 0.75  # of its memory, for models that share it, where f1.toml does not say


class Models:
    """`engines` are all that decode, by name; those of `pool` among them. `roles` has names of
    them, the next for where the one before cannot be had. Without, the caller's is the first of
    `engines`, and the others' the caller's. Raises ModelNotFound where a role's is not there.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        pool: EnginePool,
        roles: Mapping[Role, tuple[str, ...]] | None = None,
    ):
        self.pool = pool
        self.started = False  # what the roles need first is loaded
        self._engines = dict(engines)
        self._given = dict(roles or {})
        self._default = tuple(self._engines)[:1]
        self._outages = Outages()
        for names in self._names({}).values():
            for name in names:
                self.engine(name)

    @classmethod
    def of(cls, engine: LocalEngine) -> Models:
        """One for all, that is loaded already."""
        pool = EnginePool.of(engine)
        models = cls({engine.model_id: engine}, pool)
        models.started = True
        return models

    @property
    def names(self) -> list[str]:
        return list(self._engines)

    async def start(self) -> None:
        """Loads what the roles need first, the caller's first, as far as it all fits. Raises what
        loading raises."""
        names = self._names({})
        ahead: list[str] = []
        for role in sorted(ROLES, key=lambda role: role != "caller"):
            name = self._first(names[role])
            if name in self.pool.names and name not in ahead and self.pool.fits([*ahead, name]):
                ahead.append(name)
                await self.pool.load(name)
        self.started = True

    def check_room(self) -> None:
        """Raises InvalidRequest where no model of a role would ever fit the memory there is."""
        for role, names in sorted(self._names({}).items(), key=lambda item: item[0] != "caller"):
            told = [why for name in names if (why := self._never_fits(name)) is not None]
            if len(told) == len(names):
                why = f"{'; '.join(told)} (memory.models)"
                raise InvalidRequest(f"roles.{role}: {why}", param="memory.models")

    def _first(self, names: tuple[str, ...]) -> str:
        """The one that is asked first, of those that may fit."""
        return next((name for name in names if self._never_fits(name) is None), names[0])

    def _never_fits(self, name: str) -> str | None:
        return self.pool.never_fits(name) if name in self.pool.names else None

    async def close(self) -> None:
        """Ends what still runs."""
        await self.pool.close()
        for engine in self._engines.values():
            if (close := getattr(engine, "aclose", None)) is not None:
                await close()

    def engine(self, name: str) -> Engine:
        """Raises ModelNotFound."""
        if (engine := self._engines.get(name)) is not None:
            return engine
        known = ", ".join(self._engines)
        raise ModelNotFound(f"no model '{name[:100]}': there is {known}", param="model")

    def roles(self, asked: Mapping[str, str] | None = None) -> Mapping[Role, Engine]:
        """Who does what, with what a request asks for in place of what is set. Raises
        InvalidRequest, ModelNotFound."""
        for role, name in (asked or {}).items():
            if role not in ROLES:
                told = f"there is no role '{role[:100]}': they are {', '.join(ROLES)}"
                raise InvalidRequest(f"f1.roles: {told}", param="f1.roles")
            if name not in self._engines:
                known = ", ".join(self._engines)
                told = f"no model '{name[:100]}': there is {known}"
                raise ModelNotFound(f"f1.roles.{role}: {told}", param=f"f1.roles.{role}")
        return {role: self._any_of(names) for role, names in self._names(asked or {}).items()}

    def _names(self, asked: Mapping[str, str]) -> dict[Role, tuple[str, ...]]:
        given = self._given | {role: (asked[role],) for role in ROLES if role in asked}
        caller = given.get("caller", self._default)
        return {role: given.get(role, caller) for role in ROLES}

    def _any_of(self, names: tuple[str, ...]) -> Engine:
        if len(names) == 1:
            return self._engines[names[0]]
        return Fallback({name: self._engines[name] for name in names}, self._outages)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LocalEngine]:
        """The engine that reads and writes the tokens of `name`; of `f1`, of the caller's model.
        Raises ModelNotFound, InvalidRequest where these are another server's, and what
        EnginePool.lease() raises."""
        name = self._plain(name)
        if name not in self.pool.names:
            told = f"'{name}' is another server's model: its tokens are not known here"
            raise InvalidRequest(told, param="model")
        async with self.pool.lease(name) as engine:
            yield engine

    def runs_here(self, name: str) -> bool:
        """Whether its tokens are read and written in this process. Raises ModelNotFound."""
        return self._plain(name) in self.pool.names

    def context_length(self, name: str) -> int | None:
        """None where it is not known, or not yet. Raises ModelNotFound."""
        name = self._plain(name)
        return self.pool.context_length(name) if name in self.pool.names else None

    def _plain(self, name: str) -> str:
        name = self._first(self._names({})["caller"]) if name == ORCHESTRATED else name
        self.engine(name)
        return name

    def loaded(self) -> Mapping[str, LocalEngine]:
        """Engines in this process, by name. Thread-safe."""
        return self.pool.loaded()

    def healthy(self) -> bool:
        """Those that are loaded have got on with their work lately."""
        return all(engine.healthy() for engine in self.loaded().values())

    def failed(self) -> bool:
        """One will answer no more."""
        return any(engine.failed() for engine in self.loaded().values())


def open_models(
    config: Config, settings: Settings, connect: Connect, *, apart: bool = False
) -> Models:
    """The models of a file; files that are not here yet are fetched, nothing is loaded. `apart`:
    each is to run in a process of its own. Raises InvalidRequest, also where a role has no model
    that fits; ModelNotFound, DownloadError."""
    local = {name: m for name, m in config.models.items() if isinstance(m, LocalModel)}
    loadables = [_loadable(name, m, settings, apart) for name, m in local.items()]
    cap = config.memory
    if cap is None and len(local) > 1:
        cap = _machines_share()
    pool = EnginePool(loadables, cap)
    engines = {
        name: connect(name, model) if isinstance(model, RemoteModel) else Pooled(pool, name)
        for name, model in config.models.items()
        if name != config.embedder
    }
    models = Models(engines, pool, config.roles)
    models.check_room()
    return models


def _loadable(name: str, model: LocalModel, settings: Settings, apart: bool) -> Loadable:
    own = replace(settings, **model.settings)
    path = resolve(model.source, own)

    def load_apart() -> LocalEngine:
        return ApartEngine.start(model.source, own)

    def load() -> LocalEngine:
        from f1.engine import AsyncEngine  # takes seconds, and who only asks servers has none

        engine = AsyncEngine.start(model.source, own)
        try:
            engine.warm()
        except BaseException:
            engine.close()
            raise
        return engine

    return Loadable(name, _weights(path) + own.kv_memory + SLACK, load_apart if apart else load)


def _weights(path: Path) -> int:
    """Bytes of a file, or of a folder's tensors: packed they take as much."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _machines_share() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return int(_MACHINES_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
