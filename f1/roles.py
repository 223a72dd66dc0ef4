"""The models behind the id `f1`: which there are, and which of them does what.

role ──f1.toml, or the request──▶ names ──▶ engine, or Fallback of several
router, caller, writer, verifier            (a pool's, or a server's)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import get_args

from f1.errors import InvalidRequest, ModelNotFound
from f1.planning.run import Engine, Role
from f1.pool import EnginePool, LocalEngine, Pooled

ROLES: tuple[Role, ...] = get_args(Role)
ORCHESTRATED = "f1"  # the model id that stands for the whole system


class Models:
    """`roles` has names of models: the next is for where the one before cannot be had. Without,
    the caller's is the first model of all, and the others' is the caller's.

    Raises InvalidRequest where a name is taken twice; ModelNotFound where a role's is not there.
    """

    def __init__(
        self,
        pool: EnginePool,
        remote: Mapping[str, Engine] | None = None,
        roles: Mapping[Role, tuple[str, ...]] | None = None,
    ):
        self.pool = pool
        self.started = False  # the models that the roles need first are loaded
        engines: dict[str, Engine] = {name: Pooled(pool, name) for name in pool.names}
        self._remote = dict(remote or {})
        self._engines = engines | self._remote
        self._given = dict(roles or {})
        self._default = tuple(self._engines)[:1]  # the caller's, where none is given
        for names in self._names({}).values():
            for name in names:
                self.engine(name)

    @classmethod
    def of(cls, engine: LocalEngine) -> Models:
        """One for all, that is loaded already."""
        models = cls(EnginePool.of(engine))
        models.started = True
        return models

    @property
    def names(self) -> list[str]:
        return list(self._engines)

    async def start(self) -> None:
        """Loads what the roles need first, as far as it all fits. Raises what loading raises where
        that is the caller's model; others are told of when they are asked for."""
        ahead: list[str] = []
        names = self._names({})
        for role in sorted(ROLES, key=lambda role: role != "caller"):
            name = names[role][0]
            if name in self.pool.names and name not in ahead and self.pool.fits([*ahead, name]):
                ahead.append(name)
                await self.pool.load(name)
        self.started = True

    async def close(self) -> None:
        """Ends what still runs."""
        await self.pool.close()
        for engine in self._remote.values():
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
        for role in asked or {}:
            if role not in ROLES:
                told = f"f1.roles: there is no role '{role[:100]}': they are {', '.join(ROLES)}"
                raise InvalidRequest(told, param="f1.roles")
        return {role: self._any_of(names) for role, names in self._names(asked or {}).items()}

    def _names(self, asked: Mapping[str, str]) -> dict[Role, tuple[str, ...]]:
        given = self._given | {role: (asked[role],) for role in ROLES if role in asked}
        caller = given.get("caller", self._default)
        return {role: given.get(role, caller) for role in ROLES}

    def _any_of(self, names: tuple[str, ...]) -> Engine:
        return self.engine(names[0])

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[LocalEngine]:
        """The engine that reads and writes the tokens of `name`; of `f1`, of the caller's model.
        Raises ModelNotFound, InvalidRequest where these are another server's, and what
        EnginePool.lease() raises."""
        local = self.local_name(name)
        async with self.pool.lease(local) as engine:
            yield engine

    def runs_here(self, name: str) -> bool:
        """Whether its tokens are read and written in this process. Raises ModelNotFound."""
        return self._name(name) in self.pool.names

    def local_name(self, name: str) -> str:
        """Raises ModelNotFound, InvalidRequest."""
        name = self._name(name)
        if name in self._remote:
            told = f"'{name}' is another server's model: its tokens are not known here"
            raise InvalidRequest(told, param="model")
        return name

    def context_length(self, name: str) -> int | None:
        """None where it is not known, or not yet. Raises ModelNotFound."""
        name = self._name(name)
        return self.pool.context_length(name) if name in self.pool.names else None

    def _name(self, name: str) -> str:
        """The model that is meant: of `f1`, the caller's."""
        if name == ORCHESTRATED:
            name = self._names({})["caller"][0]
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
